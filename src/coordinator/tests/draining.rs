//! Nodes that leave in order: no work is lost, none of it counts, and it is no fault.

use super::mesh::*;
use crate::coordinator::breaker::State as Breaker;
use crate::coordinator::decision::{Effect, Reply};
use crate::coordinator::event::{Event, FaultAnswer, RecoveryStep, RunEvent};
use crate::coordinator::input::Input;
use crate::coordinator::message::Message;
use crate::coordinator::settings::Settings;
use crate::types::{FaultCause, NodeStatus, Outcome, RunId, Stage};

const DRAINING: (NodeStatus, Option<FaultCause>) = (NodeStatus::Degraded, Some(FaultCause::Draining));
const FAILED: (NodeStatus, Option<FaultCause>) = (NodeStatus::Failed, Some(FaultCause::Operator));
const LEFT: (NodeStatus, Option<FaultCause>) = (NodeStatus::Initializing, None);
const OTHERS: [&str; 3] = [ARCHITECT, DOCS, INTEGRATION];

fn answer(reply: Reply) -> FaultAnswer {
    match reply {
        Reply::Fault(answer) => *answer,
        other => panic!("no answer: {other:?}"),
    }
}

/// The node says that it was asked to end.
pub(super) fn asked_to_end(mesh: &mut TestMesh, name: &str) {
    let session = mesh.session(name);
    mesh.input(Input::NodeDraining { session, node: node(name), reason: "SIGTERM".into() });
}

/// Whether the run knows of a fault, or of an attempt that counts.
fn is_disturbed(mesh: &TestMesh, run: &RunId) -> bool {
    mesh.log(run).iter().any(|event| {
        matches!(
            event,
            RunEvent::NodeFault { .. }
                | RunEvent::AttemptFailed { counts: true, .. }
                | RunEvent::Redistributed { counts: true, .. }
        )
    })
}

/// How often the last input told a node that it may end.
fn dismissed(mesh: &TestMesh) -> usize {
    mesh.sent().iter().filter(|(_, message)| matches!(message, Message::Shutdown { .. })).count()
}

fn detail<'a>(mesh: &'a TestMesh, name: &str) -> &'a str {
    &mesh.core.state().members[&node(name)].detail
}

#[test]
fn a_drained_node_finishes_what_it_has_and_gets_no_more() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 2);
    let had = mesh.running_on(BACKEND);
    assert_eq!(had.len(), 2);
    let answer = answer(mesh.input(draining("d", BACKEND, 30)));
    assert_eq!(mesh.status(BACKEND), DRAINING);
    assert_eq!(mesh.effects, [], "what it runs goes on");
    assert_eq!((answer.redistributed.len(), answer.healthy_nodes.len()), (0, 3));
    assert!(answer.steps[0].contains("its 2 running tasks have 30 s"), "{:?}", answer.steps);
    assert!((mesh.core.state().health() - 0.75).abs() < 1e-12);
    mesh.finish(&had[0]);
    assert_eq!(mesh.running_on(BACKEND).len(), 1);
    mesh.finish(&had[1]);
    assert_eq!(mesh.running_on(BACKEND), []);
    assert_eq!(detail(&mesh, BACKEND), "it finished what it ran; it can be stopped without loss");
    mesh.pass_with(&ALL, seconds(60));
    mesh.drain();
    assert_eq!((mesh.outcome(&run), mesh.status(BACKEND)), (Some(Outcome::Clean), DRAINING));
    assert!(!is_disturbed(&mesh, &run) && mesh.run(&run).tasks.iter().all(|task| task.retries == 0));
}

#[test]
fn what_is_not_finished_in_time_goes_to_others_and_does_not_count() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    let had = mesh.running_on(BACKEND);
    mesh.input(draining("d", BACKEND, 10));
    mesh.pass_with(&ALL, seconds(9));
    assert_eq!(mesh.running_on(BACKEND).len(), had.len());
    mesh.pass_with(&ALL, seconds(2));
    assert_eq!(mesh.running_on(BACKEND), []);
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2);
    assert_eq!(detail(&mesh, BACKEND), "2 tasks did not end in time and went to others; it can be stopped");
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(!is_disturbed(&mesh, &run));
    let breaker = mesh.core.presences()[&node(BACKEND)].breaker.state(mesh.now);
    assert_eq!(breaker, Breaker::Closed);
}

#[test]
fn no_time_at_all_hands_the_work_over_in_the_answer() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["mypy", "ruff"], 1);
    let answer = answer(mesh.input(draining("d", BACKEND, 0)));
    assert_eq!(answer.redistributed.len(), 2);
    assert!(answer.redistributed.iter().all(|(_, _, to)| to.as_ref().is_some_and(|to| *to != node(BACKEND))));
}

#[test]
fn a_node_stays_drained_over_reconnects_and_restarts_until_it_is_recovered() {
    let mut mesh = TestMesh::full();
    mesh.input(draining("d", BACKEND, 30));
    mesh.reconnect(BACKEND, &[], &[]);
    assert_eq!(mesh.status(BACKEND), DRAINING);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), DRAINING);
    mesh.pass_with(&ALL, seconds(20));
    assert_eq!(mesh.status(BACKEND), DRAINING, "its heartbeats do not overrule the operator");
    mesh.planned(&["ruff"], 3);
    assert_eq!(mesh.running_on(BACKEND), []);
    let answer = answer(mesh.input(recovering("r", BACKEND)));
    assert!(answer.steps[0].contains("no longer drained"), "{:?}", answer.steps);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None));
    assert!(!mesh.core.state().members[&node(BACKEND)].drained);
}

#[test]
fn a_drained_node_whose_process_is_gone_is_not_started() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    mesh.input(draining("d", BACKEND, 30));
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    mesh.pass_with(&OTHERS, seconds(100));
    assert_eq!(mesh.core.recoveries().attempted(), 0);
    assert_eq!(detail(&mesh, BACKEND), "it is drained: recover it to start it");
    mesh.input(recovering("r", BACKEND));
    assert!(matches!(mesh.effects[..], [Effect::RestartProcess { .. }]), "{:?}", mesh.effects);
}

#[test]
fn a_drain_ends_the_attempts_to_start_a_node() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    mesh.input(Input::RestartFailed { node: node(BACKEND), start: 1, reason: "no memory".into() });
    let answer = answer(mesh.input(draining("d", BACKEND, 30)));
    assert!(answer.steps[0].contains("no work when it comes back"), "{:?}", answer.steps);
    mesh.pass_with(&OTHERS, seconds(100));
    assert_eq!(mesh.core.recoveries().attempted(), 1);
    assert_eq!(detail(&mesh, BACKEND), "it is drained: recover it to start it");
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), DRAINING);
}

#[test]
fn a_node_that_is_asked_to_end_finishes_and_goes_without_a_fault() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 2);
    let had = mesh.running_on(BACKEND);
    asked_to_end(&mut mesh, BACKEND);
    assert_eq!((mesh.status(BACKEND), mesh.effects.len()), (DRAINING, 0));
    for lint in &had {
        mesh.finish(lint);
    }
    assert_eq!(mesh.running_on(BACKEND), []);
    assert_eq!(dismissed(&mesh), 1, "it knows that its last result arrived");
    mesh.beat(BACKEND);
    assert_eq!(dismissed(&mesh), 0, "once");
    mesh.disconnect(BACKEND);
    assert_eq!(mesh.status(BACKEND), LEFT);
    assert_eq!(detail(&mesh, BACKEND), "it left in order: SIGTERM");
    mesh.pass_with(&OTHERS, seconds(100));
    assert_eq!(mesh.status(BACKEND), LEFT, "nobody waits for it");
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(!is_disturbed(&mesh, &run) && mesh.run(&run).faults.is_empty());
    assert_eq!(mesh.core.presences()[&node(BACKEND)].breaker.state(mesh.now), Breaker::Closed);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None), "a new process is welcome");
}

#[test]
fn a_node_that_goes_with_work_left_loses_none_of_it_and_none_counts() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    asked_to_end(&mut mesh, BACKEND);
    mesh.disconnect(BACKEND);
    assert_eq!(mesh.status(BACKEND), DRAINING, "its connection may only have broken");
    mesh.pass_with(&OTHERS, seconds(2));
    assert_eq!(mesh.status(BACKEND), LEFT);
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(!is_disturbed(&mesh, &run) && mesh.run(&run).faults.is_empty());
}

#[test]
fn a_leaving_node_that_reconnects_says_so_again_and_keeps_its_work() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["mypy", "ruff"], 1);
    let had = mesh.running_on(BACKEND);
    asked_to_end(&mut mesh, BACKEND);
    mesh.disconnect(BACKEND);
    let mut again = hello(BACKEND, 1);
    again.draining = true;
    again.running = had.iter().map(|assign| assign.attempt.clone()).collect();
    mesh.connect(again);
    assert_eq!((mesh.status(BACKEND), mesh.running_on(BACKEND).len()), (DRAINING, 2));
}

#[test]
fn a_launched_node_that_ends_in_order_is_started_again() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    asked_to_end(&mut mesh, BACKEND);
    assert_eq!(dismissed(&mesh), 1, "it has nothing to finish");
    mesh.disconnect(BACKEND);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    assert!(matches!(mesh.effects[..], [Effect::RestartProcess { start: 1, .. }]), "{:?}", mesh.effects);
    assert_eq!(mesh.status(BACKEND), LEFT);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Active);
    let failed = mesh
        .events
        .iter()
        .any(|event| matches!(event, Event::NodeStatusChanged { status: NodeStatus::Failed, .. }));
    assert!(!failed, "it was no fault");
    let left = mesh
        .events
        .iter()
        .filter(|event| matches!(event, Event::NodeRecovery { step: RecoveryStep::Left, .. }));
    assert_eq!(left.count(), 1);
}

#[test]
fn nodes_that_a_stopping_coordinator_ends_are_no_faults_and_are_not_started() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    mesh.planned(&["ruff"], 2);
    mesh.input(Input::Stopping);
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Active, "as long as it is there");
    for name in ALL {
        mesh.disconnect(name);
        mesh.input(Input::ProcessExited { node: node(name), process_id: 1 });
        assert_eq!(mesh.status(name), LEFT);
    }
    mesh.pass(seconds(100));
    assert_eq!(mesh.core.recoveries().attempted(), 0);
    let failed = mesh
        .events
        .iter()
        .any(|event| matches!(event, Event::NodeStatusChanged { status: NodeStatus::Failed, .. }));
    assert!(!failed);
}

#[test]
fn what_an_operator_failed_stays_failed_when_its_process_is_asked_to_end() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    mesh.input(failing("f", BACKEND));
    asked_to_end(&mut mesh, BACKEND);
    mesh.disconnect(BACKEND);
    assert_eq!(mesh.status(BACKEND), FAILED);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    mesh.pass_with(&OTHERS, seconds(100));
    assert_eq!((mesh.status(BACKEND), mesh.core.recoveries().attempted()), (FAILED, 0));
    mesh.input(recovering("r", BACKEND));
    assert!(matches!(mesh.effects[..], [Effect::RestartProcess { .. }]), "{:?}", mesh.effects);
}

#[test]
fn what_an_operator_failed_stays_failed_when_the_coordinator_ends_its_nodes() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("f", BACKEND));
    mesh.input(Input::Stopping);
    for name in ALL {
        mesh.disconnect(name);
    }
    assert_eq!((mesh.status(BACKEND), mesh.status(DOCS)), (FAILED, LEFT));
    mesh.crash(seconds(5));
    for name in ALL {
        mesh.join(name);
    }
    mesh.pass_with(&ALL, seconds(60));
    assert_eq!((mesh.status(BACKEND), mesh.status(DOCS).0), (FAILED, NodeStatus::Active));
    mesh.input(recovering("r", BACKEND));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None));
}

#[test]
fn a_failed_node_that_is_recovered_while_it_leaves_is_active_once_its_successor_joins() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("f", BACKEND));
    asked_to_end(&mut mesh, BACKEND);
    let answer = answer(mesh.input(recovering("r", BACKEND)));
    assert!(answer.steps[0].contains("ACTIVE once a new one joins"), "{:?}", answer.steps);
    assert_eq!(mesh.status(BACKEND), DRAINING);
    mesh.disconnect(BACKEND);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None));
}

#[test]
fn a_node_that_is_started_again_with_work_left_loses_none_of_it_and_none_counts() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    asked_to_end(&mut mesh, BACKEND);
    mesh.join(BACKEND);
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(!is_disturbed(&mesh, &run) && mesh.run(&run).tasks.iter().all(|task| task.crashes == 0));
    assert_eq!(mesh.core.presences()[&node(BACKEND)].breaker.state(mesh.now), Breaker::Closed);
}

#[test]
fn strangers_and_old_connections_cannot_drain_a_node() {
    let mut mesh = TestMesh::full();
    let old = mesh.session(BACKEND);
    mesh.reconnect(BACKEND, &[], &[]);
    for name in [BACKEND, "stranger"] {
        mesh.input(Input::NodeDraining { session: old, node: node(name), reason: String::new() });
    }
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None));
}
