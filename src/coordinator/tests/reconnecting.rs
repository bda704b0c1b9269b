//! A node that comes back says what it has; the coordinator adopts, revokes, or gives the work to others.

use super::mesh::*;
use crate::coordinator::decision::Refusal;
use crate::coordinator::event::{AttemptFault, RunEvent};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::types::{Incarnation, Outcome, SessionId, Stage};

#[test]
fn what_it_still_runs_is_adopted() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.reconnect(BACKEND, &[&lint], &[]);
    assert_eq!(mesh.revoked(), Vec::<&crate::types::AttemptRef>::new());
    assert_eq!(mesh.holder(&lint).as_deref(), Some(BACKEND));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].retries, 0);
}

#[test]
fn a_result_it_holds_is_waited_for() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.reconnect(BACKEND, &[], &[&lint]);
    mesh.finish(&lint);
    assert_eq!(mesh.acknowledged(), [&lint.attempt]);
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].retries, 0);
}

#[test]
fn what_it_does_not_know_of_is_given_out_again_without_counting() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.reconnect(BACKEND, &[], &[]);
    assert!(mesh.log(&run).iter().any(|event| matches!(
        event,
        RunEvent::AttemptFailed { attempt, counts: false, cause: AttemptFault::Lost, .. }
            if *attempt == lint.attempt.attempt
    )));
    let again = mesh.running_of(&run, Stage::Lint).pop().expect("runs again");
    assert_ne!(again.attempt, lint.attempt);
}

#[test]
fn what_was_given_to_another_is_revoked_and_its_result_dropped_and_acknowledged() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.disconnect(BACKEND);
    mesh.pass(seconds(2));
    let elsewhere = mesh.running_of(&run, Stage::Lint).pop().expect("runs elsewhere");
    mesh.reconnect(BACKEND, &[&lint], &[]);
    assert_eq!(mesh.revoked(), [&lint.attempt]);
    let made = Ending::Made { output: blob("stale"), facts: Facts::Lint { error: None } };
    mesh.ended_by(BACKEND, &lint, made);
    assert_eq!(mesh.acknowledged(), [&lint.attempt], "or it would send it for ever");
    assert_eq!(mesh.core.stale_results(), 1);
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].output(), None);
    mesh.finish(&elsewhere);
    let output = mesh.tasks(&run, Stage::Lint)[0].output();
    assert_eq!(output, Some(blob(&elsewhere.attempt.to_string())));
}

#[test]
fn a_result_of_a_node_without_a_connection_counts_if_it_is_still_waited_for() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.disconnect(BACKEND);
    mesh.finish(&lint);
    assert_eq!(mesh.acknowledged(), Vec::<&crate::types::AttemptRef>::new(), "there is no way to it");
    assert_eq!(mesh.tasks(&run, Stage::Lint)[0].output(), Some(blob(&lint.attempt.to_string())));
}

#[test]
fn a_new_process_has_nothing_of_the_old_one() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    let mut liar = hello(BACKEND, 2);
    liar.running = vec![lint.attempt.clone()];
    mesh.connect(liar);
    assert_eq!(mesh.revoked(), [&lint.attempt]);
    let task = mesh.tasks(&run, Stage::Lint)[0];
    assert_eq!((task.crashes, task.retries), (1, 1), "a process that died with the work counts");
    let made = Ending::Made { output: blob("old"), facts: Facts::Lint { error: None } };
    mesh.input(Input::TaskEnded {
        executor: node(BACKEND),
        incarnation: Incarnation(1),
        attempt: lint.attempt,
        ending: made,
        measured: Default::default(),
        via: None,
    });
    assert_eq!(mesh.core.stale_results(), 1);
}

#[test]
fn an_older_process_cannot_take_the_place_of_a_newer_one() {
    let mut mesh = TestMesh::full();
    mesh.join(BACKEND);
    let session = mesh.session(BACKEND);
    let reply = mesh.input(Input::Joined { session: SessionId(99), hello: Box::new(hello(BACKEND, 1)) });
    let (current, offered) = (Incarnation(2), Incarnation(1));
    assert_eq!(refusal(reply), Refusal::StaleIncarnation { node: node(BACKEND), current, offered });
    assert_eq!(mesh.session(BACKEND), session, "nobody else notices");
    assert_eq!(mesh.effects, []);
}

#[test]
fn a_hello_said_twice_does_not_close_its_own_connection() {
    let mut mesh = TestMesh::full();
    let session = mesh.session(BACKEND);
    mesh.input(Input::Joined { session, hello: Box::new(hello(BACKEND, 1)) });
    assert_eq!(mesh.effects, []);
    assert_eq!(mesh.session(BACKEND), session);
}

#[test]
fn a_running_process_cannot_change_what_it_is() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff", "mypy"], 1);
    assert_eq!(mesh.running_on(BACKEND).len(), 2);
    let mut smaller = hello(BACKEND, 1);
    smaller.spec.max_concurrent_tasks = 1;
    let session = SessionId(99);
    let reply = mesh.input(Input::Joined { session, hello: Box::new(smaller.clone()) });
    assert_eq!(refusal(reply), Refusal::DeclaredOtherwise(node(BACKEND)));
    smaller.incarnation = Incarnation(2);
    mesh.connect(smaller);
    assert_eq!(mesh.core.state().members[&node(BACKEND)].spec.max_concurrent_tasks, 1);
}
