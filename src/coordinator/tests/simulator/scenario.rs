//! What is simulated: a mesh, what clients want of it, and a script of faults, all drawn from a seed.

use std::time::Duration;

use super::super::random::Random;
use super::fault::{Batch, Fault, Moment, Order, Place, Script, Trouble, Way};
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
    /// Whether what the coordinator decides is stored, which takes time, and outlives it.
    pub(super) is_durable: bool,
    /// Events after which the state is stored in their place.
    pub(super) compacts_after: usize,
    /// Whether nodes do what they are told, all of it and once.
    pub(super) is_strict: bool,
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
        let is_durable = random.percent(70);
        let compacts_after = 20 + random.below(400);
        let mut script: Script = (0..faults)
            .map(|_| {
                // The mesh has some seconds to come up.
                let at = random.duration(seconds(3), lasts);
                let fault = match is_durable && random.percent(25) {
                    true => of_the_coordinator(&mut random),
                    false => drawn(&mut random, nodes),
                };
                (at, fault)
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
        let is_strict = false;
        Self {
            seed,
            nodes,
            settings,
            asks,
            patience: seconds(200),
            lasts,
            script,
            is_durable,
            compacts_after,
            is_strict,
        }
    }

    /// Nothing goes wrong but with the coordinator and its store: no node may be FAILED that did not end, and no task may
    /// be begun again while the process that began it lives.
    pub(super) fn restarts(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x0c0d_e0fd_0c0d_e0fd);
        let nodes = 1 + random.below(5);
        let lasts = seconds(300);
        let (mut script, mut at) = (Script::new(), seconds(5));
        while at < lasts {
            let fault = of_the_coordinator(&mut random);
            let pause = fault.lasts() + random.duration(Duration::ZERO, seconds(60));
            script.push((at, fault));
            at += pause;
        }
        let settings = Settings {
            recovery_timeout: seconds(10),
            task_timeout: seconds(60),
            kept_runs: 2 + random.below(8),
            keep_runs_for: random.duration(seconds(60), seconds(1200)),
            restart: launching(nodes),
            ..Settings::default()
        };
        Self {
            nodes,
            settings,
            asks: Some((seconds(1), seconds(15))),
            lasts,
            script,
            is_durable: true,
            compacts_after: 20 + random.below(1000),
            is_strict: true,
            ..Self::quiet(seed)
        }
    }

    /// Four nodes with work, and nothing that goes wrong.
    fn quiet(seed: u64) -> Self {
        Self {
            seed,
            nodes: 4,
            settings: Settings { kept_runs: 20, restart: launching(4), ..Settings::default() },
            asks: Some((seconds(1), seconds(10))),
            patience: seconds(900),
            lasts: seconds(600),
            script: Script::new(),
            is_durable: false,
            compacts_after: usize::MAX,
            is_strict: false,
        }
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
        Self { asks: Some((seconds(5), seconds(60))), lasts, script, ..Self::quiet(seed) }
    }

    /// Four nodes with work, on a network that is unkind to one of them.
    pub(super) fn grey(seed: u64, script: Script) -> Self {
        Self { script, ..Self::quiet(seed) }
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
            let order = match random.below(11) {
                0..3 => Order::Fail,
                3..5 => Order::Recover,
                5..8 => Order::Drain,
                8 => Order::ResetBreaker,
                9 => Order::RebuildConnections,
                _ => Order::Forget,
            };
            Fault::Operator { node: random.percent(90).then_some(node), order }
        }
        _ => Fault::Repeat { results: 1 + random.below(3) },
    }
}

/// The end of the coordinator, or trouble with its store.
fn of_the_coordinator(random: &mut Random) -> Fault {
    let longest = if random.percent(50) { 10 } else { 90 };
    let lasts = random.duration(Duration::ZERO, seconds(longest));
    let trouble = match random.below(100) {
        0..10 => Trouble::Full,
        10..20 => Trouble::Away,
        20..30 => Trouble::Unknown,
        number => {
            let moment = match number {
                30..40 => Moment::Now,
                40..50 => Moment::BeforeCommit,
                50..58 => Moment::DuringCommit(Batch::Lost),
                58..66 => Moment::DuringCommit(Batch::Kept),
                66..74 => Moment::DuringCommit(Batch::Torn),
                74..82 => Moment::AfterCommit,
                82..90 => Moment::AmidEffects,
                90..95 => Moment::DuringSnapshot,
                _ => Moment::AfterSnapshot,
            };
            return Fault::CrashCoordinator { moment, power: random.percent(20), lasts };
        }
    };
    // A full store is waited for without bound: for longer than attempts may take.
    let lasts = if trouble == Trouble::Full { lasts * 3 } else { lasts.min(seconds(45)) };
    Fault::StoreFails { trouble, lasts }
}
