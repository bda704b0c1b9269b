//! Which nodes belong to the mesh, and until when.

use std::collections::BTreeMap;

use super::draining::asked_to_end;
use super::mesh::*;
use crate::coordinator::decision::{Refusal, Reply};
use crate::coordinator::event::FaultAnswer;
use crate::coordinator::input::{FaultAction, Input, SessionEnding};
use crate::coordinator::node::Member;
use crate::coordinator::settings::Settings;
use crate::types::{Incarnation, NodeId, NodeSpec, NodeStatus, Outcome, SessionId};

fn members(mesh: &TestMesh) -> Vec<&str> {
    mesh.core.state().members.keys().map(NodeId::as_str).collect()
}

/// A node leaves in order.
fn leaves(mesh: &mut TestMesh, name: &str) {
    asked_to_end(mesh, name);
    mesh.disconnect(name);
}

fn forgetting(name: &str) -> Input {
    Input::HandleFault(fault("", FaultAction::Forget, name))
}

fn other(name: &str) -> NodeSpec {
    NodeSpec { max_concurrent_tasks: 9, ..specialist(name) }
}

#[test]
fn declarations_are_kept_until_the_node_says_otherwise() {
    let mut mesh = TestMesh::with(Default::default());
    mesh.input(Input::Declare(vec![specialist(BACKEND), specialist(DOCS)]));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Initializing);
    let declared = mesh.events.len();
    mesh.input(Input::Declare(vec![specialist(BACKEND)]));
    assert_eq!(mesh.events.len(), declared, "repeating it changes nothing");
    mesh.join(BACKEND);
    let mut other = specialist(BACKEND);
    other.max_concurrent_tasks = 9;
    let reply = mesh.input(Input::Declare(vec![specialist(INTEGRATION), other]));
    assert_eq!(refusal(reply), Refusal::DeclaredOtherwise(node(BACKEND)));
    assert!(!mesh.core.state().members.contains_key(&node(INTEGRATION)), "all or nothing");
}

#[test]
fn a_node_that_configuration_has_no_more_leaves_unless_it_has_joined() {
    let mut mesh = TestMesh::with(Default::default());
    mesh.input(Input::Configure(vec![specialist(BACKEND), specialist(DOCS), specialist(INTEGRATION)]));
    mesh.join(DOCS);
    let events = mesh.events.len();
    mesh.input(Input::Configure(vec![specialist(BACKEND), specialist(DOCS), specialist(INTEGRATION)]));
    assert_eq!(mesh.events.len(), events, "repeating it changes nothing");
    let mut other = specialist(BACKEND);
    other.max_concurrent_tasks = 9;
    mesh.input(Input::Configure(vec![other.clone()]));
    let members: Vec<_> = mesh.core.state().members.keys().map(crate::types::NodeId::as_str).collect();
    assert_eq!(members, [DOCS, BACKEND], "one is connected, one is configured");
    assert_eq!(mesh.core.state().members[&node(BACKEND)].spec, other, "a new configuration counts");
    mesh.crash(seconds(1));
}

#[test]
fn a_node_that_only_joined_is_forgotten_when_it_has_left() {
    let mut mesh = TestMesh::with(Settings::default());
    mesh.join(BACKEND);
    mesh.join(DOCS);
    mesh.input(Input::Declare(vec![specialist(DOCS)]));
    leaves(&mut mesh, BACKEND);
    leaves(&mut mesh, DOCS);
    assert_eq!(members(&mesh), [DOCS], "somebody said that one belongs here");
    assert!(!mesh.core.presences().contains_key(&node(BACKEND)));
    mesh.crash(seconds(5));
    assert_eq!(members(&mesh), [DOCS]);
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Active);
}

#[test]
fn a_node_that_falls_silent_while_it_leaves_is_forgotten_once_its_connection_has_ended() {
    let mut mesh = TestMesh::with(Settings::default());
    let session = mesh.join(BACKEND);
    mesh.join(DOCS);
    asked_to_end(&mut mesh, BACKEND);
    mesh.pass_with(&[DOCS], seconds(60));
    assert_eq!((mesh.status(BACKEND).0, members(&mesh).len()), (NodeStatus::Initializing, 2));
    mesh.input(Input::SessionClosed { session, node: node(BACKEND), ending: SessionEnding::Given });
    assert_eq!(members(&mesh), [DOCS]);
}

#[test]
fn nodes_of_changing_names_do_not_fill_the_mesh() {
    let mut mesh = TestMesh::with(Settings { max_nodes: 2, ..Settings::default() });
    mesh.input(Input::Configure(vec![specialist(BACKEND)]));
    for number in 0..10 {
        let name = format!("pod-{number}");
        mesh.join(&name);
        leaves(&mut mesh, &name);
    }
    assert_eq!(members(&mesh), [BACKEND]);
}

#[test]
fn what_left_with_the_coordinator_is_forgotten_at_its_next_start_but_for_what_was_decided_about() {
    let mut mesh = TestMesh::with(Settings::default());
    mesh.input(Input::Configure(vec![specialist(DOCS)]));
    for name in ALL {
        mesh.join(name);
    }
    mesh.input(failing("f", ARCHITECT));
    mesh.input(draining("d", INTEGRATION, 1));
    mesh.input(Input::Stopping);
    for name in ALL {
        mesh.disconnect(name);
    }
    assert_eq!(members(&mesh).len(), 4, "they look for its successor");
    mesh.crash(seconds(5));
    mesh.input(Input::Configure(vec![specialist(DOCS)]));
    assert_eq!(members(&mesh), [DOCS, INTEGRATION, ARCHITECT]);
}

#[test]
fn what_an_earlier_release_stored_of_a_node_says_nothing_against_it() {
    let mut mesh = TestMesh::with(Settings::default());
    mesh.join(BACKEND);
    let member = &mesh.core.state().members[&node(BACKEND)];
    assert!(member.is_undeclared);
    let mut stored: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(serde_json::to_value(member).expect("writes")).expect("reads");
    stored.remove("is_undeclared").expect("is stored");
    let stored = serde_json::to_value(stored).expect("writes");
    assert!(!serde_json::from_value::<Member>(stored).expect("reads").is_undeclared);
}

#[test]
fn a_drained_node_that_is_forgotten_with_its_work_leaves_nothing_behind() {
    let mut mesh = TestMesh::with(Settings::default());
    mesh.input(Input::Configure(ALL.map(specialist).into()));
    for name in ALL {
        mesh.join(name);
    }
    let run = mesh.planned(&["mypy", "ruff"], 1);
    assert_eq!(mesh.running_on(BACKEND).len(), 2);
    mesh.input(draining("d", BACKEND, 300));
    mesh.crash(seconds(5));
    mesh.input(Input::Configure([ARCHITECT, DOCS, INTEGRATION].map(specialist).into()));
    assert!(!members(&mesh).contains(&BACKEND));
    for name in [ARCHITECT, DOCS, INTEGRATION] {
        mesh.reconnect(name, &[], &[]);
    }
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(mesh.run(&run).tasks.iter().all(|task| task.crashes == 0));
}

#[test]
fn what_a_node_is_cannot_be_declared_anew_while_it_is_away_for_a_moment() {
    let mut mesh = TestMesh::full();
    mesh.disconnect(BACKEND);
    let reply = mesh.input(Input::Declare(vec![other(BACKEND)]));
    assert_eq!(refusal(reply), Refusal::DeclaredOtherwise(node(BACKEND)));
    mesh.reconnect(BACKEND, &[], &[]);
    mesh.disconnect(BACKEND);
    mesh.pass_with(&[ARCHITECT, DOCS, INTEGRATION], seconds(40));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    assert_eq!(mesh.input(Input::Declare(vec![other(BACKEND)])), Reply::Done);
}

#[test]
fn a_clock_that_was_ahead_keeps_no_later_process_away_once_its_own_is_gone() {
    let mut mesh = TestMesh::full();
    mesh.connect(hello(BACKEND, 1_000_000));
    mesh.disconnect(BACKEND);
    let session = SessionId(99);
    let reply = mesh.input(Input::Joined { session, hello: Box::new(hello(BACKEND, 5)) });
    assert!(matches!(reply, Reply::Refused(Refusal::StaleIncarnation { .. })), "{reply:?}");
    mesh.pass_with(&[ARCHITECT, DOCS, INTEGRATION], seconds(40));
    assert_eq!(mesh.status(BACKEND).0, NodeStatus::Failed);
    mesh.connect(hello(BACKEND, 5));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Active, None));
    assert_eq!(mesh.core.state().members[&node(BACKEND)].incarnation, Some(Incarnation(5)));
}

#[test]
fn an_operator_has_a_node_forgotten_that_is_not_connected() {
    let mut mesh = TestMesh::full();
    mesh.input(Input::Configure(vec![specialist(DOCS)]));
    let run = mesh.planned(&["mypy", "ruff"], 1);
    assert_eq!(mesh.running_on(BACKEND).len(), 2);
    assert_eq!(refusal(mesh.input(forgetting(BACKEND))), Refusal::NodeConnected(node(BACKEND)));
    mesh.disconnect(BACKEND);
    let answer = |reply| match reply {
        Reply::Fault(answer) => *answer,
        other => panic!("no answer: {other:?}"),
    };
    let told: FaultAnswer = answer(mesh.input(forgetting(BACKEND)));
    assert!(told.steps[0].contains("if its process joins again"), "{:?}", told.steps);
    assert_eq!((told.redistributed.len(), told.healthy_nodes.len()), (2, 3));
    assert_eq!(members(&mesh), [DOCS, INTEGRATION, ARCHITECT]);
    assert!((mesh.core.state().health() - 1.0).abs() < 1e-12);
    assert_eq!(refusal(mesh.input(forgetting(BACKEND))), Refusal::UnknownNode(node(BACKEND)));
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
    assert!(mesh.run(&run).tasks.iter().all(|task| task.crashes == 0));
    mesh.disconnect(DOCS);
    let told = answer(mesh.input(forgetting(DOCS)));
    assert!(told.steps[0].contains("it is configured"), "{:?}", told.steps);
    mesh.crash(seconds(5));
    mesh.input(Input::Configure(vec![specialist(DOCS)]));
    assert!(members(&mesh).contains(&DOCS));
}
