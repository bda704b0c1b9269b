//! HandleFault: FAIL and RECOVER.

use super::mesh::*;
use crate::coordinator::event::FaultAnswer;
use crate::coordinator::input::{Effect, Input, Refusal, Reply};
use crate::types::{Digest, FaultCause, NodeStatus, Outcome, Stage};

const BY_OPERATOR: (NodeStatus, Option<FaultCause>) = (NodeStatus::Failed, Some(FaultCause::Operator));

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
    let answer = answer(mesh.input(Input::FailNode(fault("f1", BACKEND))));
    assert_eq!(mesh.status(BACKEND), BY_OPERATOR);
    assert_eq!(answer.node, node(BACKEND));
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
    mesh.input(Input::FailNode(fault("f1", BACKEND)));
    mesh.join(BACKEND);
    mesh.disconnect(BACKEND);
    mesh.pass_with(&[ARCHITECT, DOCS, INTEGRATION], seconds(40));
    mesh.reconnect(BACKEND, &[], &[]);
    assert_eq!(mesh.status(BACKEND), BY_OPERATOR);
    let answer = answer(mesh.input(Input::RecoverNode(fault("r1", BACKEND))));
    assert_eq!(answer.healthy_nodes.len(), 4);
    mesh.planned(&["ruff"], 1);
    assert_eq!(mesh.running_on(BACKEND).len(), 1, "its breaker is closed again");
}

#[test]
fn the_last_node_leaves_the_work_queued_and_it_goes_on_after_recover() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 2);
    for name in [ARCHITECT, DOCS, INTEGRATION] {
        mesh.input(Input::FailNode(fault(name, name)));
    }
    let last = answer(mesh.input(Input::FailNode(fault("last", BACKEND))));
    assert_eq!(last.healthy_nodes, []);
    assert!(last.topology_health.abs() < 1e-12);
    assert_eq!(last.redistributed.len(), 2);
    assert!(last.redistributed.iter().all(|(_, _, to)| to.is_none()));
    mesh.pass_with(&ALL, seconds(100));
    assert!(mesh.tasks(&run, Stage::Lint).into_iter().all(is_queued));
    mesh.input(Input::RecoverNode(fault("back", DOCS)));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(mesh.tasks(&run, Stage::Lint).iter().all(|task| task.crashes == 0));
}

#[test]
fn repeating_a_request_repeats_the_answer_and_changes_nothing() {
    let mut mesh = TestMesh::full();
    let first = mesh.input(Input::FailNode(fault("f1", BACKEND)));
    mesh.input(Input::RecoverNode(fault("r1", BACKEND)));
    let revision = mesh.core.revision();
    assert_eq!(mesh.input(Input::FailNode(fault("f1", BACKEND))), first);
    assert_eq!((mesh.status(BACKEND).0, mesh.core.revision()), (NodeStatus::Active, revision));
    let mut other = fault("f1", BACKEND);
    other.body = Digest::of(b"another request");
    assert_eq!(refusal(mesh.input(Input::FailNode(other))), Refusal::IdReused("f1".into()));
}

#[test]
fn an_unknown_node_is_refused() {
    let mut mesh = TestMesh::full();
    for request in [Input::FailNode(fault("a", "nobody")), Input::RecoverNode(fault("b", "nobody"))] {
        assert_eq!(refusal(mesh.input(request)), Refusal::UnknownNode(node("nobody")));
    }
}

#[test]
fn recover_of_a_node_that_is_gone_asks_its_launcher() {
    let mut mesh = TestMesh::full();
    mesh.disconnect(BACKEND);
    mesh.pass(seconds(2));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    mesh.input(Input::RecoverNode(fault("r1", BACKEND)));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Initializing, None));
    assert_eq!(mesh.effects, [Effect::RestartProcess(node(BACKEND))]);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None));
}

#[test]
fn recover_of_a_node_that_is_only_late_leaves_it_to_its_detectors() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    mesh.disconnect(BACKEND);
    mesh.input(Input::RecoverNode(fault("r1", BACKEND)));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Degraded, Some(FaultCause::SessionLost)));
    mesh.pass(seconds(2));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    let lint = mesh.running_of(&run, Stage::Lint).pop().expect("its work went elsewhere");
    assert_ne!(mesh.holder(&lint).as_deref(), Some(BACKEND));
}

#[test]
fn recover_of_a_silent_node_does_not_call_it_healthy() {
    let mut mesh = TestMesh::full();
    mesh.pass_with(&[ARCHITECT, DOCS, INTEGRATION], seconds(31));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    let answer = answer(mesh.input(Input::RecoverNode(fault("r1", BACKEND))));
    assert!(!answer.healthy_nodes.contains(&node(BACKEND)));
    assert_eq!(mesh.effects, [Effect::RestartProcess(node(BACKEND))]);
    mesh.beat(BACKEND);
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Initializing);
    mesh.pass_with(&ALL, seconds(5));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Active, "it was only silent");
}
