//! The attempt budget: what counts against it, what does not, and what happens when it is used up.

use super::mesh::*;
use crate::coordinator::decision::Reply;
use crate::coordinator::event::{AttemptFault, RunEvent, RunOrder};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::coordinator::message::Assign;
use crate::coordinator::run::TaskState;
use crate::types::{Incarnation, Outcome, Stage};

fn only_lint(mesh: &TestMesh, run: &crate::types::RunId) -> Assign {
    mesh.running_of(run, Stage::Lint).first().expect("LINT runs").clone()
}

#[test]
fn a_task_gets_one_attempt_and_three_more_then_the_run_is_incomplete() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    for failed in 1..=4 {
        let assign = only_lint(&mesh, &run);
        mesh.fails(&assign);
        assert_eq!(mesh.tasks(&run, Stage::Lint)[0].crashes, failed);
    }
    let TaskState::GivenUp { reason } = &mesh.tasks(&run, Stage::Lint)[0].state else { panic!("given up") };
    assert_eq!(reason, "4 attempts failed; the last: it broke");
    let last = mesh.running_of(&run, Stage::Aggregate).pop().expect("AGGREGATE goes on without it");
    assert_eq!(last.failed.len(), 1, "and is told what is missing");
    assert_eq!(last.failed[0].0.tool, Some(tool("ruff")));
    mesh.finish(&last);
    assert_eq!(mesh.outcome(&run), Some(Outcome::Incomplete));
}

#[test]
fn a_result_that_hides_a_gap_is_not_accepted() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = only_lint(&mesh, &run);
    mesh.made(&lint, Facts::Lint { error: Some(tool_error()) });
    let classify = mesh.running_of(&run, Stage::Classify).pop().expect("CLASSIFY runs");
    mesh.finish(&classify);
    let liar = mesh.running_of(&run, Stage::Aggregate).pop().expect("AGGREGATE runs");
    for outcome in [Outcome::Clean, Outcome::Findings, Outcome::Cancelled] {
        let aggregate = mesh.running_of(&run, Stage::Aggregate).pop().expect("AGGREGATE runs again");
        let facts =
            Facts::Aggregate { outcome, summary: Default::default(), tool_errors: Default::default() };
        mesh.made(&aggregate, facts);
        assert_eq!(mesh.outcome(&run), None, "{outcome} is not taken on trust");
    }
    assert_ne!(mesh.running_of(&run, Stage::Aggregate).pop().map(|now| now.attempt), Some(liar.attempt));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Incomplete));
}

#[test]
fn what_is_late_because_nothing_was_decided_is_neither_taken_back_nor_cancelled() {
    let mut mesh = TestMesh::full();
    let timeout = mesh.core.settings().task_timeout + seconds(100);
    let Reply::Run(run) = mesh.start_order(RunOrder { timeout, ..order(&["mypy", "ruff"]) }) else {
        panic!("not started")
    };
    mesh.plan_done(&run, 1);
    let given = mesh.running_of(&run, Stage::Lint);
    // The store took so long; what arrived meanwhile waited.
    mesh.now = mesh.now + seconds(10_000);
    mesh.finish(&given[0]);
    assert_eq!(mesh.outcome(&run), None);
    assert_eq!(mesh.running_of(&run, Stage::Lint), given[1..]);
    assert!(!mesh.log(&run).iter().any(|event| matches!(event, RunEvent::AttemptFailed { .. })));
    // From then on their time goes on.
    mesh.pass_with(&ALL, mesh.core.settings().task_timeout + seconds(20));
    assert_eq!(mesh.running_of(&run, Stage::Lint), given[1..]);
    mesh.pass_with(&ALL, seconds(20));
    assert!(mesh.log(&run).iter().any(|event| {
        matches!(event, RunEvent::AttemptFailed { cause: AttemptFault::Deadline, counts: true, .. })
    }));
    mesh.pass_with(&ALL, seconds(100));
    assert_eq!(mesh.outcome(&run), Some(Outcome::Cancelled));
}

#[test]
fn a_result_that_waits_for_room_has_no_deadline_until_its_node_comes_again() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = only_lint(&mesh, &run);
    let holder = mesh.holder(&lint).expect("runs");
    let waits = |mesh: &mut TestMesh, incarnation: Incarnation| {
        let (executor, attempt) = (node(&holder), lint.attempt.clone());
        mesh.input(Input::ResultWaits { executor, incarnation, attempt });
    };
    let limit = mesh.core.settings().task_timeout + seconds(40);
    let incarnation = mesh.incarnation(&holder);
    waits(&mut mesh, incarnation);
    mesh.pass_with(&ALL, limit * 2);
    assert_eq!(only_lint(&mesh, &run), lint, "it is here");
    // Its node brings it again, and has some time for that.
    mesh.reconnect(&holder, &[], &[&lint]);
    mesh.pass_with(&ALL, seconds(20));
    waits(&mut mesh, incarnation);
    mesh.pass_with(&ALL, limit * 2);
    assert_eq!(only_lint(&mesh, &run), lint);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(mesh.run(&run).tasks.iter().all(|task| task.crashes + task.retries == 0));
}

#[test]
fn a_result_that_is_not_brought_again_and_one_of_a_former_process_wait_for_nothing() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = only_lint(&mesh, &run);
    let holder = mesh.holder(&lint).expect("runs");
    let (executor, attempt) = (node(&holder), lint.attempt.clone());
    let incarnation = mesh.incarnation(&holder);
    mesh.input(Input::ResultWaits { executor: executor.clone(), incarnation, attempt: attempt.clone() });
    mesh.pass_with(&ALL, mesh.core.settings().task_timeout + seconds(40));
    mesh.reconnect(&holder, &[], &[&lint]);
    mesh.pass_with(&ALL, seconds(40));
    assert_ne!(only_lint(&mesh, &run), lint, "it never came again");
    let second = only_lint(&mesh, &run);
    let holder = mesh.holder(&second).expect("runs");
    let former = Incarnation(mesh.incarnation(&holder).0 + 1);
    let attempt = second.attempt.clone();
    mesh.input(Input::ResultWaits { executor: node(&holder), incarnation: former, attempt });
    mesh.pass_with(&ALL, mesh.core.settings().task_timeout + seconds(40));
    assert_ne!(only_lint(&mesh, &run), second, "it is of another process");
}

#[test]
fn a_plan_that_cannot_be_made_ends_the_run_incomplete() {
    let mut mesh = TestMesh::full();
    let run = mesh.start(&["ruff"]);
    for _ in 0..4 {
        let plan = mesh.running_of(&run, Stage::Plan).pop().expect("PLAN runs");
        mesh.fails(&plan);
    }
    let ending = mesh.run(&run).ending.clone().expect("ended");
    assert_eq!((ending.outcome, ending.result), (Outcome::Incomplete, None));
    assert!(ending.detail.starts_with("plan could not be done: 4 attempts failed"), "{}", ending.detail);
}

#[test]
fn a_crashed_process_counts_and_an_operators_word_does_not() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    assert_eq!(mesh.holder(&only_lint(&mesh, &run)).as_deref(), Some(BACKEND));
    mesh.input(failing("f1", BACKEND));
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].crashes, 0, "the operator's doing");
    let next = mesh.holder(&only_lint(&mesh, &run)).expect("runs elsewhere");
    mesh.input(Input::ProcessExited {
        node: node(&next),
        process_id: mesh.core.presences()[&node(&next)].process_id,
    });
    let task = mesh.tasks(&run, Stage::Lint)[0];
    assert_eq!((task.crashes, task.retries), (1, 2));
}

#[test]
fn back_pressure_and_lost_messages_do_not_count() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    for _ in 0..10 {
        let assign = only_lint(&mesh, &run);
        let holder = mesh.holder(&assign).expect("runs");
        mesh.input(Input::Rejected { node: node(&holder), attempt: assign.attempt, reason: "full".into() });
    }
    for _ in 0..10 {
        let holder = mesh.holder(&only_lint(&mesh, &run)).expect("runs");
        mesh.disconnect(&holder);
        mesh.reconnect(&holder, &[], &[]);
    }
    let task = mesh.tasks(&run, Stage::Lint)[0];
    assert_eq!((task.crashes, task.retries), (0, 20));
    let lost = mesh
        .log(&run)
        .into_iter()
        .filter(|event| matches!(event, RunEvent::AttemptFailed { cause: AttemptFault::Lost, .. }))
        .count();
    assert_eq!(lost, 10);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn a_node_that_rejects_everything_is_left_alone() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let mut rejections = 0;
    while let Some(assign) = mesh.running_on(BACKEND).pop() {
        rejections += 1;
        assert!(rejections < 100, "it is asked for ever");
        mesh.input(Input::Rejected { node: node(BACKEND), attempt: assign.attempt, reason: "full".into() });
    }
    assert_ne!(mesh.holder(&only_lint(&mesh, &run)).as_deref(), Some(BACKEND));
}

#[test]
fn an_attempt_past_its_deadline_is_revoked_and_counts() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let assign = only_lint(&mesh, &run);
    let limit = mesh.core.settings().task_timeout + seconds(30);
    let before = mesh.now;
    mesh.pass_with(&ALL, limit - seconds(1));
    assert_eq!(mesh.holder(&assign).as_deref(), Some(BACKEND), "the node enforces the deadline first");
    mesh.effects.clear();
    mesh.pass(limit - mesh.now.since(before));
    assert_eq!(mesh.revoked(), [&assign.attempt]);
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].crashes, 1);
    assert_eq!(only_lint(&mesh, &run).task, assign.task, "and it is tried again");
    let stale = mesh.core.stale_results();
    mesh.ended_by(
        BACKEND,
        &assign,
        Ending::Made { output: blob("late"), facts: Facts::Lint { error: None } },
    );
    assert_eq!(mesh.core.stale_results(), stale + 1, "what comes after is stale");
}
