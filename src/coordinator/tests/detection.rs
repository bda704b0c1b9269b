//! Silence, resets, deaths: when a node is DEGRADED, when FAILED, and when the coordinator doubts itself first.

use super::mesh::*;
use crate::coordinator::breaker::State as Breaker;
use crate::coordinator::decision::Effect;
use crate::coordinator::event::RunEvent;
use crate::coordinator::input::Input;
use crate::coordinator::input::{Beat, SessionEnding};
use crate::types::{FaultCause, Load, NodeStatus, Stage};

const ACTIVE: (NodeStatus, Option<FaultCause>) = (NodeStatus::Active, None);
const SILENT: (NodeStatus, Option<FaultCause>) = (NodeStatus::Degraded, Some(FaultCause::Silent));
const TIMED_OUT: (NodeStatus, Option<FaultCause>) = (NodeStatus::Failed, Some(FaultCause::HeartbeatTimeout));
const RESET: (NodeStatus, Option<FaultCause>) = (NodeStatus::Degraded, Some(FaultCause::SessionLost));
const GONE: (NodeStatus, Option<FaultCause>) = (NodeStatus::Failed, Some(FaultCause::SessionLost));

const OTHERS: [&str; 3] = [ARCHITECT, DOCS, INTEGRATION];

const fn ms(ms: u64) -> std::time::Duration {
    std::time::Duration::from_millis(ms)
}

#[test]
fn silence_makes_a_node_degraded_then_failed_exactly_when_it_should() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.beat(BACKEND);
    let heard = mesh.now;
    let mut seen = vec![(0, ACTIVE)];
    while mesh.now < heard + seconds(31) {
        mesh.pass_with(&OTHERS, ms(500));
        let status = mesh.status(BACKEND);
        if seen.last().is_none_or(|(_, last)| *last != status) {
            seen.push((mesh.now.since(heard).as_millis(), status));
        }
    }
    assert_eq!(seen, [(0, ACTIVE), (2_500, SILENT), (30_000, TIMED_OUT)]);
    assert_ne!(mesh.holder(&mesh.running_of(&run, Stage::Lint)[0]), None);
    assert_eq!(mesh.holder(&lint), None, "its work went elsewhere");
    let breaker = &mesh.core.presences()[&node(BACKEND)].breaker;
    assert_eq!(breaker.state(mesh.now), Breaker::Open);
    let told: Vec<_> = mesh
        .log(&run)
        .into_iter()
        .filter(|event| matches!(event, RunEvent::NodeFault { .. } | RunEvent::Redistributed { .. }))
        .collect();
    assert!(matches!(
        told[..],
        [
            RunEvent::NodeFault { cause: FaultCause::HeartbeatTimeout, .. },
            RunEvent::Redistributed { counts: true, .. }
        ]
    ));
}

#[test]
fn a_degraded_node_keeps_its_work_and_gets_none() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.pass_with(&OTHERS, seconds(10));
    assert_eq!(mesh.status(BACKEND), SILENT);
    assert_eq!(mesh.holder(&lint).as_deref(), Some(BACKEND));
    let other = mesh.planned(&["mypy"], 1);
    assert_ne!(mesh.holder(&mesh.running_of(&other, Stage::Lint)[0]).as_deref(), Some(BACKEND));
    mesh.beat(BACKEND);
    mesh.pass_with(&ALL, ms(4_999));
    assert_eq!(mesh.status(BACKEND), SILENT, "one heartbeat is no proof");
    mesh.pass_with(&ALL, ms(1));
    assert_eq!(mesh.status(BACKEND), ACTIVE, "an interval of them is");
}

#[test]
fn a_session_that_ends_before_its_node_said_anything_is_no_end_of_its_process() {
    let mut mesh = TestMesh::full();
    mesh.reconnect(BACKEND, &[], &[]);
    mesh.hang_up(BACKEND);
    mesh.pass(seconds(3));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Degraded, Some(FaultCause::SessionLost)));
}

#[test]
fn a_reset_connection_has_a_grace_then_the_node_is_failed() {
    let mut mesh = TestMesh::full();
    mesh.disconnect(BACKEND);
    assert_eq!(mesh.status(BACKEND), RESET);
    mesh.pass(mesh.core.settings().reconnect_grace - std::time::Duration::from_micros(1));
    assert_eq!(mesh.status(BACKEND), RESET);
    mesh.pass(std::time::Duration::from_micros(1));
    assert_eq!(mesh.status(BACKEND), GONE);
    mesh.reconnect(BACKEND, &[], &[]);
    assert_eq!(mesh.status(BACKEND), GONE, "it has to prove itself");
    mesh.pass_with(&ALL, seconds(5));
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn a_return_within_the_grace_changes_nothing() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.disconnect(BACKEND);
    mesh.pass(mesh.core.settings().reconnect_grace / 2);
    mesh.reconnect(BACKEND, &[&lint], &[]);
    assert_eq!(mesh.status(BACKEND), ACTIVE);
    mesh.pass_with(&ALL, seconds(5));
    assert_eq!(mesh.status(BACKEND), ACTIVE);
    assert_eq!(mesh.holder(&lint).as_deref(), Some(BACKEND));
}

#[test]
fn an_old_sessions_close_and_heartbeats_mean_nothing() {
    let mut mesh = TestMesh::full();
    let old = mesh.session(BACKEND);
    mesh.reconnect(BACKEND, &[], &[]);
    assert_eq!(mesh.effects, [Effect::CloseSession(old)]);
    mesh.input(Input::SessionClosed { session: old, node: node(BACKEND), ending: SessionEnding::Reset });
    assert_eq!(mesh.status(BACKEND), ACTIVE);
    let load = Load { cpu: 1.0, ..Load::default() };
    mesh.input(Input::Beat { session: old, node: node(BACKEND), beat: Beat { load, ..Beat::default() } });
    assert_eq!(mesh.core.presences()[&node(BACKEND)].load, Load::default());
}

#[test]
fn when_many_fall_silent_nobody_is_failed_though_their_heartbeats_are_staggered() {
    let mut mesh = TestMesh::full();
    mesh.planned(&["ruff"], 2);
    let before = mesh.running();
    for name in ALL {
        mesh.beat(name);
        mesh.pass(seconds(1));
    }
    mesh.pass(seconds(120));
    for name in ALL {
        assert_eq!(mesh.status(name), SILENT, "{name}");
    }
    assert_eq!(mesh.running(), before, "nothing was taken from anybody");
    for name in OTHERS {
        mesh.beat(name);
    }
    for name in OTHERS {
        assert_eq!(mesh.status(name), ACTIVE, "{name}: nothing is held against those of many");
    }
    mesh.pass_with(&OTHERS, seconds(29));
    assert_eq!(
        mesh.status(BACKEND),
        SILENT,
        "the return of the others condemns it no sooner than its silence alone"
    );
    mesh.pass_with(&OTHERS, seconds(2));
    assert_eq!(mesh.status(BACKEND), TIMED_OUT);
}

#[test]
fn when_many_are_reset_they_have_until_the_message_timeout_to_return() {
    let mut mesh = TestMesh::full();
    for name in ALL {
        mesh.disconnect(name);
    }
    mesh.pass(seconds(29));
    for name in ALL {
        assert_eq!(mesh.status(name), RESET, "{name}");
    }
    mesh.reconnect(BACKEND, &[], &[]);
    mesh.pass(seconds(1));
    for name in OTHERS {
        assert_eq!(mesh.status(name), GONE, "{name}");
    }
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn a_coordinator_that_overslept_blames_nobody() {
    let mut mesh = TestMesh::full();
    mesh.now = mesh.now + seconds(300);
    mesh.decide(Input::Timer);
    for name in ALL {
        assert_eq!(mesh.status(name), ACTIVE, "{name}");
    }
    mesh.pass_with(&OTHERS, seconds(30));
    assert_eq!(mesh.status(BACKEND), TIMED_OUT, "silence counts from the awakening");
}

#[test]
fn a_heartbeat_that_waits_in_the_queue_is_in_time() {
    let mut mesh = TestMesh::full();
    mesh.pass(ms(2_499));
    mesh.now = mesh.now + ms(1);
    for name in ALL {
        let session = mesh.session(name);
        mesh.decide(Input::Beat { session, node: node(name), beat: Beat::default() });
    }
    mesh.decide(Input::Timer);
    for name in ALL {
        assert_eq!(mesh.status(name), ACTIVE, "{name}");
    }
    let late = |event: &&crate::coordinator::event::Event| {
        matches!(
            event,
            crate::coordinator::event::Event::NodeStatusChanged { status: NodeStatus::Degraded, .. }
        )
    };
    assert_eq!(mesh.events.iter().find(late), None);
}

#[test]
fn a_dead_process_is_failed_at_once_and_its_last_words_do_not_revive_it() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let session = mesh.session(BACKEND);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    let dead = (NodeStatus::Failed, Some(FaultCause::ProcessExited));
    assert_eq!(mesh.status(BACKEND), dead);
    assert!(mesh.effects.contains(&Effect::CloseSession(session)));
    assert_ne!(mesh.holder(&mesh.running_of(&run, Stage::Lint)[0]), None, "its work went on at once");
    mesh.input(Input::Beat { session, node: node(BACKEND), beat: Beat::default() });
    mesh.input(Input::SessionClosed { session, node: node(BACKEND), ending: SessionEnding::Reset });
    assert_eq!(mesh.status(BACKEND), dead);
    mesh.join(BACKEND);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 1 });
    assert_eq!(mesh.status(BACKEND), ACTIVE, "the end of an older process says nothing about the new one");
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 2 });
    mesh.input(recovering("r", BACKEND));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Initializing);
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 3 });
    assert_eq!(mesh.status(BACKEND), dead, "a process can die before it joins");
}

#[test]
fn the_breaker_waits_for_an_old_process_and_tries_a_new_one_at_once() {
    let mut mesh = TestMesh::full();
    mesh.disconnect(BACKEND);
    mesh.pass(seconds(2));
    mesh.reconnect(BACKEND, &[], &[]);
    mesh.pass_with(&ALL, seconds(6));
    let run = mesh.planned(&["ruff", "mypy", "pylint"], 1);
    assert_eq!(mesh.status(BACKEND), ACTIVE);
    assert_eq!(mesh.running_on(BACKEND), [], "the same process: its breaker is still Open");
    mesh.join(BACKEND);
    let probe = mesh.running_on(BACKEND);
    assert_eq!(probe.len(), 0, "the cores are taken");
    let elsewhere = mesh.running_of(&run, Stage::Lint);
    mesh.finish(&elsewhere[0]);
    assert_eq!(mesh.running_on(BACKEND).len(), 1, "a new process is probed at once");
    let more = mesh.planned(&["ruff", "mypy"], 1);
    assert_eq!(mesh.running_on(BACKEND).len(), 1, "with one task");
    let probe = mesh.running_on(BACKEND).pop().expect("the probe");
    mesh.finish(&probe);
    assert_eq!(mesh.core.presences()[&node(BACKEND)].breaker.state(mesh.now), Breaker::Closed);
    mesh.drain();
    assert!(mesh.outcome(&more).is_some());
}

#[test]
fn an_open_breaker_lets_a_probe_through_when_its_time_is_over() {
    let mut mesh = TestMesh::with(Default::default());
    mesh.join(BACKEND);
    let run = mesh.start(&["ruff"]);
    mesh.disconnect(BACKEND);
    mesh.pass(seconds(2));
    mesh.reconnect(BACKEND, &[], &[]);
    assert_eq!(mesh.running(), []);
    mesh.pass_with(&[BACKEND], seconds(57));
    assert_eq!(mesh.running(), [], "recovery_timeout is not over");
    mesh.pass_with(&[BACKEND], seconds(2));
    assert_eq!(mesh.running_of(&run, Stage::Plan).len(), 1);
}
