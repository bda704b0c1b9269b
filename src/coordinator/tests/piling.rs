//! Inputs that waited because nothing could be stored are decided all at once: what they do not tell is no sign.

use super::mesh::*;
use crate::coordinator::input::{Beat, Input};
use crate::types::{Outcome, Stage};

#[test]
fn heartbeats_that_waited_together_do_not_make_an_attempt_lost_that_was_sent_after_them() {
    let mut mesh = TestMesh::with(Default::default());
    mesh.join(BACKEND);
    let run = mesh.start(&["ruff"]);
    let given = mesh.running_of(&run, Stage::Plan).pop().expect("PLAN runs");
    let silent_beat = |mesh: &mut TestMesh| {
        let (session, node) = (mesh.session(BACKEND), node(BACKEND));
        mesh.decide(Input::Beat { session, node, beat: Beat::default() });
    };
    // The store took its time to take that: meanwhile nine heartbeats came.
    mesh.now = mesh.now + seconds(45);
    for _ in 0..9 {
        silent_beat(&mut mesh);
    }
    assert_eq!(mesh.holder(&given).as_deref(), Some(BACKEND));
    // Two more that still do not tell of it are.
    for _ in 0..2 {
        assert_eq!(mesh.holder(&given).as_deref(), Some(BACKEND));
        mesh.now = mesh.now + seconds(5);
        silent_beat(&mut mesh);
    }
    assert_eq!(mesh.holder(&given), None);
}

#[test]
fn a_node_that_gave_up_while_its_hello_waited_to_be_decided_on_is_still_awaited() {
    let others = [ARCHITECT, DOCS, INTEGRATION];
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["ruff"], 1);
    let given = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.crash(seconds(5));
    for name in others {
        mesh.reconnect(name, &[], &[]);
    }
    mesh.pass_with(&others, seconds(12));
    mesh.reconnect(BACKEND, &[&given], &[]);
    mesh.hang_up(BACKEND);
    mesh.pass_with(&others, seconds(4));
    assert_eq!(
        mesh.running_of(&run, Stage::Lint),
        std::slice::from_ref(&given),
        "not doubled: it dials again"
    );
    mesh.reconnect(BACKEND, &[&given], &[]);
    mesh.drain();
    assert_eq!(mesh.outcome(&run), Some(Outcome::Clean));
}
