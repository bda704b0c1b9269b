//! What nodes refused of each other, as their heartbeats tell.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::middleware::refusals::{
    FLOOD, FUTURE_TIMESTAMP, LINK_REFUSED, MALFORMED, SENDER_MISMATCH, WRONG_RECEIVER,
};
use crate::types::NodeId;

/// The reasons that are counted: a node that makes up others makes no labels.
const REASONS: [&str; 6] =
    [SENDER_MISMATCH, WRONG_RECEIVER, FUTURE_TIMESTAMP, FLOOD, MALFORMED, LINK_REFUSED];

/// Sums over all nodes; they only grow, also when a node begins at 0 again.
#[derive(Debug, Default)]
pub struct PeerRefusals(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    told: BTreeMap<NodeId, BTreeMap<&'static str, u64>>,
    sums: BTreeMap<&'static str, u64>,
}

impl PeerRefusals {
    /// Takes a node's counts since its start.
    pub fn tell(&self, node: &NodeId, counts: &BTreeMap<String, u64>) {
        if counts.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let Inner { told, sums } = &mut *inner;
        let told = told.entry(node.clone()).or_default();
        for reason in REASONS {
            let count = counts.get(reason).copied().unwrap_or(0);
            let before = told.insert(reason, count).unwrap_or(0);
            // Fewer than before: its process is a new one.
            let more = count.checked_sub(before).unwrap_or(count);
            if more > 0 {
                let sum = sums.entry(reason).or_default();
                *sum = sum.saturating_add(more);
            }
        }
    }

    /// By reason.
    pub fn sums(&self) -> BTreeMap<&'static str, u64> {
        self.lock().sums.clone()
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
        let refusals = PeerRefusals::default();
        let node = |name: &str| NodeId::new(name).expect("valid");
        let counts = |flood: u64| {
            BTreeMap::from([(FLOOD.to_owned(), flood), ("MADE_UP".to_owned(), 7), (MALFORMED.to_owned(), 0)])
        };
        refusals.tell(&node("a"), &counts(3));
        refusals.tell(&node("a"), &counts(5));
        refusals.tell(&node("b"), &counts(10));
        refusals.tell(&node("a"), &counts(2));
        assert_eq!(refusals.sums(), [(FLOOD, 17)].into());
    }
}
