//! Nodes that say what is not so: nothing they say may disturb another's work.

use super::mesh::*;
use crate::coordinator::input::{Beat, SessionEnding};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::coordinator::run::TaskState;
use crate::types::{AttemptId, AttemptRef, Epoch, Load, Outcome, RunId, SessionId, Stage, TaskId};

#[test]
fn a_rejection_under_another_tasks_name_changes_nothing() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    let [own, other] = &mesh.running_of(&run, Stage::Lint)[..] else { panic!("two run") };
    let (own, other) = (own.clone(), other.clone());
    let before = mesh.core.state().clone();
    for (run, task) in [
        (own.attempt.run.clone(), TaskId(1)),
        (own.attempt.run.clone(), other.attempt.task),
        (own.attempt.run.clone(), TaskId(0)),
        (own.attempt.run.clone(), TaskId(u64::MAX)),
        (RunId::new("nowhere").expect("valid"), own.attempt.task),
    ] {
        let attempt = AttemptRef { run, task, attempt: own.attempt.attempt };
        mesh.input(Input::Rejected { node: node(BACKEND), attempt, reason: "no".into() });
    }
    let (attempt, reason) = (own.attempt.clone(), String::new());
    mesh.input(Input::Rejected { node: node(DOCS), attempt, reason });
    assert_eq!(*mesh.core.state(), before);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn results_for_attempts_of_others_or_of_nobody_are_dropped_and_counted() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    let before = mesh.core.state().clone();
    let made = || Ending::Made { output: blob("lie"), facts: Facts::Lint { error: None } };
    mesh.ended_by(DOCS, &lint, made());
    mesh.ended_by(DOCS, &lint, Ending::Failed("not mine".into()));
    for attempt in [
        AttemptId { epoch: Epoch(1), number: lint.attempt.attempt.number + 1 },
        AttemptId { epoch: Epoch(2), number: lint.attempt.attempt.number },
        AttemptId { epoch: Epoch(0), number: 0 },
    ] {
        let mut forged = lint.clone();
        forged.attempt.attempt = attempt;
        mesh.ended_by(BACKEND, &forged, made());
    }
    for task in [TaskId(0), TaskId(1), TaskId(99), TaskId(u64::MAX)] {
        let mut forged = lint.clone();
        forged.attempt.task = task;
        mesh.ended_by(BACKEND, &forged, made());
    }
    assert_eq!(*mesh.core.state(), before);
    assert_eq!(mesh.core.stale_results(), 9);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn a_result_said_twice_counts_once() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    let made = || Ending::Made { output: blob("result"), facts: Facts::Lint { error: None } };
    mesh.ended_by(BACKEND, &lint, made());
    mesh.ended_by(BACKEND, &lint, made());
    assert_eq!(mesh.acknowledged(), [&lint.attempt]);
    assert_eq!((mesh.core.stale_results(), mesh.tasks(&run, Stage::Classify).len()), (1, 1));
}

#[test]
fn a_failed_nodes_result_is_stale_even_if_nobody_has_the_task_yet() {
    let mut mesh = TestMesh::with(Default::default());
    mesh.join(BACKEND);
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running().pop().expect("LINT runs");
    mesh.input(failing("f", BACKEND));
    mesh.ended_by(BACKEND, &lint, Ending::Made { output: blob("x"), facts: Facts::Lint { error: None } });
    assert_eq!(mesh.core.stale_results(), 1);
    assert!(is_queued(mesh.tasks(&run, Stage::Lint)[0]));
}

#[test]
fn an_output_of_another_stage_is_a_failed_attempt() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    let facts = Facts::Aggregate {
        outcome: Outcome::Clean,
        summary: Default::default(),
        tool_errors: Default::default(),
    };
    mesh.made(&lint, facts);
    assert_eq!(mesh.outcome(&run), None);
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].crashes, 1);
}

#[test]
fn a_plan_that_leaves_a_tool_out_or_adds_one_is_a_failed_attempt() {
    for wrong in [vec![], vec![tool("ruff")], vec![tool("bandit"), tool("mypy"), tool("ruff")]] {
        let mut mesh = TestMesh::full();
        let run = mesh.start(&["mypy", "ruff"]);
        let assign = mesh.running_of(&run, Stage::Plan).pop().expect("PLAN runs");
        mesh.made(&assign, Facts::Plan(plan(&wrong, 1)));
        let task = mesh.tasks(&run, Stage::Plan)[0];
        assert!(matches!(task.state, TaskState::Running { .. }), "tried again");
        assert_eq!(task.crashes, 1);
    }
}

#[test]
fn a_plan_with_absurdly_many_shards_is_a_failed_attempt() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1025);
    assert_eq!(mesh.tasks(&run, Stage::Plan)[0].crashes, 1);
    assert!(mesh.tasks(&run, Stage::Lint).is_empty());
    mesh.plan_done(&run, 1024);
    assert_eq!(mesh.tasks(&run, Stage::Lint).len(), 1024);
}

#[test]
fn words_of_strangers_and_absurd_loads_are_harmless() {
    let mut mesh = TestMesh::full();
    let revision = mesh.core.revision();
    let load = Load { cpu: f64::NAN, memory: f64::NEG_INFINITY, running_tasks: u32::MAX, ..Load::default() };
    let stranger = node("stranger");
    mesh.input(Input::Beat {
        session: SessionId(1),
        node: stranger.clone(),
        beat: Beat { load, ..Beat::default() },
    });
    mesh.input(Input::SessionClosed {
        session: SessionId(1),
        node: stranger.clone(),
        ending: SessionEnding::Reset,
    });
    mesh.input(Input::SessionClosed {
        session: SessionId(1),
        node: node(DOCS),
        ending: SessionEnding::Reset,
    });
    mesh.input(Input::ProcessExited { node: stranger, process_id: 1 });
    let session = mesh.session(BACKEND);
    mesh.input(Input::Beat { session, node: node(BACKEND), beat: Beat { load, ..Beat::default() } });
    assert_eq!(mesh.core.revision(), revision);
    let run = mesh.planned(&["ruff"], 3);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}
