//! Networks that are neither whole nor broken, around one node: the cases in which detectors are known to oscillate
//! (Suresh et al., USENIX ATC 2018, section 7).

use std::time::Duration;

use super::fault::{Fault, Place, Way};
use super::scenario::Scenario;
use super::trace::Mode;
use super::world::World;
use crate::types::{LinkState, NodeStatus};

/// The node that the network is unkind to.
const SUBJECT: usize = 1;
/// Until the mesh is up and at work.
const BEFORE: Duration = Duration::from_secs(20);
/// Until everybody must agree again: senders pause up to 25 s after a cut of 20 s, and a node that was often away is
/// held back for up to a minute.
const SETTLED: Duration = Duration::from_secs(100);

/// What is done to the node's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grey {
    /// Nothing gets in for 20 s, everything for 20 s, and so on.
    FlipFlop,
    /// Nothing gets in.
    Deaf,
    /// Nothing gets out.
    Mute,
    /// Nothing gets from the coordinator to it.
    CutFromCoordinator,
    /// Nothing gets from it to the coordinator.
    CutToCoordinator,
    /// Of what gets in and out, 80 % is lost.
    Lossy,
}

pub const ALL: [Grey; 6] =
    [Grey::FlipFlop, Grey::Deaf, Grey::Mute, Grey::CutFromCoordinator, Grey::CutToCoordinator, Grey::Lossy];

/// How the mesh took it.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Faults that began.
    pub faults: usize,
    /// Changes of the node's status while they lasted and until everything was settled.
    pub changes: Vec<(Duration, NodeStatus)>,
    /// Changes of other nodes' statuses.
    pub others: usize,
    /// From the end of the last of them to the last change.
    pub settled: Duration,
    /// What did not agree in the end.
    pub disagreements: Vec<String>,
}

impl Grey {
    fn scenario(self, seed: u64) -> Scenario {
        let node = Place::Node(SUBJECT);
        let lasts = Duration::from_secs(20);
        let loss = |way, percent| Fault::Loss { at: Some(node), way, percent, lasts };
        let cut = |from, to| Fault::Cut { from, to, lasts };
        let script = match self {
            Grey::FlipFlop => (0..5).map(|round| (BEFORE + lasts * 2 * round, loss(Way::In, 100))).collect(),
            Grey::Deaf => vec![(BEFORE, loss(Way::In, 100))],
            Grey::Mute => vec![(BEFORE, loss(Way::Out, 100))],
            Grey::CutFromCoordinator => vec![(BEFORE, cut(Place::Coordinator, node))],
            Grey::CutToCoordinator => vec![(BEFORE, cut(node, Place::Coordinator))],
            Grey::Lossy => vec![(BEFORE, loss(Way::Both, 80))],
        };
        Scenario::grey(seed, script)
    }

    /// Plays it.
    pub(in super::super) fn take(self, seed: u64, mode: Mode) -> Taken {
        let scenario = self.scenario(seed);
        let faults = scenario.script.len();
        let (last, fault) = scenario.script[faults - 1].clone();
        let mut world = World::new(scenario, mode);
        world.run_until(BEFORE);
        let before = world.checks.changes.len();
        world.run_until(last + fault.lasts() + SETTLED);
        let name = world.hosts[SUBJECT].node.clone();
        let during = &world.checks.changes[before..];
        let (own, others): (Vec<_>, Vec<_>) = during.iter().partition(|(_, node, ..)| *node == name);
        let mut changes: Vec<_> =
            own.iter().map(|(at, _, status, _)| (world.since_start(*at), *status)).collect();
        // Another cause is no other status.
        changes.dedup_by_key(|(_, status)| *status);
        let end = changes.last().map(|(at, _)| *at).unwrap_or_default();
        Taken {
            faults,
            settled: end.saturating_sub(last + fault.lasts()),
            changes,
            others: others.len(),
            disagreements: world.disagreements(),
        }
    }
}

impl World {
    /// Whoever does not see every node ACTIVE and every link up.
    fn disagreements(&self) -> Vec<String> {
        let core = self.seat.core();
        let mut found = Vec::new();
        for host in &self.hosts {
            let status = core.state().members.get(&host.node).map(|member| member.status);
            if status != Some(NodeStatus::Active) {
                found.push(format!("the coordinator: {} {status:?}", host.node));
            }
            let links = host.process.iter().flat_map(|process| process.links.states());
            let down = links.filter(|(_, state)| *state != LinkState::Up);
            found.extend(down.map(|(peer, state)| format!("{}: {peer} {state:?}", host.node)));
        }
        found
    }
}
