//! Which node gets which task.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::node::{LoadScore, Member, Presence};
use super::settings::Strategy;
use crate::types::{FaultCause, NodeId, NodeSpec, NodeStatus, Tick, ToolName};

/// What a task asks of a node.
#[derive(Debug, Clone)]
pub struct Need<'a> {
    /// Capabilities it must have, as its own or as a fallback.
    pub capabilities: &'a BTreeSet<String>,
    /// The tool and the pinned version it must have; no version: the tool is known to be missing everywhere.
    pub tool: Option<(&'a ToolName, Option<&'a str>)>,
    /// Cores the task uses.
    pub cpu_slots: u32,
}

/// `capability_match * priority_weight / (1 + load)`; the match counts the node's own capabilities only.
///
/// Source: the operations manual, "Capability-Based Load Balancing".
pub fn suitability(need: &BTreeSet<String>, spec: &NodeSpec, load: f64) -> f64 {
    capability_match(need, spec) * spec.priority_weight / (1.0 + load)
}

/// The share of the needed capabilities that are the node's own; 1 if none is needed.
fn capability_match(need: &BTreeSet<String>, spec: &NodeSpec) -> f64 {
    match need.len() {
        0 => 1.0,
        all => need.intersection(&spec.capabilities).count() as f64 / all as f64,
    }
}

/// Whether the node was made for what is needed.
pub fn is_made_for(need: &BTreeSet<String>, spec: &NodeSpec) -> bool {
    need.is_subset(&spec.capabilities)
}

/// Whether the node could do what is needed, if it had room.
pub(super) fn covers(need: &BTreeSet<String>, spec: &NodeSpec) -> bool {
    need.iter().all(|name| spec.capabilities.contains(name) || spec.fallback_capabilities.contains(name))
}

/// How well a node suits a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// Whether it was made for what is needed; else it would be a fallback.
    pub is_made_for: bool,
    /// The share of the needed capabilities that are its own; 1 if none is needed.
    pub capability_match: f64,
    /// Its declared weight.
    pub priority_weight: f64,
    /// How busy it is.
    pub load: LoadScore,
    /// See [`suitability`].
    pub suitability: f64,
    /// How many tasks it was given so far; for round robin.
    pub given: u64,
}

/// The nodes and the cores of their machines, as one look sees them.
pub struct Mesh<'a> {
    /// Durable parts.
    pub members: &'a BTreeMap<NodeId, Member>,
    /// Volatile parts.
    pub presences: &'a BTreeMap<NodeId, Presence>,
    /// How to choose.
    pub strategy: Strategy,
    /// When.
    pub now: Tick,
}

impl Mesh<'_> {
    /// The node that should get the task now, another one than `beside`; none if it has to wait.
    pub fn choose(&self, need: &Need<'_>, beside: Option<&NodeId>) -> Option<NodeId> {
        let cores_in_use = self.cores_in_use();
        self.members
            .iter()
            .filter(|(id, _)| Some(*id) != beside)
            .filter(|(id, member)| self.refusals(id, member, need, &cores_in_use).next().is_none())
            .map(|(id, member)| self.fit(id, member, need))
            .min_by(|a, b| self.compare(a, b))
            .map(|best| best.node.clone())
    }

    /// How well a node suits the task, whether it may take it now or not.
    pub fn fit<'a>(&self, id: &'a NodeId, member: &Member, need: &Need<'_>) -> Fit<'a> {
        let presence = self.presences.get(id);
        let load = presence.map_or_else(LoadScore::default, |at| at.load_score(&member.spec));
        Fit {
            node: id,
            is_made_for: is_made_for(need.capabilities, &member.spec),
            capability_match: capability_match(need.capabilities, &member.spec),
            priority_weight: member.spec.priority_weight,
            suitability: suitability(need.capabilities, &member.spec, load.score),
            load,
            given: presence.map_or(0, |at| at.given),
        }
    }

    /// The better of two nodes that may take a task comes first.
    ///
    /// Among the nodes made for the job the strategy chooses; if there is none, the least loaded fallback node takes
    /// it, so that no core idles while work waits. Of equals the first by name, so that the choice can be foretold.
    pub fn compare(&self, a: &Fit<'_>, b: &Fit<'_>) -> Ordering {
        let least_loaded = || a.load.score.total_cmp(&b.load.score);
        b.is_made_for
            .cmp(&a.is_made_for)
            .then_with(|| match self.strategy {
                _ if !a.is_made_for => least_loaded(),
                Strategy::CapabilityBased => b.suitability.total_cmp(&a.suitability),
                Strategy::LeastLoaded => least_loaded(),
                Strategy::RoundRobin => a.given.cmp(&b.given),
            })
            .then_with(|| a.node.cmp(b.node))
    }

    /// The node a task is meant for: the most suitable one made for it that is not FAILED, busy or not.
    pub fn meant_for(&self, need: &Need<'_>) -> Option<&NodeId> {
        self.members
            .iter()
            .filter(|(_, member)| {
                member.status != NodeStatus::Failed && covers(need.capabilities, &member.spec)
            })
            .max_by(|a, b| {
                suitability(need.capabilities, &a.1.spec, 0.0)
                    .total_cmp(&suitability(need.capabilities, &b.1.spec, 0.0))
                    .then_with(|| b.0.cmp(a.0))
            })
            .map(|(id, _)| id)
    }

    /// The cores in use, by machine. Summed once for all of its nodes: there may be a thousand. Work of nodes that are
    /// presumed dead uses none: its second attempts may need them.
    pub fn cores_in_use(&self) -> BTreeMap<&str, u32> {
        let mut used: BTreeMap<&str, u32> = BTreeMap::new();
        for (id, presence) in self.presences {
            let cause = self.members.get(id).and_then(|member| member.cause);
            if !matches!(cause, Some(FaultCause::Silent | FaultCause::SessionLost)) {
                *used.entry(&presence.host_id).or_default() += presence.cpu_slots_in_use();
            }
        }
        used
    }
}
