//! What is done to a mesh: plain data, so that a script can be printed, shortened by hand, and played again.

use std::time::Duration;

/// Where a process runs. Nodes are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Coordinator,
    Node(usize),
}

/// One thing that is done, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// A node's process ends: its kernel closes its connections, and its launcher is told.
    Crash { node: usize },
    /// A node's process is asked to end: it finishes what it has, and goes.
    Terminate { node: usize },
    /// A node's machine is off for a while: nobody is told anything. Its process starts again with it.
    PowerLoss { node: usize, lasts: Duration },
    /// A process gets no time at all; its kernel goes on taking what is sent to it.
    Stall { place: Place, lasts: Duration },
    /// Nothing gets from one place to another; the way back works.
    Cut { from: Place, to: Place, lasts: Duration },
    /// Nothing gets from these places to the others, nor back.
    Partition { apart: Vec<Place>, lasts: Duration },
    /// Of what is sent to and from a place, or everywhere, so much is lost and sent again.
    Loss { at: Option<Place>, way: Way, percent: usize, lasts: Duration },
    /// What is sent to and from a place takes longer, by up to so much.
    Slow { at: Place, by: Duration, lasts: Duration },
    /// The connections between two places break, as both ends see at once.
    Reset { one: Place, other: Place },
    /// A node's wall clock is put ahead or back.
    Skew { node: usize, millis: i64 },
    /// The next starts of a node's process fail.
    StartsFail { node: usize, times: u32 },
    /// An operator calls HandleFault, for one node or all.
    Operator { node: Option<usize>, order: Order },
    /// Results that arrived once arrive again.
    Repeat { results: usize },
    /// The coordinator's process ends at the next moment of a kind, and is down for so long; nobody is told if its
    /// machine lost its power.
    CrashCoordinator { moment: Moment, power: bool, lasts: Duration },
    /// The coordinator's store fails.
    StoreFails { trouble: Trouble, lasts: Duration },
}

/// When a coordinator's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Whatever it is doing.
    Now,
    /// It has decided something, of which its store was not told.
    BeforeCommit,
    /// Its store is storing it.
    DuringCommit(Batch),
    /// It is stored, and nobody was told.
    AfterCommit,
    /// Some were told.
    AmidEffects,
    /// Its state is written in place of the events that made it.
    DuringSnapshot,
    /// It has just been.
    AfterSnapshot,
}

/// What becomes of a batch that was not stored yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    Lost,
    Kept,
    /// A part of it was written.
    Torn,
}

/// How a store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no room.
    Full,
    /// It is not there.
    Away,
    /// It does not say whether it did what it was asked.
    Unknown,
}

/// Which way a place's traffic is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
    Both,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Fail,
    Recover,
    Drain,
    ResetBreaker,
    RebuildConnections,
    Forget,
}

/// Faults, each at its moment after the start.
pub(super) type Script = Vec<(Duration, Fault)>;

impl Fault {
    /// How long it lasts; nothing for what is done at once.
    pub(super) const fn lasts(&self) -> Duration {
        match self {
            Fault::PowerLoss { lasts, .. }
            | Fault::Stall { lasts, .. }
            | Fault::Cut { lasts, .. }
            | Fault::Partition { lasts, .. }
            | Fault::Loss { lasts, .. }
            | Fault::Slow { lasts, .. }
            | Fault::CrashCoordinator { lasts, .. }
            | Fault::StoreFails { lasts, .. } => *lasts,
            _ => Duration::ZERO,
        }
    }

    /// Whether it keeps everything from getting from one place to the other.
    pub(super) fn cuts(&self, from: Place, to: Place) -> bool {
        match self {
            Fault::PowerLoss { node, .. } => [from, to].contains(&Place::Node(*node)),
            Fault::Cut { from: cut_from, to: cut_to, .. } => (*cut_from, *cut_to) == (from, to),
            Fault::CrashCoordinator { power, .. } => *power && [from, to].contains(&Place::Coordinator),
            Fault::Partition { apart, .. } => apart.contains(&from) != apart.contains(&to),
            _ => false,
        }
    }

    /// How much it loses of what is sent from one place to the other, in percent.
    pub(super) fn loses(&self, from: Place, to: Place) -> usize {
        match self {
            Fault::Loss { at, way, percent, .. } => {
                let concerned = match (at, way) {
                    (None, _) => true,
                    (Some(at), Way::In) => *at == to,
                    (Some(at), Way::Out) => *at == from,
                    (Some(at), Way::Both) => [from, to].contains(at),
                };
                if concerned { *percent } else { 0 }
            }
            _ => 0,
        }
    }

    /// By how much it may delay what is sent from one place to the other.
    pub(super) fn delays(&self, from: Place, to: Place) -> Duration {
        match self {
            Fault::Slow { at, by, .. } if [from, to].contains(at) => *by,
            _ => Duration::ZERO,
        }
    }
}
