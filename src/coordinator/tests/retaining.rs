//! Finished runs are kept by number and by age, and forgotten a few at a time.

use super::mesh::*;
use super::tripping::stored;
use crate::coordinator::Coordinator;
use crate::coordinator::event::Event;
use crate::coordinator::input::Input;
use crate::coordinator::settings::Settings;
use crate::types::{Epoch, Now, RunId, Tick, UnixMillis};

fn cancelled(mesh: &mut TestMesh) -> RunId {
    let run = mesh.start(&["ruff"]);
    mesh.input(Input::CancelRun { run: run.clone(), reason: "enough".into() });
    run
}

fn known(mesh: &TestMesh) -> Vec<&RunId> {
    mesh.core.state().order.iter().collect()
}

#[test]
fn a_run_is_forgotten_when_it_ended_long_ago_although_nobody_says_anything() {
    let settings = Settings { keep_runs_for: seconds(100), ..Settings::default() };
    let mut mesh = TestMesh::with(settings);
    let open = mesh.start(&["ruff"]);
    let first = cancelled(&mut mesh);
    mesh.pass(seconds(50));
    let second = cancelled(&mut mesh);
    mesh.pass(seconds(49));
    assert_eq!(known(&mesh), [&open, &first, &second]);
    mesh.pass(seconds(6));
    assert_eq!(known(&mesh), [&open, &second]);
    mesh.pass(seconds(60));
    assert_eq!(known(&mesh), [&open], "an open run is never forgotten");
}

#[test]
fn of_too_many_runs_the_ones_that_ended_first_are_forgotten() {
    let mut mesh = TestMesh::with(Settings { kept_runs: 2, ..Settings::default() });
    let long = mesh.start(&["ruff"]);
    let mut others: Vec<RunId> = Vec::new();
    for _ in 0..4 {
        mesh.pass(seconds(1));
        others.push(cancelled(&mut mesh));
    }
    mesh.input(Input::CancelRun { run: long.clone(), reason: "enough".into() });
    mesh.pass(seconds(6));
    assert_eq!(known(&mesh), [&long, &others[3]]);
}

#[test]
fn after_a_start_with_far_too_many_runs_each_decision_forgets_some_until_few_are_left() {
    let mut mesh = TestMesh::with(Settings::default());
    for _ in 0..200 {
        cancelled(&mut mesh);
    }
    let start = Now { tick: Tick(7_000_000), wall: UnixMillis(mesh.now.0 / 1000) };
    let settings = Settings { kept_runs: 10, ..Settings::default() };
    let mut core = Coordinator::resume(settings, stored(mesh.core.state(), 2), start);
    let (mut tick, mut next, mut forgotten) = (start.tick, start.tick, Vec::new());
    while core.state().ended.len() > 10 {
        tick = next;
        let decision = core.decide(Now { tick, ..start }, Input::Timer);
        let now = decision.events.iter().filter(|event| matches!(event, Event::RunForgotten(_)));
        forgotten.push(now.count());
        next = decision.wake_at.expect("there is more to forget").max(tick);
    }
    assert_eq!(forgotten.iter().sum::<usize>(), 190);
    assert!(forgotten.iter().all(|times| *times <= 64), "{forgotten:?}");
    assert!(tick.since(start.tick) <= seconds(20), "soon: {tick:?}");
}

#[test]
fn a_clock_that_is_put_back_has_no_newer_run_forgotten_for_an_older_one() {
    let mut core = Coordinator::new(Settings { kept_runs: 2, ..Settings::default() }, Epoch(1));
    let mut tick = Tick(1_000_000);
    for (number, wall) in [(1, 9_000_000), (2, 9_000_001), (3, 1_000), (4, 1_001)] {
        tick = tick + seconds(10);
        let now = Now { tick, wall: UnixMillis(wall) };
        let run = RunId::new(&format!("run-{number}")).expect("valid");
        core.decide(now, Input::StartRun { run: run.clone(), order: Box::new(order(&["ruff"])) });
        core.decide(now, Input::CancelRun { run, reason: "enough".into() });
        core.decide(now, Input::Timer);
    }
    core.decide(Now { tick: tick + seconds(10), wall: UnixMillis(2_000) }, Input::Timer);
    let kept: Vec<&str> = core.state().order.iter().map(RunId::as_str).collect();
    assert_eq!(kept, ["run-3", "run-4"]);
    assert_eq!(stored(core.state(), 1).ended, core.state().ended, "after a restart too");
}
