//! What was decided about nodes holds over a coordinator's restart.

use super::{ACTIVE, DOWN, OTHERS, linting, others_return};
use crate::coordinator::decision::{Effect, Refusal, Reply};
use crate::coordinator::event::{Event, RecoveryStep};
use crate::coordinator::input::Input;
use crate::coordinator::settings::Settings;
use crate::coordinator::tests::draining::asked_to_end;
use crate::coordinator::tests::mesh::*;
use crate::types::{FaultCause, NodeStatus, Outcome, SessionId, Stage};

fn restarts(mesh: &TestMesh, name: &str) -> usize {
    let asked =
        |effect: &&Effect| matches!(effect, Effect::RestartProcess { node: of, .. } if *of == node(name));
    mesh.effects.iter().filter(asked).count()
}

#[test]
fn a_drained_node_stays_drained_and_finishes_what_it_has() {
    let (mut mesh, run, [first, second]) = linting();
    mesh.input(draining("d", BACKEND, 10));
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.reconnect(BACKEND, &[&first, &second], &[]);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Degraded, Some(FaultCause::Draining)));
    mesh.pass_with(&ALL, seconds(9));
    mesh.finish(&first);
    mesh.finish(&second);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    let drained = |mesh: &TestMesh| {
        let is_drained =
            |event: &&Event| matches!(event, Event::NodeRecovery { step: RecoveryStep::Drained, .. });
        mesh.events.iter().filter(is_drained).count()
    };
    assert_eq!(drained(&mesh), 1);
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.join(BACKEND);
    mesh.pass_with(&ALL, seconds(60));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Degraded, Some(FaultCause::Draining)), "a new process too");
    assert_eq!(drained(&mesh), 1, "that it has nothing left was told before");
    mesh.planned(&["ruff"], 4);
    assert_eq!(mesh.running_on(BACKEND), []);
    mesh.input(recovering("r", BACKEND));
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn the_drain_of_a_node_that_does_not_end_in_time_ends_after_the_restart_too() {
    let (mut mesh, run, given) = linting();
    mesh.input(draining("d", BACKEND, 10));
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.reconnect(BACKEND, &given.each_ref(), &[]);
    mesh.pass_with(&ALL, mesh.core.settings().drain_timeout + seconds(1));
    assert_eq!(mesh.running_on(BACKEND), []);
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2, "others have it");
}

#[test]
fn the_recovery_of_failed_nodes_goes_on_however_far_it_was() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    for has_failed_to_start in [false, true] {
        let mut mesh = TestMesh::full_with(settings.clone());
        mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
        if has_failed_to_start {
            mesh.input(Input::RestartFailed { node: node(BACKEND), start: 1, reason: "no".into() });
            assert_eq!(mesh.status(BACKEND).1, Some(FaultCause::RestartFailed));
        }
        mesh.crash(seconds(DOWN));
        others_return(&mut mesh);
        mesh.pass_with(&OTHERS, seconds(29));
        assert_eq!(mesh.core.recoveries().attempted(), 0, "it may come by itself");
        mesh.pass_with(&OTHERS, seconds(2));
        assert_eq!(mesh.core.recoveries().attempted(), 1, "failed to start: {has_failed_to_start}");
        mesh.join(BACKEND);
        assert_eq!(mesh.status(BACKEND), ACTIVE);
    }
}

#[test]
fn a_failed_node_that_comes_by_itself_is_not_started() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), ACTIVE);
    mesh.pass_with(&ALL, seconds(60));
    assert_eq!(mesh.core.recoveries().attempted(), 0);
}

#[test]
fn a_node_that_nothing_here_starts_waits_to_be_started_by_hand() {
    let mut mesh = TestMesh::full();
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    let told = mesh.events.len();
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.pass_with(&OTHERS, seconds(60));
    let again = mesh.events[told..].iter().filter(|event| matches!(event, Event::NodeRecovery { .. }));
    assert_eq!(again.count(), 0, "which was told before");
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn what_an_operator_failed_stays_failed() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    mesh.input(failing("f", BACKEND));
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.pass_with(&OTHERS, seconds(60));
    assert_eq!(restarts(&mesh, BACKEND) + mesh.core.recoveries().attempted() as usize, 0);
    mesh.reconnect(BACKEND, &[], &[]);
    mesh.pass_with(&ALL, seconds(60));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Failed, Some(FaultCause::Operator)));
    mesh.input(recovering("r", BACKEND));
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn an_older_process_cannot_take_the_place_of_the_one_before_the_restart() {
    let mut mesh = TestMesh::full();
    mesh.join(BACKEND);
    mesh.crash(seconds(DOWN));
    let older = Input::Joined { session: SessionId(99), hello: Box::new(hello(BACKEND, 1)) };
    let reply = mesh.input(older);
    assert!(matches!(reply, Reply::Refused(Refusal::StaleIncarnation { .. })), "{reply:?}");
}

#[test]
fn a_new_configuration_of_a_node_counts_once_its_next_process_joins() {
    let (mut mesh, _, given) = linting();
    mesh.crash(seconds(DOWN));
    let mut smaller = specialist(BACKEND);
    smaller.max_concurrent_tasks = 1;
    let mut all: Vec<_> = OTHERS.map(specialist).into();
    all.push(smaller.clone());
    mesh.input(Input::Configure(all));
    mesh.reconnect(BACKEND, &given.each_ref(), &[]);
    assert_eq!(mesh.running_on(BACKEND).len(), 2, "it is what it was started as");
    let mut next = hello(BACKEND, 2);
    next.spec = smaller.clone();
    mesh.connect(next);
    assert_eq!(mesh.core.state().members[&node(BACKEND)].spec, smaller);
}

#[test]
fn a_node_that_was_leaving_when_the_coordinator_ended_and_is_gone_is_no_fault() {
    let (mut mesh, run, _) = linting();
    asked_to_end(&mut mesh, BACKEND);
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.pass_with(&OTHERS, seconds(60));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Initializing, None));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(mesh.run(&run).tasks.iter().all(|task| task.crashes == 0));
}

#[test]
fn a_node_that_is_there_and_says_nothing_of_leaving_does_not_leave() {
    let (mut mesh, _, given) = linting();
    mesh.input(draining("d", BACKEND, 300));
    mesh.disconnect(BACKEND);
    mesh.input(recovering("r", BACKEND));
    let before = (NodeStatus::Degraded, Some(FaultCause::Draining));
    assert_eq!(mesh.status(BACKEND), before, "it is silent for the moment");
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.reconnect(BACKEND, &given.each_ref(), &[]);
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn what_is_failed_over_a_restart_is_a_failure_that_goes_on() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    let mut mesh = TestMesh::full_with(settings);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    mesh.input(failing("f", DOCS));
    mesh.crash(seconds(DOWN));
    assert_eq!(mesh.core.figures(mesh.now).node_failure_rate, Some(0.25), "an operator's word is none");
    for name in [ARCHITECT, INTEGRATION] {
        mesh.reconnect(name, &[], &[]);
    }
    mesh.pass_with(&[ARCHITECT, INTEGRATION], seconds(400));
    assert_eq!(mesh.core.figures(mesh.now).node_failure_rate, Some(0.25), "however long it goes on");
    mesh.join(BACKEND);
    mesh.pass_with(&[ARCHITECT, BACKEND, INTEGRATION], seconds(301));
    assert_eq!(mesh.core.figures(mesh.now).node_failure_rate, Some(0.0));
}

#[test]
fn a_node_that_was_given_up_and_is_started_again_says_so() {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    settings.restart.budget = 1;
    let mut mesh = TestMesh::full_with(settings);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    mesh.input(Input::RestartFailed { node: node(BACKEND), start: 1, reason: "no".into() });
    let detail = |mesh: &TestMesh| mesh.core.state().members[&node(BACKEND)].detail.clone();
    assert!(detail(&mesh).contains("recover the node"), "{}", detail(&mesh));
    mesh.crash(seconds(DOWN));
    let expected = "the coordinator was started again; start 1 of 1 in 30 s unless it joins by itself";
    assert_eq!(detail(&mesh), expected);
}
