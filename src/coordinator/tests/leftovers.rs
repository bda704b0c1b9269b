//! Results that a node's process left when it died: its successor delivers them, and nothing else that it claims counts.

use super::mesh::*;
use crate::coordinator::event::{AttemptFault, RunEvent};
use crate::coordinator::input::{Beat, Ending, Facts, Input};
use crate::coordinator::message::Assign;
use crate::types::{AttemptRef, Incarnation, Load, Measured, Outcome, RunId, Stage};

/// A run with two LINT tasks on the node for them.
fn linting() -> (TestMesh, RunId, [Assign; 2]) {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    let given = mesh.running_on(BACKEND).try_into().expect("both are made for it");
    (mesh, run, given)
}

/// The node's next process joins and says what it found.
fn succeeds(mesh: &mut TestMesh, found: &[&AttemptRef]) {
    let mut hello = hello(BACKEND, mesh.incarnation(BACKEND).0 + 1);
    hello.unacknowledged = found.iter().map(|attempt| (*attempt).clone()).collect();
    mesh.connect(hello);
}

fn delivers(mesh: &mut TestMesh, incarnation: u64, attempt: &AttemptRef) {
    mesh.input(Input::TaskEnded {
        executor: node(BACKEND),
        incarnation: Incarnation(incarnation),
        attempt: attempt.clone(),
        ending: Ending::Made { output: blob("left"), facts: Facts::Lint { error: None } },
        measured: Measured::default(),
        via: None,
    });
}

fn is_held(mesh: &TestMesh, assign: &Assign) -> bool {
    mesh.core.presences()[&node(BACKEND)].running.contains_key(&assign.attempt.attempt)
}

#[test]
fn what_its_successor_found_is_kept_until_it_is_delivered_and_the_rest_is_taken_back() {
    let (mut mesh, run, [left, lost]) = linting();
    succeeds(&mut mesh, &[&left.attempt]);
    assert_eq!(mesh.revoked(), Vec::<&AttemptRef>::new());
    assert!(is_held(&mesh, &left) && !is_held(&mesh, &lost));
    let task = |mesh: &TestMesh, of: &Assign| mesh.run(&run).task(of.attempt.task).expect("exists").clone();
    assert_eq!((task(&mesh, &left).crashes, task(&mesh, &lost).crashes), (0, 1));
    delivers(&mut mesh, 1, &left.attempt);
    assert_eq!(mesh.acknowledged(), [&left.attempt]);
    assert_eq!((task(&mesh, &left).output(), task(&mesh, &left).retries), (Some(blob("left")), 0));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn it_counts_only_under_the_process_that_was_given_the_work() {
    let (mut mesh, _, [left, _]) = linting();
    succeeds(&mut mesh, &[&left.attempt]);
    for incarnation in [0, 2, 3] {
        delivers(&mut mesh, incarnation, &left.attempt);
    }
    assert_eq!(mesh.core.stale_results(), 3);
    assert!(is_held(&mesh, &left), "the right one may still come");
    delivers(&mut mesh, 1, &left.attempt);
    assert_eq!(mesh.core.stale_results(), 3);
}

#[test]
fn it_is_waited_for_over_further_restarts_of_the_process() {
    let (mut mesh, run, [left, lost]) = linting();
    succeeds(&mut mesh, &[&left.attempt, &lost.attempt]);
    succeeds(&mut mesh, &[&left.attempt]);
    assert!(is_held(&mesh, &left) && !is_held(&mesh, &lost));
    mesh.reconnect(BACKEND, &[], &[&left]);
    delivers(&mut mesh, 1, &left.attempt);
    assert_eq!(mesh.run(&run).task(left.attempt.task).expect("exists").output(), Some(blob("left")));
}

#[test]
fn what_nobody_waits_for_is_revoked_so_that_it_is_forgotten() {
    let (mut mesh, run, [accepted, other]) = linting();
    let ended = {
        let ended = mesh.planned(&["flake8"], 1);
        let task = mesh.running_of(&ended, Stage::Lint).pop().expect("runs");
        mesh.input(Input::CancelRun { run: ended, reason: "enough".into() });
        task
    };
    delivers(&mut mesh, 1, &accepted.attempt);
    let unknown = AttemptRef { run: RunId::new("nowhere").expect("valid"), ..other.attempt.clone() };
    let elsewhere = mesh.running().into_iter().find(|it| mesh.holder(it).as_deref() != Some(BACKEND));
    let elsewhere = elsewhere.expect("CLASSIFY runs").attempt;
    let other_task = AttemptRef { task: accepted.attempt.task, ..other.attempt.clone() };
    let mut other_epoch = other.attempt.clone();
    other_epoch.attempt.epoch.0 += 1;
    let claims = [&accepted.attempt, &ended.attempt, &unknown, &elsewhere, &other_task, &other_epoch];
    let done = mesh.run(&run).task(accepted.attempt.task).expect("exists").clone();
    succeeds(&mut mesh, &claims);
    assert_eq!(mesh.revoked(), claims);
    assert_eq!(mesh.run(&run).task(accepted.attempt.task), Some(&done));
    assert!(mesh.running().iter().any(|it| it.attempt == elsewhere), "another's work goes on");
    let again = mesh.core.state().clone();
    for claim in claims {
        delivers(&mut mesh, 1, claim);
        assert_eq!(mesh.acknowledged(), [claim], "whatever it sends, it need not send again");
    }
    assert_eq!(mesh.core.state(), &again);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn a_run_that_was_forgotten_is_as_good_as_none() {
    let settings = crate::coordinator::settings::Settings { kept_runs: 0, ..Default::default() };
    let mut mesh = TestMesh::full_with(settings);
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.drain();
    mesh.start(&["ruff"]);
    assert!(!mesh.core.state().runs.contains_key(&run));
    succeeds(&mut mesh, &[&lint.attempt]);
    assert_eq!(mesh.revoked(), [&lint.attempt]);
}

#[test]
fn claiming_results_without_ever_delivering_them_holds_up_nothing_for_longer_than_a_task_may_take() {
    let (mut mesh, run, [silent, told]) = linting();
    succeeds(&mut mesh, &[&silent.attempt, &told.attempt]);
    let beat = |mesh: &mut TestMesh| {
        let session = mesh.session(BACKEND);
        let attempts = vec![(told.attempt.clone(), std::time::Duration::ZERO)];
        let beat = Beat { attempts, load: Load::default(), ..Beat::default() };
        mesh.input(Input::Beat { session, node: node(BACKEND), beat });
    };
    for _ in 0..3 {
        beat(&mut mesh);
    }
    let faults = |mesh: &TestMesh| -> Vec<_> {
        let log = mesh.log(&run).into_iter();
        log.filter_map(|event| match event {
            RunEvent::AttemptFailed { attempt, cause, .. } => Some((*attempt, *cause)),
            _ => None,
        })
        .collect()
    };
    assert_eq!(faults(&mesh), [(silent.attempt.attempt, AttemptFault::Lost)]);
    let deadline = mesh.core.presences()[&node(BACKEND)].running[&told.attempt.attempt].deadline;
    while mesh.now < deadline {
        mesh.pass_answering(&ALL, seconds(5));
        for name in [ARCHITECT, DOCS, INTEGRATION] {
            mesh.beat(name);
        }
        beat(&mut mesh);
    }
    assert!(faults(&mesh).contains(&(told.attempt.attempt, AttemptFault::Deadline)));
}

#[test]
fn no_more_is_kept_than_its_successor_may_run() {
    let (mut mesh, run, [one, other]) = linting();
    let mut smaller = hello(BACKEND, 2);
    smaller.spec.max_concurrent_tasks = 1;
    smaller.unacknowledged = vec![one.attempt.clone(), other.attempt.clone()];
    mesh.connect(smaller);
    assert_eq!(mesh.core.presences()[&node(BACKEND)].running.len(), 1);
    assert_eq!(mesh.revoked().len(), 1);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}

#[test]
fn what_a_process_says_it_runs_of_a_former_one_is_no_result() {
    let (mut mesh, run, [left, _]) = linting();
    let mut liar = hello(BACKEND, 2);
    liar.running = vec![left.attempt.clone()];
    mesh.connect(liar);
    assert_eq!(mesh.revoked(), [&left.attempt]);
    assert!(!is_held(&mesh, &left));
    assert_eq!(mesh.run(&run).task(left.attempt.task).expect("exists").crashes, 1);
}
