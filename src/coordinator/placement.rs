//! Which node gets which task.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Member, Presence};
use super::settings::Strategy;
use crate::types::{NodeId, NodeSpec, NodeStatus, Tick, ToolName};

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
fn covers(need: &BTreeSet<String>, spec: &NodeSpec) -> bool {
    need.iter().all(|name| spec.capabilities.contains(name) || spec.fallback_capabilities.contains(name))
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
    /// The node that should get the task now; none if it has to wait.
    ///
    /// Among the nodes made for the job that have room the strategy chooses; if there is none, the least loaded
    /// fallback node takes it, so that no core idles while work waits.
    pub fn choose(&self, need: &Need<'_>) -> Option<NodeId> {
        let cores_in_use = self.cores_in_use();
        let mut made = Vec::new();
        let mut fallback = Vec::new();
        for (id, member) in self.members {
            let Some(presence) = self.presences.get(id) else { continue };
            let used = cores_in_use.get(presence.host_id.as_str()).copied().unwrap_or(0);
            if !self.is_eligible(member, presence, need) || !has_room(member, presence, need, used) {
                continue;
            }
            let load = presence.load_score(&member.spec).score;
            if is_made_for(need.capabilities, &member.spec) {
                made.push((id, member, presence, load));
            } else {
                fallback.push((id, load));
            }
        }
        let best = match self.strategy {
            Strategy::CapabilityBased => made
                .iter()
                .max_by(|a, b| {
                    suitability(need.capabilities, &a.1.spec, a.3)
                        .total_cmp(&suitability(need.capabilities, &b.1.spec, b.3))
                        // Of equals the first by name, so that the choice can be foretold.
                        .then_with(|| b.0.cmp(a.0))
                })
                .map(|best| best.0),
            Strategy::LeastLoaded => {
                made.iter().min_by(|a, b| a.3.total_cmp(&b.3).then_with(|| a.0.cmp(b.0))).map(|best| best.0)
            }
            Strategy::RoundRobin => {
                made.iter().min_by_key(|(id, _, presence, _)| (presence.given, *id)).map(|best| best.0)
            }
        };
        best.or_else(|| {
            fallback.iter().min_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(b.0))).map(|best| best.0)
        })
        .cloned()
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

    fn is_eligible(&self, member: &Member, presence: &Presence, need: &Need<'_>) -> bool {
        let has_tool = match need.tool {
            None => true,
            Some((tool, version)) => presence.tools.get(tool).map(String::as_str) == version,
        };
        member.status == NodeStatus::Active
            && presence.session.is_some()
            && presence.breaker.would_admit(self.now)
            && covers(need.capabilities, &member.spec)
            && has_tool
    }

    /// By machine. Summed once for all of its nodes: there may be a thousand.
    fn cores_in_use(&self) -> BTreeMap<&str, u32> {
        let mut used: BTreeMap<&str, u32> = BTreeMap::new();
        for presence in self.presences.values() {
            *used.entry(&presence.host_id).or_default() += presence.cpu_slots_in_use();
        }
        used
    }
}

/// Whether the node may run one more task, on a machine that has so many cores in use.
fn has_room(member: &Member, presence: &Presence, need: &Need<'_>, used: u32) -> bool {
    presence.running.len() < member.spec.max_concurrent_tasks as usize
        && used + need.cpu_slots <= presence.cpu_slots.max(need.cpu_slots)
}
