//! What nodes count of each other, as their heartbeats tell: what they refused, and the outputs that came by a peer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::middleware::refusals::{
    FLOOD, FUTURE_TIMESTAMP, LINK_REFUSED, MALFORMED, SENDER_MISMATCH, WRONG_RECEIVER,
};
use crate::types::NodeId;

/// The reasons that are counted: a node that makes up others makes no labels.
const REASONS: [&str; 6] =
    [SENDER_MISMATCH, WRONG_RECEIVER, FUTURE_TIMESTAMP, FLOOD, MALFORMED, LINK_REFUSED];

/// The outputs of tasks that came straight from the node that made them.
const OUTPUTS: &str = "OUTPUTS";

/// Sums over all nodes; they only grow, also when a node begins at 0 again.
#[derive(Debug, Default)]
pub struct ToldByNodes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    told: BTreeMap<NodeId, BTreeMap<&'static str, u64>>,
    sums: BTreeMap<&'static str, u64>,
}

impl ToldByNodes {
    /// Takes a node's counts since its start.
    pub fn tell(&self, node: &NodeId, refused: &BTreeMap<String, u64>, outputs_by_peers: u64) {
        if refused.is_empty() && outputs_by_peers == 0 {
            return;
        }
        let mut inner = self.lock();
        let Inner { told, sums } = &mut *inner;
        let told = told.entry(node.clone()).or_default();
        let refused = REASONS.map(|reason| (reason, refused.get(reason).copied().unwrap_or(0)));
        for (counted, count) in refused.into_iter().chain([(OUTPUTS, outputs_by_peers)]) {
            let before = told.insert(counted, count).unwrap_or(0);
            // Fewer than before: its process is a new one.
            let more = count.checked_sub(before).unwrap_or(count);
            if more > 0 {
                let sum = sums.entry(counted).or_default();
                *sum = sum.saturating_add(more);
            }
        }
    }

    /// Messages that nodes refused, by reason.
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = self.lock().sums.clone();
        sums.remove(OUTPUTS);
        sums
    }

    /// Outputs of tasks that came straight from the node that made them.
    pub fn outputs_by_peers(&self) -> u64 {
        self.lock().sums.get(OUTPUTS).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_grow_over_restarts_and_know_only_real_reasons() {
        let told = ToldByNodes::default();
        let node = |name: &str| NodeId::new(name).expect("valid");
        let counts = |flood: u64| {
            BTreeMap::from([(FLOOD.to_owned(), flood), ("MADE_UP".to_owned(), 7), (MALFORMED.to_owned(), 0)])
        };
        told.tell(&node("a"), &counts(3), 1);
        told.tell(&node("a"), &counts(5), 4);
        told.tell(&node("b"), &counts(10), 0);
        told.tell(&node("a"), &counts(2), 2);
        assert_eq!((told.refused(), told.outputs_by_peers()), ([(FLOOD, 17)].into(), 6));
    }
}
