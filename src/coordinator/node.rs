//! A node as the coordinator knows it: what is durable of it, and what is only known while it is connected.

mod running;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::breaker::{Breaker, Permit};
use super::event::Trip;
use super::suspicion::Contact;
use crate::types::{
    AttemptId, AttemptRef, FaultCause, Incarnation, LinkReport, Load, NodeId, NodeSpec, NodeStatus, RunId,
    SessionId, TaskId, Tick, ToolName, UnixMillis,
};
pub use running::Running;

/// The durable part of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its declared part.
    pub spec: NodeSpec,
    /// Its status.
    pub status: NodeStatus,
    /// Why it is not ACTIVE.
    pub cause: Option<FaultCause>,
    /// The same in words, as far as more is known; empty if not.
    pub detail: String,
    /// Whether an operator drained it: it gets no work until it is recovered, whatever its process does.
    pub drained: bool,
    /// Its newest known process start; none until it joins.
    pub incarnation: Option<Incarnation>,
    /// How its circuit breaker is open; none if it is closed.
    #[serde(default)]
    pub trip: Option<Trip>,
    /// It joined, and nobody else ever said that it belongs to the mesh. Unknown of those that an earlier release stored,
    /// which then count as declared.
    #[serde(default)]
    pub is_undeclared: bool,
}

/// The volatile part of a node.
#[derive(Debug)]
pub struct Presence {
    /// Its connection.
    pub session: Option<SessionId>,
    /// When its last connection ended, while there is none.
    pub disconnected_at: Option<Tick>,
    /// When it was last heard from.
    pub heard_at: Option<(Tick, UnixMillis)>,
    /// What it last measured of itself.
    pub load: Load,
    /// Whether its present process has measured that.
    pub measured: bool,
    /// Whether work is given to it.
    pub breaker: Breaker,
    /// Where other nodes reach it.
    pub peer_endpoint: Option<String>,
    /// What may fail at once with it.
    pub failure_domain: String,
    /// Its links, as it last told of them.
    pub links: BTreeMap<NodeId, LinkReport>,
    /// Its clock less the coordinator's, in milliseconds: the median of what the last answered probes measured.
    pub clock_offset_ms: Option<i64>,
    /// What tells whether it is there.
    pub contact: Contact,
    /// What it runs.
    pub running: Running,
    /// Its machine.
    pub host_id: String,
    /// The cores of its machine.
    pub cpu_slots: u32,
    /// Its toolchain.
    pub toolchain_id: String,
    /// Its tools.
    pub tools: BTreeMap<ToolName, String>,
    /// Interpreter, operating system, architecture.
    pub environment_class: String,
    /// What confines its linters.
    pub sandbox: String,
    /// Its process.
    pub process_id: u32,
    /// How many tasks it was given; for round robin.
    pub given: u64,
}

/// Heartbeats that should have told of an attempt and did not.
#[derive(Debug)]
pub struct MissedBeats {
    /// How many in a row; none while the first one is awaited, which may have been on its way before.
    pub count: Option<u32>,
    /// When the last one was counted, or the attempt was given: heartbeats that piled up count as one.
    pub counted_at: Tick,
}

/// An attempt under way.
#[derive(Debug)]
pub struct RunningAttempt {
    /// Its run.
    pub run: RunId,
    /// Its task.
    pub task: TaskId,
    /// When the coordinator stops waiting for it.
    pub deadline: Tick,
    /// What it made is here and waits for room, for which there is no deadline.
    pub has_arrived: bool,
    /// Cores it uses.
    pub cpu_slots: u32,
    /// Capabilities it uses.
    pub capabilities: BTreeSet<String>,
    /// The breaker's leave to start it.
    pub permit: Permit,
    /// The heartbeats that did not tell of it.
    pub missed_beats: MissedBeats,
}

impl RunningAttempt {
    /// The name of this attempt, which has this number.
    pub fn named(&self, attempt: AttemptId) -> AttemptRef {
        AttemptRef { run: self.run.clone(), task: self.task, attempt }
    }
}

impl Presence {
    /// A node that was never heard from.
    pub fn new(breaker: Breaker) -> Self {
        Self {
            session: None,
            disconnected_at: None,
            heard_at: None,
            load: Load::default(),
            measured: false,
            breaker,
            peer_endpoint: None,
            failure_domain: String::new(),
            links: BTreeMap::new(),
            clock_offset_ms: None,
            contact: Contact::default(),
            running: Running::default(),
            host_id: String::new(),
            cpu_slots: 0,
            toolchain_id: String::new(),
            tools: BTreeMap::new(),
            environment_class: String::new(),
            sandbox: String::new(),
            process_id: 0,
            given: 0,
        }
    }

    /// What it runs, by the names under which it is told.
    pub fn attempts(&self) -> impl Iterator<Item = AttemptRef> {
        self.running.iter().map(|(id, running)| running.named(*id))
    }

    /// Cores its attempts use.
    pub fn cpu_slots_in_use(&self) -> u32 {
        self.running.cpu_slots()
    }

    /// The parts of its load score, and the score.
    pub fn load_score(&self, spec: &NodeSpec) -> LoadScore {
        let in_use = self.running.uses_of(&spec.capabilities);
        LoadScore::new(
            ratio(self.running.len(), spec.max_concurrent_tasks as usize),
            ratio(in_use, spec.capabilities.len()),
            f64::midpoint(self.load.cpu, self.load.memory),
        )
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// How busy a node is. Source of the formula: the operations manual, "Capability-Based Load Balancing".
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadScore {
    /// Running tasks / tasks it may run at a time.
    pub tasks: f64,
    /// Own capabilities in use / own capabilities.
    pub capabilities: f64,
    /// Mean of the shares of CPU and memory in use.
    pub resources: f64,
    /// `min(1, 0.4 * tasks + 0.3 * capabilities + 0.3 * resources)`.
    pub score: f64,
}

impl LoadScore {
    /// Weighs the three parts.
    pub fn new(tasks: f64, capabilities: f64, resources: f64) -> Self {
        let resources = if resources.is_finite() { resources.clamp(0.0, 1.0) } else { 1.0 };
        let score = (0.4 * tasks + 0.3 * capabilities + 0.3 * resources).min(1.0);
        Self { tasks, capabilities, resources, score }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_score_is_the_manuals_weighted_sum_capped_at_one() {
        assert!((LoadScore::new(0.5, 0.25, 0.2).score - (0.2 + 0.075 + 0.06)).abs() < 1e-12);
        assert!((LoadScore::new(1.0, 1.0, 1.0).score - 1.0).abs() < 1e-12);
        assert!((LoadScore::new(3.0, 1.0, 1.0).score - 1.0).abs() < 1e-12);
        assert!((LoadScore::new(0.0, 0.0, f64::NAN).score - 0.3).abs() < 1e-12, "a lie counts as full");
    }
}
