//! What is simulated: a mesh, what clients want of it, and a script of faults, all drawn from a seed.

use std::time::Duration;

use super::super::random::Random;
use super::fault::{Fault, Order, Place, Script, Way};
use super::host::Host;
use crate::coordinator::recovery::RestartPolicy;
use crate::coordinator::settings::Settings;

/// One simulation.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) settings: Settings,
    /// Between two requests of clients; none: nobody asks for anything.
    pub(super) asks: Option<(Duration, Duration)>,
    /// The longest that a run may take.
    pub(super) patience: Duration,
    /// How long faults go on.
    pub(super) lasts: Duration,
    pub(super) script: Script,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scenario {
    /// Anything may happen, several things at once.
    pub(super) fn mixed(seed: u64) -> Self {
        // Another stream than the world's own, which begins at the seed.
        let mut random = Random(seed ^ 0x5ca1_ab1e_0dd5_eed5);
        let nodes = [2, 3, 4, 4, 4, 4, 5, 7][random.below(8)];
        let lasts = seconds(30 + random.below(90) as u64);
        let faults = random.below(2 + usize::try_from(lasts.as_secs() / 6).unwrap_or(0));
        let mut script: Script = (0..faults)
            .map(|_| {
                // The mesh has some seconds to come up.
                let at = random.duration(seconds(3), lasts);
                (at, drawn(&mut random, nodes))
            })
            .collect();
        script.sort_by_key(|(at, _)| *at);
        let settings = Settings {
            recovery_timeout: seconds(10),
            task_timeout: seconds(60),
            progress_timeout: seconds(20),
            kept_runs: 3,
            max_open_runs: 3,
            restart: launching(nodes),
            ..Settings::default()
        };
        let asks = Some((Duration::from_millis(500), seconds(8)));
        Self { seed, nodes, settings, asks, patience: seconds(200), lasts, script }
    }

    /// Loss of 10 % everywhere, and stalls of up to 25 s of one observer or subject at a time: four nodes and their
    /// coordinator, all healthy.
    pub(super) fn soak(seed: u64, lasts: Duration) -> Self {
        let mut random = Random(seed ^ 0x50a4_50a4_50a4_50a4);
        let mut script: Script =
            vec![(Duration::ZERO, Fault::Loss { at: None, way: Way::Both, percent: 10, lasts })];
        let mut at = seconds(30);
        while at < lasts {
            let stalls = random.duration(Duration::ZERO, seconds(25));
            let place = match random.below(5) {
                0 => Place::Coordinator,
                node => Place::Node(node - 1),
            };
            script.push((at, Fault::Stall { place, lasts: stalls }));
            at += stalls + random.duration(seconds(25), seconds(60));
        }
        let asks = Some((seconds(5), seconds(60)));
        let settings = Settings { kept_runs: 20, restart: launching(4), ..Settings::default() };
        Self { seed, nodes: 4, settings, asks, patience: seconds(900), lasts, script }
    }

    /// Four nodes with work, on a network that is unkind to one of them.
    pub(super) fn grey(seed: u64, script: Script) -> Self {
        let asks = Some((seconds(1), seconds(10)));
        let settings = Settings { kept_runs: 20, restart: launching(4), ..Settings::default() };
        Self { seed, nodes: 4, settings, asks, patience: seconds(900), lasts: seconds(600), script }
    }

    /// Every fault of the script, as text to read.
    pub(super) fn told(&self) -> String {
        let mut text = format!("{} nodes for {:?}", self.nodes, self.lasts);
        for (at, fault) in &self.script {
            text.push_str(&format!("\n  at {:>11.6} s: {fault:?}", at.as_secs_f64()));
        }
        text
    }
}

/// The launcher of the coordinator's machine starts every node.
fn launching(nodes: usize) -> RestartPolicy {
    let launched = (0..nodes).map(|number| Host::new(number).node).collect();
    RestartPolicy { launched, start_timeout: seconds(20), ..RestartPolicy::default() }
}

fn drawn(random: &mut Random, nodes: usize) -> Fault {
    let node = random.below(nodes);
    let place = match random.below(nodes + 1) {
        0 => Place::Coordinator,
        number => Place::Node(number - 1),
    };
    let other = match place {
        Place::Coordinator => Place::Node(node),
        Place::Node(one) if random.percent(50) => Place::Node((one + 1 + random.below(nodes - 1)) % nodes),
        Place::Node(_) => Place::Coordinator,
    };
    let long = random.duration(seconds(1), seconds(45));
    match random.below(100) {
        0..12 => Fault::Crash { node },
        12..14 => Fault::Terminate { node },
        14..18 => Fault::PowerLoss { node, lasts: long },
        18..30 => {
            Fault::Stall { place: Place::Node(node), lasts: random.duration(Duration::ZERO, seconds(25)) }
        }
        30..36 => {
            Fault::Stall { place: Place::Coordinator, lasts: random.duration(Duration::ZERO, seconds(25)) }
        }
        36..41 => Fault::Cut { from: place, to: other, lasts: long },
        41..46 => Fault::Cut { from: other, to: place, lasts: long },
        46..52 => {
            let apart = (0..nodes).filter(|_| random.percent(50)).map(Place::Node).collect();
            Fault::Partition { apart, lasts: long }
        }
        52..60 => {
            let at = random.percent(60).then_some(place);
            let way = [Way::In, Way::Out, Way::Both][random.below(3)];
            Fault::Loss { at, way, percent: [2, 10, 30, 80][random.below(4)], lasts: long }
        }
        60..66 => Fault::Slow { at: place, by: random.duration(Duration::ZERO, seconds(2)), lasts: long },
        66..78 => Fault::Reset { one: place, other },
        78..82 => {
            let millis = i64::try_from(random.below(120_000)).unwrap_or(0) - 60_000;
            Fault::Skew { node, millis }
        }
        82..86 => Fault::StartsFail { node, times: 1 + u32::try_from(random.below(3)).unwrap_or(0) },
        86..94 => {
            let order = match random.below(10) {
                0..3 => Order::Fail,
                3..7 => Order::Recover,
                7 => Order::Drain,
                8 => Order::ResetBreaker,
                _ => Order::RebuildConnections,
            };
            Fault::Operator { node: random.percent(90).then_some(node), order }
        }
        _ => Fault::Repeat { results: 1 + random.below(3) },
    }
}
