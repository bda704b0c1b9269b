//! A coordinator that takes up what an earlier one left: what nodes still have goes on, the rest is done again.

mod members;

use super::mesh::*;
use crate::coordinator::decision::Refusal;
use crate::coordinator::event::{AttemptFault, RunEvent};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::coordinator::message::Assign;
use crate::types::{
    AttemptId, AttemptRef, Digest, Epoch, FaultCause, Incarnation, Measured, NodeStatus, Outcome, RunId,
    Stage, TaskId,
};

const ACTIVE: (NodeStatus, Option<FaultCause>) = (NodeStatus::Active, None);
const OTHERS: [&str; 3] = [ARCHITECT, DOCS, INTEGRATION];
/// How long the coordinator is away.
const DOWN: u64 = 5;

/// A run with two LINT tasks on the node for them.
fn linting() -> (TestMesh, RunId, [Assign; 2]) {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    let given = mesh.running_on(BACKEND).try_into().expect("both are made for it");
    (mesh, run, given)
}

fn others_return(mesh: &mut TestMesh) {
    for name in OTHERS {
        mesh.reconnect(name, &[], &[]);
    }
}

/// The attempts that a run's tasks of a stage were ever given in.
fn attempts(mesh: &TestMesh, run: &RunId, of: Stage) -> Vec<AttemptId> {
    let log = mesh.log(run).into_iter();
    log.filter_map(|event| match event {
        RunEvent::TaskAssigned { task, attempt, .. } if task.stage == of => Some(*attempt),
        _ => None,
    })
    .collect()
}

fn delivers(mesh: &mut TestMesh, incarnation: u64, assign: &Assign) {
    mesh.input(Input::TaskEnded {
        executor: node(BACKEND),
        incarnation: Incarnation(incarnation),
        attempt: assign.attempt.clone(),
        ending: Ending::Made { output: blob("kept"), facts: Facts::Lint { error: None } },
        measured: Measured::default(),
        via: None,
    });
}

#[test]
fn what_still_runs_is_adopted_and_what_was_accepted_is_not_done_again() {
    let (mut mesh, run, [first, second]) = linting();
    mesh.finish(&first);
    let before = attempts(&mesh, &run, Stage::Lint);
    mesh.crash(seconds(DOWN));
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].output(), Some(blob(&first.attempt.to_string())));
    others_return(&mut mesh);
    mesh.reconnect(BACKEND, &[&second], &[]);
    assert_eq!(mesh.revoked(), Vec::<&AttemptRef>::new());
    assert_eq!(mesh.status(BACKEND), ACTIVE, "its absence was the coordinator's");
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert_eq!(attempts(&mesh, &run, Stage::Lint), before, "no linter was started again");
    assert_eq!(
        mesh.run(&run).tasks.iter().map(|task| task.retries + task.crashes).sum::<u32>(),
        1,
        "CLASSIFY of the first"
    );
}

#[test]
fn a_result_that_came_to_its_end_meanwhile_is_waited_for_and_acknowledged() {
    let (mut mesh, run, [first, second]) = linting();
    mesh.crash(seconds(DOWN));
    mesh.reconnect(BACKEND, &[&second], &[&first]);
    assert_eq!(mesh.revoked(), Vec::<&AttemptRef>::new());
    mesh.finish(&first);
    assert_eq!(mesh.acknowledged(), [&first.attempt]);
    delivers(&mut mesh, 1, &first);
    assert_eq!(mesh.acknowledged(), [&first.attempt], "said twice, it counts once");
    assert_eq!(mesh.core.stale_results(), 1);
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].retries, 0);
}

#[test]
fn what_the_node_does_not_know_of_is_given_again_without_counting() {
    let (mut mesh, run, [first, second]) = linting();
    mesh.crash(seconds(DOWN));
    mesh.reconnect(BACKEND, &[&second], &[]);
    let lost: Vec<_> = mesh
        .log(&run)
        .into_iter()
        .filter_map(|event| match event {
            RunEvent::AttemptFailed { attempt, counts: false, cause: AttemptFault::Lost, .. } => {
                Some(*attempt)
            }
            _ => None,
        })
        .collect();
    assert_eq!(lost, [first.attempt.attempt]);
    let again = mesh.running_of(&run, Stage::Lint).pop().expect("runs again");
    assert_eq!(again.attempt.attempt, AttemptId { epoch: Epoch(2), number: 1 }, "no number is used twice");
}

#[test]
fn what_the_state_does_not_know_is_revoked() {
    let (mut mesh, _, [first, second]) = linting();
    let mut strange = first.clone();
    strange.attempt.run = RunId::new("nowhere").expect("valid");
    let mut late = first.clone();
    // Given by the earlier coordinator, which died before it had stored that.
    late.attempt.attempt.number += 100;
    mesh.crash(seconds(DOWN));
    mesh.reconnect(BACKEND, &[&first, &strange, &late], &[&second]);
    assert_eq!(mesh.revoked(), [&strange.attempt, &late.attempt]);
}

#[test]
fn nothing_is_given_twice_while_its_node_may_still_come_back() {
    let (mut mesh, run, [first, second]) = linting();
    let before = attempts(&mesh, &run, Stage::Lint);
    mesh.crash(seconds(DOWN));
    mesh.pass(seconds(10));
    others_return(&mut mesh);
    mesh.pass_with(&OTHERS, seconds(19));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Degraded);
    assert_eq!(attempts(&mesh, &run, Stage::Lint), before, "neither doubled nor moved");
    mesh.reconnect(BACKEND, &[&first, &second], &[]);
    assert_eq!(mesh.revoked(), Vec::<&AttemptRef>::new());
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert_eq!(attempts(&mesh, &run, Stage::Lint), before);
}

#[test]
fn a_node_that_does_not_come_back_is_failed_after_the_timeout_and_its_work_moves() {
    let (mut mesh, run, _) = linting();
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    let timeout = mesh.core.settings().message_timeout;
    mesh.pass_with(&OTHERS, timeout - seconds(1));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Degraded);
    mesh.pass_with(&OTHERS, seconds(3));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Failed, Some(FaultCause::SessionLost)));
    for task in mesh.tasks(&run, Stage::Lint) {
        assert!(task.nodes().all(|name| *name != node(BACKEND)), "{task:?}");
    }
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn if_nobody_comes_back_that_is_found_out_without_any_word_from_outside() {
    let (mut mesh, run, _) = linting();
    mesh.crash(seconds(DOWN));
    assert!(mesh.wake_at.is_some());
    mesh.pass(seconds(61));
    for name in ALL {
        assert_eq!(mesh.status(name).0, NodeStatus::Failed, "{name}");
    }
    assert!(mesh.tasks(&run, Stage::Lint).into_iter().all(is_queued));
    for name in ALL {
        mesh.join(name);
    }
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn the_excuse_for_the_coordinators_absence_ends_with_the_nodes_return() {
    let (mut mesh, _, [first, second]) = linting();
    mesh.crash(seconds(DOWN));
    others_return(&mut mesh);
    mesh.reconnect(BACKEND, &[&first, &second], &[]);
    mesh.pass_with(&ALL, seconds(60));
    mesh.disconnect(BACKEND);
    mesh.pass_with(&OTHERS, seconds(3));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    mesh.reconnect(BACKEND, &[], &[]);
    assert_ne!(mesh.status(BACKEND), ACTIVE, "it has to prove itself, as ever");
}

#[test]
fn both_attempts_of_a_doubled_task_go_on_and_the_first_result_counts() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let first = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.pass_with(&OTHERS, seconds(4));
    let second = mesh.running_of(&run, Stage::Lint).pop().expect("doubled");
    let by = mesh.holder(&second).expect("runs");
    mesh.crash(seconds(DOWN));
    for name in ALL {
        let has: Vec<&Assign> =
            [&first, &second].into_iter().filter(|it| mesh.holder(it).as_deref() == Some(name)).collect();
        mesh.reconnect(name, &has, &[]);
    }
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2);
    mesh.finish(&second);
    assert_eq!(mesh.revoked(), [&first.attempt], "{by} was faster");
}

#[test]
fn results_of_a_process_that_ended_meanwhile_count_and_the_rest_is_done_again() {
    let (mut mesh, run, [first, second]) = linting();
    mesh.crash(seconds(DOWN));
    let mut successor = hello(BACKEND, 2);
    successor.unacknowledged = vec![first.attempt.clone()];
    mesh.connect(successor);
    let task = |mesh: &TestMesh, of: &Assign| mesh.run(&run).task(of.attempt.task).expect("exists").clone();
    assert_eq!(task(&mesh, &first).executions()[0].incarnation, Incarnation(1), "it is waited for");
    let second = task(&mesh, &second);
    assert_eq!(
        (second.crashes, second.retries),
        (0, 1),
        "it ended with its coordinator, which is no fault of the task"
    );
    delivers(&mut mesh, 1, &first);
    assert_eq!(mesh.acknowledged(), [&first.attempt]);
    assert_eq!((task(&mesh, &first).output(), task(&mesh, &first).retries), (Some(blob("kept")), 0));
}

#[test]
fn a_runs_time_goes_on_while_there_is_no_coordinator_but_leaves_time_to_deliver() {
    let timeout = 3600;
    let mut mesh = TestMesh::full();
    let run = mesh.start(&["ruff"]);
    mesh.crash(seconds(timeout / 2));
    for name in ALL {
        mesh.join(name);
    }
    mesh.pass_with(&ALL, seconds(timeout / 2 - 1));
    assert_eq!(mesh.outcome(&run), None);
    mesh.pass_with(&ALL, seconds(2));
    assert_eq!(mesh.outcome(&run), Some(Outcome::Cancelled));

    let mut mesh = TestMesh::full();
    let run = mesh.start(&["ruff"]);
    mesh.crash(seconds(2 * timeout));
    for name in ALL {
        mesh.join(name);
    }
    mesh.pass_with(&ALL, seconds(29));
    assert_eq!(mesh.outcome(&run), None, "its nodes may have finished it long ago");
    mesh.pass_with(&ALL, seconds(2));
    assert_eq!(mesh.outcome(&run), Some(Outcome::Cancelled));
}

#[test]
fn crashes_before_count_after() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    for _ in 0..=mesh.core.settings().max_retry_attempts {
        mesh.crash(seconds(1));
        let assign = mesh.running_of(&run, Stage::Lint).pop().expect("runs");
        let holder = mesh.holder(&assign).expect("runs");
        for name in ALL {
            let has = if name == holder { vec![&assign] } else { Vec::new() };
            mesh.reconnect(name, &has, &[]);
        }
        mesh.fails(&assign);
    }
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Incomplete));
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].crashes, mesh.core.settings().max_retry_attempts + 1);
}

#[test]
fn attempts_of_every_start_have_numbers_of_their_own() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    for epoch in 2..5 {
        mesh.crash(seconds(1));
        for name in ALL {
            mesh.join(name);
        }
        let newest = attempts(&mesh, &run, Stage::Lint).pop().expect("given");
        assert_eq!(newest, AttemptId { epoch: Epoch(epoch), number: 1 });
        let task = mesh.tasks(&run, Stage::Lint)[0];
        assert_eq!(
            (u64::from(task.retries), task.crashes),
            (epoch - 1, 0),
            "its process was another each time"
        );
    }
}

#[test]
fn a_request_repeated_after_the_restart_answers_the_same_run() {
    let mut mesh = TestMesh::full();
    let asked = || {
        let mut asked = order(&["ruff"]);
        asked.request_id = "once".into();
        asked
    };
    let first = mesh.start_order(asked());
    mesh.crash(seconds(DOWN));
    assert_eq!(mesh.start_order(asked()), first);
    let mut other = asked();
    other.body = Digest::of(b"another");
    assert_eq!(refusal(mesh.start_order(other)), Refusal::IdReused("once".into()));
    for name in ALL {
        mesh.join(name);
    }
    mesh.drain();
    mesh.crash(seconds(DOWN));
    assert_eq!(mesh.start_order(asked()), first, "also once it has ended");
}

#[test]
fn an_operators_request_repeated_after_the_restart_is_not_carried_out_again() {
    let mut mesh = TestMesh::full();
    let first = mesh.input(failing("f", BACKEND));
    mesh.input(recovering("r", BACKEND));
    mesh.crash(seconds(DOWN));
    mesh.join(BACKEND);
    assert_eq!(mesh.input(failing("f", BACKEND)), first);
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn work_that_waited_is_given_once_somebody_is_there() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 40);
    let waiting = mesh.core.state().waiting_tasks();
    assert!(waiting > 0);
    mesh.crash(seconds(DOWN));
    assert_eq!(mesh.core.state().waiting_tasks(), waiting);
    for name in ALL {
        mesh.join(name);
    }
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert_eq!(mesh.run(&run).task(TaskId(1)).expect("PLAN").retries, 0, "it was accepted before");
}
