//! Second attempts: work of a node that fell silent is tried elsewhere as well, and the first good result counts.

use super::mesh::*;
use crate::coordinator::event::RunEvent;
use crate::coordinator::input::{Ending, Facts, Input};
use crate::coordinator::message::Assign;
use crate::types::{FaultCause, NodeStatus, Outcome, RunId, Stage};

const OTHERS: [&str; 3] = [ARCHITECT, DOCS, INTEGRATION];

/// A LINT task whose node fell silent: its first attempt and its second.
fn doubled() -> (TestMesh, RunId, Assign, Assign) {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let first = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.beat(BACKEND);
    mesh.pass_with(&OTHERS, std::time::Duration::from_millis(2_499));
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 1);
    mesh.pass_with(&OTHERS, std::time::Duration::from_millis(1));
    let second = mesh.running_of(&run, Stage::Lint).pop().expect("tried elsewhere");
    assert_ne!(first.attempt, second.attempt);
    assert_eq!(mesh.holder(&first).as_deref(), Some(BACKEND));
    assert_ne!(mesh.holder(&second).as_deref(), Some(BACKEND));
    (mesh, run, first, second)
}

fn lint() -> Ending {
    Ending::Made { output: blob("made"), facts: Facts::Lint { error: None } }
}

#[test]
fn the_second_attempt_is_told_as_such() {
    let (mesh, run, _, second) = doubled();
    let told = mesh.log(&run).into_iter().any(|event| {
        matches!(event, RunEvent::TaskAssigned { attempt, second: true, .. } if *attempt == second.attempt.attempt)
    });
    assert!(told);
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].executions().len(), 2);
}

#[test]
fn if_the_second_is_first_the_first_is_revoked_and_its_late_result_dropped() {
    let (mut mesh, run, first, second) = doubled();
    mesh.finish(&second);
    assert!(mesh.revoked().contains(&&first.attempt));
    assert_eq!(mesh.running_of(&run, Stage::Lint), []);
    mesh.ended_by(BACKEND, &first, lint());
    assert_eq!(mesh.core.stale_results(), 1);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    let task = mesh.tasks(&run, Stage::Lint)[0];
    assert_eq!((task.retries, task.crashes), (0, 0), "what was doubled for safety is no retry");
}

#[test]
fn if_the_silent_node_is_first_after_all_its_result_counts() {
    let (mut mesh, run, first, second) = doubled();
    mesh.ended_by(BACKEND, &first, lint());
    assert_eq!(mesh.revoked(), [&second.attempt]);
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].output(), Some(blob("made")));
    assert_eq!(mesh.running_of(&run, Stage::Lint), []);
}

#[test]
fn when_the_silent_node_is_failed_the_second_attempt_goes_on_alone() {
    let (mut mesh, run, first, second) = doubled();
    mesh.pass_with(&OTHERS, seconds(28));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Failed, Some(FaultCause::HeartbeatTimeout)));
    assert_eq!((mesh.holder(&first), mesh.holder(&second).is_some()), (None, true));
    let task = mesh.tasks(&run, Stage::Lint)[0];
    assert_eq!((task.executions().len(), task.crashes, task.retries), (1, 0, 1));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn a_failure_of_one_leaves_the_other_and_costs_no_budget() {
    let (mut mesh, run, first, second) = doubled();
    mesh.fails(&second);
    let task = mesh.tasks(&run, Stage::Lint)[0];
    assert_eq!((task.crashes, task.retries), (0, 1));
    assert_eq!(task.executions()[0].attempt, first.attempt.attempt);
    let third =
        mesh.running_of(&run, Stage::Lint).pop().expect("its node is silent still: tried elsewhere again");
    mesh.fails(&third);
    mesh.ended_by(BACKEND, &first, Ending::Failed("it broke".into()));
    let crashes = mesh.tasks(&run, Stage::Lint)[0].crashes;
    assert!(crashes <= 1, "only an attempt that was alone counts: {crashes}");
}

#[test]
fn a_reset_doubles_work_after_a_quarter_of_a_second_unless_the_node_is_back() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let first = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.disconnect(BACKEND);
    mesh.pass(std::time::Duration::from_millis(249));
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 1);
    mesh.reconnect(BACKEND, &[&first], &[]);
    mesh.pass(seconds(1));
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 1, "it was back in time");
    mesh.disconnect(BACKEND);
    mesh.pass(std::time::Duration::from_millis(250));
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2);
}

#[test]
fn nobody_gets_the_same_task_twice_so_a_lone_node_is_waited_for() {
    let mut mesh = TestMesh::with(Default::default());
    mesh.join(BACKEND);
    let run = mesh.planned(&["ruff"], 1);
    mesh.pass(seconds(20));
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 1);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Degraded, Some(FaultCause::Silent)));
}

#[test]
fn a_cancelled_run_revokes_both() {
    let (mut mesh, run, first, second) = doubled();
    mesh.input(Input::CancelRun { run, reason: "enough".into() });
    let revoked = mesh.revoked();
    assert!(revoked.contains(&&first.attempt) && revoked.contains(&&second.attempt));
    assert_eq!(mesh.running(), []);
}
