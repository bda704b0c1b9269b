//! What peers see decides: who is unreachable, who is dead, who is only flapping; and what many nodes cost.

use std::collections::BTreeSet;
use std::time::Duration;

use super::mesh::*;
use crate::coordinator::Coordinator;
use crate::coordinator::decision::{Effect, Refusal};
use crate::coordinator::input::{Beat, Input};
use crate::coordinator::message::{Message, Topology};
use crate::coordinator::settings::Settings;
use crate::types::{
    Epoch, FaultCause, Incarnation, LinkReport, LinkState, NodeStatus, Now, SessionId, Stage, Tick,
    UnixMillis,
};

const ACTIVE: (NodeStatus, Option<FaultCause>) = (NodeStatus::Active, None);
const SILENT: (NodeStatus, Option<FaultCause>) = (NodeStatus::Degraded, Some(FaultCause::Silent));
const UNREACHABLE: (NodeStatus, Option<FaultCause>) = (NodeStatus::Degraded, Some(FaultCause::Unreachable));
const LOST: (NodeStatus, Option<FaultCause>) = (NodeStatus::Degraded, Some(FaultCause::SessionLost));
const GONE: (NodeStatus, Option<FaultCause>) = (NodeStatus::Failed, Some(FaultCause::SessionLost));
const OTHERS: [&str; 3] = [ARCHITECT, DOCS, INTEGRATION];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn linked() -> TestMesh {
    let mut mesh = TestMesh::full();
    mesh.link_up();
    mesh
}

fn sees(mesh: &mut TestMesh, observer: &str, subject: &str, state: LinkState) {
    let session = mesh.session(observer);
    mesh.input(Input::LinkChanged { session, node: node(observer), subject: node(subject), state });
}

/// The peers asked about a node since the effects were cleared last, answering whether they reach it.
fn answer_requests(mesh: &mut TestMesh, reached: bool) -> usize {
    let asked: Vec<_> = mesh
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { node, session, message: Message::ProbeRequest { subject, number } } => {
                Some((node.clone(), *session, subject.clone(), *number))
            }
            _ => None,
        })
        .collect();
    let count = asked.len();
    for (node, session, subject, number) in asked {
        let round_trip = reached.then_some(ms(1));
        mesh.input(Input::ProbeReported { session, node, subject, number, round_trip });
    }
    mesh.effects.clear();
    count
}

/// Lets time pass while the others live and answer for the node.
fn pass_seen(mesh: &mut TestMesh, duration: Duration, reached: bool) {
    let end = mesh.now + duration;
    while mesh.now < end {
        for name in OTHERS {
            mesh.beat(name);
        }
        mesh.effects.clear();
        mesh.pass_answering(&OTHERS, ms(500).min(end.since(mesh.now)));
        answer_requests(mesh, reached);
    }
}

/// How often a node's status has changed.
fn changes(mesh: &TestMesh, name: &str) -> usize {
    use crate::coordinator::event::Event;
    let of = |event: &&Event| matches!(event, Event::NodeStatusChanged { node, .. } if node.as_str() == name);
    mesh.events.iter().filter(of).count()
}

#[test]
fn a_node_that_only_the_coordinator_cannot_reach_keeps_its_work() {
    let mut mesh = linked();
    let run = mesh.planned(&["ruff"], 1);
    let lint = mesh.running_on(BACKEND).pop().expect("made for it");
    mesh.beat(BACKEND);
    pass_seen(&mut mesh, seconds(60), true);
    assert_eq!(mesh.status(BACKEND), UNREACHABLE);
    assert_eq!(mesh.holder(&lint).as_deref(), Some(BACKEND));
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 1, "no second attempt");
    pass_seen(&mut mesh, seconds(5), false);
    assert_eq!(mesh.status(BACKEND), SILENT, "now its peers do not reach it either");
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2);
    pass_seen(&mut mesh, seconds(31), false);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Failed, Some(FaultCause::HeartbeatTimeout)));
}

#[test]
fn peers_are_asked_before_the_verdict_is_due() {
    let mut mesh = linked();
    mesh.beat(BACKEND);
    let before = changes(&mesh, BACKEND);
    mesh.effects.clear();
    mesh.pass_answering(&OTHERS, ms(1_999));
    assert_eq!(answer_requests(&mut mesh, true), 0);
    mesh.pass_answering(&OTHERS, ms(1));
    assert_eq!(answer_requests(&mut mesh, true), 3);
    mesh.pass_answering(&OTHERS, ms(500));
    assert_eq!(mesh.status(BACKEND), UNREACHABLE);
    assert_eq!(changes(&mesh, BACKEND) - before, 1, "it was never called silent");
}

#[test]
fn a_process_whose_peers_saw_it_go_is_failed_at_once() {
    let mut mesh = linked();
    sees(&mut mesh, DOCS, BACKEND, LinkState::Reset);
    assert_eq!(mesh.status(BACKEND), ACTIVE, "it may be that link");
    mesh.disconnect(BACKEND);
    assert_eq!(mesh.status(BACKEND), LOST);
    sees(&mut mesh, INTEGRATION, BACKEND, LinkState::Reset);
    assert_eq!(mesh.status(BACKEND), GONE);
}

#[test]
fn two_of_four_that_die_are_failed_for_their_peers_saw_it() {
    let mut mesh = linked();
    let killed = [BACKEND, DOCS];
    for name in killed {
        mesh.disconnect(name);
    }
    for observer in [ARCHITECT, INTEGRATION] {
        for name in killed {
            sees(&mut mesh, observer, name, LinkState::Reset);
        }
    }
    for name in killed {
        assert_eq!(mesh.status(name), GONE, "{name}");
    }
}

#[test]
fn a_reset_session_of_a_node_that_a_peer_still_sees_is_no_death() {
    let mut mesh = linked();
    mesh.disconnect(BACKEND);
    mesh.pass_with(&OTHERS, seconds(2));
    assert_eq!(mesh.status(BACKEND), LOST, "the links of its peers are up");
    for observer in OTHERS {
        sees(&mut mesh, observer, BACKEND, LinkState::Reset);
    }
    mesh.pass_with(&OTHERS, ms(500));
    assert_eq!(mesh.status(BACKEND), GONE, "until they are not");
}

#[test]
fn an_observer_that_abstains_accuses_nobody() {
    let mut mesh = linked();
    for observer in OTHERS {
        mesh.beat_with(observer, Beat { abstaining: true, ..Beat::default() });
        sees(&mut mesh, observer, BACKEND, LinkState::Reset);
    }
    mesh.disconnect(BACKEND);
    assert_eq!(mesh.status(BACKEND), LOST);
}

#[test]
fn a_node_that_flaps_is_held_back_longer_each_time() {
    let mut mesh = linked();
    let mut held = Vec::new();
    for _ in 0..5 {
        mesh.beat(BACKEND);
        mesh.pass_with(&OTHERS, seconds(3));
        assert_eq!(mesh.status(BACKEND), SILENT);
        let back = mesh.now;
        while mesh.status(BACKEND) != ACTIVE {
            mesh.pass_with(&ALL, ms(500));
        }
        held.push(mesh.now.since(back).as_secs());
    }
    assert_eq!(held, [5, 10, 20, 40, 60]);
}

#[test]
fn packets_that_come_and_go_change_the_status_once() {
    let mut mesh = linked();
    let before = changes(&mesh, BACKEND);
    for _ in 0..20 {
        mesh.beat(BACKEND);
        mesh.pass_with(&OTHERS, seconds(4));
    }
    assert_eq!(mesh.status(BACKEND), SILENT);
    assert_eq!(changes(&mesh, BACKEND) - before, 1);
}

#[test]
fn an_attempt_that_a_node_does_not_tell_of_is_given_out_again_and_one_that_stands_still_as_well() {
    let mut mesh = TestMesh::full();
    let run = mesh.planned(&["mypy", "ruff"], 1);
    let [lost, hung] = &mesh.running_on(BACKEND)[..] else { panic!("two run") };
    let (lost, hung) = (lost.clone(), hung.clone());
    let session = mesh.session(BACKEND);
    let beat = |mesh: &mut TestMesh, idle| {
        let attempts = vec![(hung.attempt.clone(), idle)];
        mesh.pass_answering(&ALL, seconds(5));
        mesh.input(Input::Beat { session, node: node(BACKEND), beat: Beat { attempts, ..Beat::default() } });
    };
    beat(&mut mesh, seconds(0));
    beat(&mut mesh, seconds(119));
    assert!(mesh.holder(&lost).is_some(), "the first beat may have been on its way, and one is no proof");
    beat(&mut mesh, seconds(0));
    assert_eq!(mesh.holder(&lost), None);
    assert!(mesh.holder(&hung).is_some());
    beat(&mut mesh, seconds(120));
    assert_eq!(mesh.holder(&hung), None);
    let crashes = |assign: &crate::coordinator::message::Assign| {
        mesh.run(&run).task(assign.attempt.task).expect("known").crashes
    };
    assert_eq!((crashes(&lost), crashes(&hung)), (0, 1), "what never arrived crashed nothing");
}

#[test]
fn a_second_process_of_a_node_that_is_there_is_refused_until_the_first_is_silent() {
    let mut mesh = TestMesh::full();
    let second = || Input::Joined { session: SessionId(99), hello: Box::new(hello(BACKEND, 2)) };
    assert_eq!(refusal(mesh.input(second())), Refusal::NodeIdTaken(node(BACKEND)));
    assert_eq!(mesh.incarnation(BACKEND), Incarnation(1));
    mesh.pass_with(&OTHERS, ms(2_499));
    assert_eq!(refusal(mesh.input(second())), Refusal::NodeIdTaken(node(BACKEND)));
    mesh.pass_with(&OTHERS, ms(1));
    mesh.input(second());
    assert_eq!(mesh.session(BACKEND), SessionId(99));
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn rosters_tell_each_node_its_part_and_a_rebuilding_is_told_when_too_few_links_live() {
    let mut mesh = linked();
    let roster = &mesh.rosters[&node(DOCS)];
    assert_eq!((roster.topology, roster.dial.len(), roster.accept.len()), (Topology::FullMesh, 3, 3));
    mesh.join(BACKEND);
    let of = |mesh: &TestMesh, name: &str| mesh.rosters[&node(name)].clone();
    assert!(of(&mesh, DOCS).accept.contains(&(node(BACKEND), Incarnation(2))), "its new process is told");
    mesh.input(Input::ProcessExited { node: node(BACKEND), process_id: 2 });
    assert_eq!(of(&mesh, DOCS).dial.len(), 2);
    mesh.join(BACKEND);
    mesh.pass_with(&ALL, seconds(9));
    assert!(!of(&mesh, DOCS).rebuild, "6 of 12 links live, but not for long");
    mesh.pass_with(&ALL, seconds(11));
    let rebuilt = of(&mesh, DOCS);
    assert!(rebuilt.rebuild);
    mesh.pass_with(&ALL, seconds(30));
    assert_eq!(of(&mesh, DOCS), rebuilt, "once a minute at most");
}

#[test]
fn a_thousand_beating_nodes_cost_about_a_look_for_each_beat() {
    let mut core = Coordinator::new(Settings::default(), Epoch(1));
    let mut now = Tick(0);
    let at = |tick: Tick| Now { tick, wall: UnixMillis(tick.0 / 1000) };
    let names: Vec<String> = (0..1000).map(|number| format!("node-{number}")).collect();
    for (session, name) in (1..).map(SessionId).zip(&names) {
        let mut hello = hello(BACKEND, 1);
        hello.spec.node_id = node(name);
        hello.peer_endpoint = Some(format!("{name}:9"));
        core.decide(at(now), Input::Joined { session, hello: Box::new(hello) });
    }
    core.decide(at(now), Input::Timer);
    let dials = |core: &Coordinator, name: &str| {
        core.link_plan().dials(&node(name)).cloned().collect::<BTreeSet<_>>()
    };
    assert_eq!(dials(&core, "node-7").len(), 10);
    let (begun, mut beats) = (core.looks(), 0);
    for _ in 0..6 {
        for (session, name) in (1..).map(SessionId).zip(&names) {
            now = now + Duration::from_millis(5);
            let peers = dials(&core, name).into_iter();
            let links = peers.map(|peer| LinkReport::new(peer, LinkState::Up)).collect();
            let beat = Beat { links, ..Beat::default() };
            let decision = core.decide(at(now), Input::Beat { session, node: node(name), beat });
            assert_eq!(decision.effects, [], "beats are answered by the shell");
            core.decide(at(now), Input::Timer);
            beats += 1;
        }
    }
    let looks = core.looks() - begun;
    assert!(looks <= 2 * beats, "{looks} looks for {beats} beats");
    assert_eq!(core.state().active().count(), 1000);
    assert_eq!(core.connectivity(), 1.0);
}
