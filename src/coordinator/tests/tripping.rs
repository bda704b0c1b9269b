//! What circuit breakers go through is a fact, and outlives the coordinator.

use super::mesh::*;
use crate::coordinator::Coordinator;
use crate::coordinator::breaker::{State as Breaker, TripReason};
use crate::coordinator::event::{Event, Trip};
use crate::coordinator::input::{FaultAction, Input};
use crate::coordinator::node::Member;
use crate::coordinator::settings::Settings;
use crate::coordinator::state::State;
use crate::types::{Epoch, Now, Stage, Tick, UnixMillis};

/// The state as a coordinator that starts anew finds it.
pub(super) fn stored(state: &State, epoch: u64) -> State {
    let mut restored = State::new(Epoch(epoch));
    for part in state.parts() {
        let record = serde_json::to_vec(&part).expect("writes");
        restored.restore(serde_json::from_slice(&record).expect("reads"));
    }
    restored
}

fn trips(mesh: &TestMesh) -> Vec<Option<(TripReason, u32)>> {
    let events = mesh.events.iter();
    events
        .filter_map(|event| match event {
            Event::NodeBreaker { node: of, trip, .. } if *of == node(BACKEND) => {
                Some(trip.as_ref().map(|trip| (trip.reason, trip.failed_probes)))
            }
            _ => None,
        })
        .collect()
}

fn trip(mesh: &TestMesh) -> Option<Trip> {
    mesh.core.state().members[&node(BACKEND)].trip.clone()
}

#[test]
fn failures_failed_probes_and_a_good_one_are_recorded() {
    let settings = Settings { circuit_breaker_threshold: 2, max_retry_attempts: 10, ..Settings::default() };
    let mut mesh = TestMesh::with(settings);
    mesh.join(BACKEND);
    let run = mesh.start(&["ruff"]);
    let breaks = |mesh: &mut TestMesh| {
        let assign = mesh.running_of(&run, Stage::Plan).pop().expect("PLAN runs");
        mesh.fails(&assign);
    };
    breaks(&mut mesh);
    assert_eq!(trips(&mesh), []);
    breaks(&mut mesh);
    let opened = Some((TripReason::ConsecutiveFailures, 0));
    assert_eq!(trips(&mesh), [opened]);
    let until = UnixMillis((mesh.now + seconds(60)).0 / 1000);
    assert_eq!(trip(&mesh).map(|trip| trip.probe_at), Some(until));
    mesh.pass_with(&[BACKEND], seconds(61));
    assert_eq!(trips(&mesh), [opened], "that its time is over is no fact");
    breaks(&mut mesh);
    let again = Some((TripReason::ProbeFailed, 1));
    assert_eq!(trips(&mesh), [opened, again]);
    mesh.pass_with(&[BACKEND], seconds(121));
    mesh.plan_done(&run, 1);
    assert_eq!(trips(&mesh), [opened, again, None]);
    assert_eq!(trip(&mesh), None);
}

#[test]
fn what_operators_and_new_processes_do_to_a_breaker_is_recorded() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("one", BACKEND));
    let failed = Some((TripReason::DeclaredFailed, 0));
    assert_eq!(trips(&mesh), [failed]);
    mesh.input(Input::HandleFault(fault("two", FaultAction::ResetBreaker, BACKEND)));
    assert_eq!(trips(&mesh), [failed, None]);
    mesh.input(Input::HandleFault(fault("three", FaultAction::ResetBreaker, BACKEND)));
    assert_eq!(trips(&mesh), [failed, None], "it was closed");

    mesh.input(recovering("four", BACKEND));
    let process_id = mesh.core.presences()[&node(BACKEND)].process_id;
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id });
    let now = UnixMillis(mesh.now.0 / 1000);
    assert!(trip(&mesh).is_some_and(|trip| trip.probe_at > now));
    mesh.join(BACKEND);
    assert!(
        trip(&mesh).is_some_and(|trip| trip.probe_at <= now),
        "the next task of a new process is a probe"
    );
}

#[test]
fn an_open_breaker_outlives_the_coordinator_for_what_is_left_of_its_time() {
    let mut mesh = TestMesh::full();
    mesh.input(failing("one", BACKEND));
    let wall = UnixMillis(mesh.now.0 / 1000);
    let resumed = |later: u64| {
        let now = Now { tick: Tick(5_000_000), wall: UnixMillis(wall.0 + later * 1000) };
        let core = Coordinator::resume(Settings::default(), stored(mesh.core.state(), 2), now);
        assert_eq!(core.state().members, mesh.core.state().members);
        let breaker = &core.presences()[&node(BACKEND)].breaker;
        assert_eq!(breaker.trip_reason(), Some(TripReason::DeclaredFailed));
        (breaker.state(now.tick), breaker.next_probe())
    };
    assert_eq!(resumed(20), (Breaker::Open, Some(Tick(5_000_000) + seconds(40))));
    assert_eq!(resumed(3600), (Breaker::HalfOpen, Some(Tick(5_000_000))));
    // A clock that was put back must not keep it open for longer than it ever is.
    mesh.now = Tick(mesh.now.0 + 7 * 24 * 3_600_000_000);
    mesh.input(failing("two", ARCHITECT));
    let now = Now { tick: Tick(5_000_000), wall };
    let core = Coordinator::resume(Settings::default(), stored(mesh.core.state(), 2), now);
    let breaker = &core.presences()[&node(ARCHITECT)].breaker;
    assert!(breaker.next_probe() <= Some(Tick(5_000_000) + seconds(66)));
}

#[test]
fn a_member_that_was_stored_without_its_breaker_has_a_closed_one() {
    let mesh = TestMesh::full();
    let member = &mesh.core.state().members[&node(BACKEND)];
    let mut stored = serde_json::to_value(member).expect("writes");
    stored.as_object_mut().expect("an object").remove("trip").expect("is there");
    let read: Member = serde_json::from_value(stored).expect("reads");
    assert_eq!(read, *member);
}
