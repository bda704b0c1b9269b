//! What was refused, counted by reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sender is not who is at the other end of the connection.
pub const SENDER_MISMATCH: &str = "SENDER_MISMATCH";
/// The message is for somebody else.
pub const WRONG_RECEIVER: &str = "WRONG_RECEIVER";
/// The message was sent later than it arrived.
pub const FUTURE_TIMESTAMP: &str = "FUTURE_TIMESTAMP";
/// Too many messages in too short a time.
pub const FLOOD: &str = "FLOOD";
/// The message breaks the protocol.
pub const MALFORMED: &str = "MALFORMED";
/// A node dialled that the roster does not have, or with another secret.
pub const LINK_REFUSED: &str = "LINK_REFUSED";

/// Counts by reason; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Reasons {
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Reasons {
    /// One more; answers how many there are now.
    pub fn count(&self, reason: &'static str) -> u64 {
        let mut counts = self.lock();
        let count = counts.entry(reason).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// All counts since the start of the process.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together() {
        let refusals = Reasons::default();
        assert_eq!(
            (refusals.count(FLOOD), refusals.clone().count(FLOOD), refusals.count(MALFORMED)),
            (1, 2, 1)
        );
        assert_eq!(refusals.counts(), [(FLOOD, 2), (MALFORMED, 1)].into());
    }
}
