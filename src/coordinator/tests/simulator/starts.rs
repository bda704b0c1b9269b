//! The budget for starting processes of nodes again, counted from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::{NodeId, NodeStatus, Tick};

/// Starts of a node in a window, as the default settings have it.
const BUDGET: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);
/// A node that was ACTIVE for so long counts as well.
const PROVEN: Duration = Duration::from_secs(60);

/// What was ordered for each node.
#[derive(Default)]
pub(super) struct Starts {
    nodes: BTreeMap<NodeId, Ordered>,
}

#[derive(Default)]
struct Ordered {
    at: Vec<Tick>,
    active_since: Option<Tick>,
}

impl Starts {
    pub(super) fn follow(&mut self, now: Tick, node: &NodeId, status: NodeStatus) {
        let ordered = self.nodes.entry(node.clone()).or_default();
        if status == NodeStatus::Active {
            ordered.active_since.get_or_insert(now);
        } else if ordered.active_since.take().is_some_and(|since| now >= since + PROVEN) {
            ordered.at.clear();
        }
    }

    /// A start by the coordinator itself; those that operators want have no cause.
    pub(super) fn note(&mut self, now: Tick, node: &NodeId, cause: &str) {
        if cause.is_empty() {
            return;
        }
        let ordered = self.nodes.entry(node.clone()).or_default();
        ordered.at.retain(|at| now < *at + WINDOW);
        ordered.at.push(now);
        assert!(ordered.at.len() <= BUDGET, "{node} is started {} times", ordered.at.len());
    }
}
