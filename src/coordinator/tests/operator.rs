//! HandleFault: what operators do about nodes.

use super::mesh::*;
use crate::coordinator::breaker::State as Breaker;
use crate::coordinator::decision::{Effect, Refusal, Reply};
use crate::coordinator::event::FaultAnswer;
use crate::coordinator::input::{FaultAction, FaultRequest, FaultTarget, Input};
use crate::coordinator::settings::Settings;
use crate::types::{Digest, FaultCause, NodeStatus, Outcome, Stage};

const BY_OPERATOR: (NodeStatus, Option<FaultCause>) = (NodeStatus::Failed, Some(FaultCause::Operator));

/// Nothing is started but by operators.
fn by_hand_only() -> Settings {
    let mut settings = Settings::default();
    settings.restart.budget = 0;
    settings.restart.has_command = true;
    settings
}

/// Its first start.
fn asked(cause: FaultCause) -> Effect {
    Effect::RestartProcess { node: node(BACKEND), start: 1, cause: cause.as_str().into() }
}

fn answer(reply: Reply) -> FaultAnswer {
    match reply {
        Reply::Fault(answer) => *answer,
        other => panic!("no answer: {other:?}"),
    }
}

#[test]
fn fail_gives_the_work_to_others_and_says_where_it_went() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    let had = mesh.running_on(BACKEND);
    assert_eq!(had.len(), 2);
    let answer = answer(mesh.input(failing("f1", BACKEND)));
    assert_eq!(mesh.status(BACKEND), BY_OPERATOR);
    assert_eq!(answer.nodes, [node(BACKEND)]);
    assert_eq!(answer.healthy_nodes, [node(DOCS), node(INTEGRATION), node(ARCHITECT)]);
    assert!((answer.topology_health - 0.75).abs() < 1e-12);
    assert_eq!(answer.redistributed.len(), 2);
    for (of, task, to) in &answer.redistributed {
        let now = mesh.running_of(&run, Stage::Lint).into_iter().find(|assign| assign.task == *task);
        let holder = mesh.holder(&now.expect("runs"));
        assert_eq!((of, to.as_ref().map(ToString::to_string)), (&run, holder));
    }
    let revoked: Vec<_> = had.iter().map(|assign| &assign.attempt).collect();
    assert_eq!(mesh.revoked(), revoked);
    mesh.pass_with(&ALL, seconds(60));
    assert_eq!(mesh.status(BACKEND), BY_OPERATOR, "its heartbeats do not overrule the operator");
    assert_eq!(mesh.running_on(BACKEND), []);
}

#[test]
fn a_failed_node_that_restarts_or_reconnects_stays_failed_until_it_is_recovered() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("f1", BACKEND));
    mesh.join(BACKEND);
    mesh.disconnect(BACKEND);
    mesh.pass_with(&[ARCHITECT, DOCS, INTEGRATION], seconds(40));
    mesh.reconnect(BACKEND, &[], &[]);
    assert_eq!(mesh.status(BACKEND), BY_OPERATOR);
    let answer = answer(mesh.input(recovering("r1", BACKEND)));
    assert_eq!(answer.healthy_nodes.len(), 4);
    mesh.planned(&["ruff"], 1);
    assert_eq!(mesh.running_on(BACKEND).len(), 1, "its breaker is closed again");
}

#[test]
fn the_last_node_leaves_the_work_queued_and_it_goes_on_after_recover() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 2);
    for name in [ARCHITECT, DOCS, INTEGRATION] {
        mesh.input(failing(name, name));
    }
    let last = answer(mesh.input(failing("last", BACKEND)));
    assert_eq!(last.healthy_nodes, []);
    assert!(last.topology_health.abs() < 1e-12);
    assert_eq!(last.redistributed.len(), 2);
    assert!(last.redistributed.iter().all(|(_, _, to)| to.is_none()));
    mesh.pass_with(&ALL, seconds(100));
    assert!(mesh.tasks(&run, Stage::Lint).into_iter().all(is_queued));
    mesh.input(recovering("back", DOCS));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(mesh.tasks(&run, Stage::Lint).iter().all(|task| task.crashes == 0));
}

#[test]
fn repeating_a_request_repeats_the_answer_and_changes_nothing() {
    let mut mesh = TestMesh::full();
    let first = mesh.input(failing("f1", BACKEND));
    mesh.input(recovering("r1", BACKEND));
    let revision = mesh.core.revision();
    assert_eq!(mesh.input(failing("f1", BACKEND)), first);
    assert_eq!((mesh.status(BACKEND).0, mesh.core.revision()), (NodeStatus::Active, revision));
    let mut other = fault("f1", FaultAction::Fail, BACKEND);
    other.body = Digest::of(b"another request");
    assert_eq!(refusal(mesh.input(Input::HandleFault(other))), Refusal::IdReused("f1".into()));
}

#[test]
fn an_unknown_node_is_refused() {
    let mut mesh = TestMesh::full();
    for request in [failing("a", "nobody"), recovering("b", "nobody")] {
        assert_eq!(refusal(mesh.input(request)), Refusal::UnknownNode(node("nobody")));
    }
}

#[test]
fn recover_of_a_node_that_is_gone_asks_its_launcher() {
    let mut mesh = TestMesh::full_with(by_hand_only());
    mesh.disconnect(BACKEND);
    mesh.pass(seconds(2));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    mesh.input(recovering("r1", BACKEND));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Initializing, None));
    assert_eq!(mesh.effects, [asked(FaultCause::SessionLost)]);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None));
}

#[test]
fn recover_of_a_node_that_is_only_late_leaves_it_to_its_detectors() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    mesh.disconnect(BACKEND);
    mesh.input(recovering("r1", BACKEND));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Degraded, Some(FaultCause::SessionLost)));
    assert_eq!(mesh.effects, [], "what it runs may go on");
    mesh.pass(seconds(2));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    let lint = mesh.running_of(&run, Stage::Lint).pop().expect("its work went elsewhere");
    assert_ne!(mesh.holder(&lint).as_deref(), Some(BACKEND));
}

#[test]
fn recover_of_a_silent_node_does_not_call_it_healthy() {
    let mut mesh = TestMesh::full_with(by_hand_only());
    mesh.pass_with(&[ARCHITECT, DOCS, INTEGRATION], seconds(31));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    let answer = answer(mesh.input(recovering("r1", BACKEND)));
    assert!(!answer.healthy_nodes.contains(&node(BACKEND)));
    assert_eq!(mesh.effects, [asked(FaultCause::HeartbeatTimeout)]);
    mesh.beat(BACKEND);
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Initializing);
    mesh.pass_with(&ALL, seconds(5));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Active, "it was only silent");
}

fn all(id: &str, action: FaultAction) -> Input {
    let body = Digest::of(id.as_bytes());
    Input::HandleFault(FaultRequest { fault_id: id.into(), body, action, target: FaultTarget::All })
}

#[test]
fn recover_of_a_node_that_nothing_starts_says_so() {
    let mut mesh = TestMesh::full();
    mesh.disconnect(BACKEND);
    mesh.pass(seconds(2));
    let answer = answer(mesh.input(recovering("r1", BACKEND)));
    assert!(answer.steps[0].contains("start it by hand"), "{:?}", answer.steps);
    assert_eq!(mesh.effects, []);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Initializing, None));
}

#[test]
fn all_nodes_are_recovered_in_one_call() {
    let mut mesh = TestMesh::full();
    for name in [BACKEND, DOCS] {
        mesh.input(failing(name, name));
    }
    let answer = answer(mesh.input(all("r", FaultAction::Recover)));
    assert_eq!((answer.nodes.len(), answer.healthy_nodes.len(), answer.steps.len()), (4, 4, 4));
}

#[test]
fn breakers_are_closed_by_hand_whoever_opened_them() {
    let mut mesh = TestMesh::full();
    for name in [BACKEND, DOCS] {
        mesh.input(failing(name, name));
    }
    let breaker = |mesh: &TestMesh, name| mesh.core.presences()[&node(name)].breaker.state(mesh.now);
    assert_eq!(breaker(&mesh, BACKEND), Breaker::Open);
    let one = answer(mesh.input(Input::HandleFault(fault("b", FaultAction::ResetBreaker, BACKEND))));
    assert_eq!(one.steps, ["closed the circuit breaker of backend-dev"]);
    assert_eq!((breaker(&mesh, BACKEND), breaker(&mesh, DOCS)), (Breaker::Closed, Breaker::Open));
    assert_eq!(mesh.status(BACKEND), BY_OPERATOR, "and nothing else changes");
    mesh.input(all("all", FaultAction::ResetBreaker));
    assert_eq!(breaker(&mesh, DOCS), Breaker::Closed);
}

#[test]
fn every_action_is_idempotent_by_its_id() {
    for action in [
        FaultAction::Fail,
        FaultAction::Recover,
        FaultAction::Drain { bound: None },
        FaultAction::ResetBreaker,
        FaultAction::RebuildConnections,
        FaultAction::Forget,
    ] {
        let mut mesh = TestMesh::full();
        mesh.planned(&["mypy", "ruff"], 1);
        if action == FaultAction::Forget {
            mesh.disconnect(BACKEND);
        }
        let first = mesh.input(Input::HandleFault(fault("once", action, BACKEND)));
        assert!(matches!(first, Reply::Fault(_)), "{first:?}");
        let revision = mesh.core.revision();
        assert_eq!(mesh.input(Input::HandleFault(fault("once", action, BACKEND))), first);
        assert_eq!((mesh.core.revision(), mesh.effects.len()), (revision, 0), "{action:?} was done once");
        let mut other = fault("once", action, BACKEND);
        other.body = Digest::of(b"another request");
        assert_eq!(refusal(mesh.input(Input::HandleFault(other))), Refusal::IdReused("once".into()));
    }
}
