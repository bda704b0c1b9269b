//! When a node may be taken for dead although its process lives: after faults that nobody could tell from its death.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::{Fault, Place};
use crate::types::Tick;

/// The longest stall that must never be taken for a death.
const LONGEST_STALL: Duration = Duration::from_secs(25);
/// The longest cut that must never be: senders pause ever longer while nothing gets through, and are heard this much
/// later.
const LONGEST_CUT: Duration = Duration::from_secs(15);
/// Between two silences of a node for it to be heard in between, over a network that loses much.
const BREATH: Duration = Duration::from_secs(20);
/// Loss that must never be taken for a death, in percent.
const BEARABLE_LOSS: usize = 30;
/// After what may make a node FAILED, how long it may take until it does, or is back for good.
const AFTERMATH: Duration = Duration::from_secs(120);
/// Within how long resets of a node's connections look like one event.
const TOGETHER: Duration = Duration::from_secs(3);
/// Peers whose word that a connection was reset is enough.
const WITNESSES: usize = 2;
/// What was done to nodes, as far as it excuses who takes them for dead.
pub(super) struct Excuses {
    /// Until when a node may be taken for dead.
    excused: Vec<Tick>,
    /// Until when a node is or was silent.
    silent: Vec<Tick>,
    /// When connections of a node were last reset, by the other end.
    resets: Vec<BTreeMap<Place, Tick>>,
    /// When the coordinator last began to hear nothing, or to hear again.
    deaf_at: Tick,
}

impl Excuses {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            excused: vec![Tick(0); nodes],
            silent: vec![Tick(0); nodes],
            resets: vec![BTreeMap::new(); nodes],
            deaf_at: Tick(0),
        }
    }

    pub(super) fn may_fail(&self, node: usize, now: Tick) -> bool {
        now < self.excused[node]
    }

    /// What a fault excuses: a node that is only slow, stalled for a bearable time, lossy or skewed is healthy, and
    /// must never be FAILED.
    pub(super) fn injected(&mut self, now: Tick, fault: &Fault) {
        let lasts = fault.lasts();
        match fault {
            Fault::Crash { node }
            | Fault::Terminate { node }
            | Fault::PowerLoss { node, .. }
            | Fault::StartsFail { node, .. } => self.excuse(*node, now + lasts),
            Fault::Operator { node, .. } => {
                for number in 0..self.excused.len() {
                    if node.is_none_or(|node| node == number) {
                        self.excuse(number, now);
                    }
                }
            }
            Fault::Stall { place: Place::Node(node), .. } => self.silence(*node, now, lasts),
            Fault::Stall { place: Place::Coordinator, .. } => self.was_deaf(now),
            Fault::Cut { .. } | Fault::Partition { .. } => {
                for node in 0..self.excused.len() {
                    let (node_at, seat) = (Place::Node(node), Place::Coordinator);
                    if fault.cuts(node_at, seat) || fault.cuts(seat, node_at) {
                        self.silence(node, now, lasts + LONGEST_STALL.saturating_sub(LONGEST_CUT));
                    }
                }
            }
            Fault::Loss { at, percent, .. } if *percent > BEARABLE_LOSS => {
                for node in 0..self.excused.len() {
                    if at.is_none_or(|at| [Place::Coordinator, Place::Node(node)].contains(&at)) {
                        self.excuse(node, now + lasts);
                    }
                }
            }
            Fault::Reset { one, other } => {
                for (place, far) in [(one, other), (other, one)] {
                    if let Place::Node(node) = *place {
                        self.was_reset(node, *far, now);
                    }
                }
            }
            Fault::CrashCoordinator { .. } | Fault::StoreFails { .. } => self.was_deaf(now),
            Fault::Loss { .. } | Fault::Slow { .. } | Fault::Skew { .. } | Fault::Repeat { .. } => {}
        }
    }

    /// One that is silent while its connections are reset looks like one that ended.
    fn was_reset(&mut self, node: usize, far: Place, now: Tick) {
        if now < self.silent[node] {
            self.excuse(node, self.silent[node]);
        }
        self.resets[node].insert(far, now);
    }

    /// Whether a node's connections were reset together, as those of a process are that ends: with the coordinator and
    /// with enough of those that can be asked, or with all of them.
    pub(super) fn were_reset_together(&self, node: usize, witnesses: &[usize], now: Tick) -> bool {
        let lately = |far: Place| self.resets[node].get(&far).is_some_and(|at| now < *at + TOGETHER);
        let resets = witnesses.iter().filter(|peer| lately(Place::Node(**peer))).count();
        lately(Place::Coordinator) && (resets >= WITNESSES || (resets > 0 && resets == witnesses.len()))
    }

    /// The coordinator hears nothing for a while, or hears again: whoever was silent just before cannot be told from one
    /// that went on being silent.
    pub(super) fn was_deaf(&mut self, now: Tick) {
        for node in 0..self.excused.len() {
            if now < self.silent[node] + BREATH {
                self.excuse(node, now.max(self.silent[node]));
            }
        }
        self.deaf_at = now;
    }

    fn excuse(&mut self, node: usize, until: Tick) {
        self.excused[node] = self.excused[node].max(until + AFTERMATH);
    }

    /// Silences that follow each other are as one.
    fn silence(&mut self, node: usize, now: Tick, lasts: Duration) {
        if lasts > LONGEST_STALL || now < self.silent[node].max(self.deaf_at) + BREATH {
            self.excuse(node, now + lasts);
        }
        self.silent[node] = self.silent[node].max(now + lasts);
    }
}
