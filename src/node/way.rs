//! Whether the coordinator can be reached.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After so long without a word from the coordinator, results look for another way.
const CUT_AFTER: Duration = Duration::from_secs(3);

/// The session's state, for those who may take another way; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Way {
    heard: Arc<Mutex<Option<Instant>>>,
}

impl Way {
    /// The coordinator said something.
    pub(super) fn heard(&self, now: Instant) {
        *self.lock() = Some(now);
    }

    /// The session ended.
    pub(super) fn closed(&self) {
        *self.lock() = None;
    }

    /// When the coordinator said something last; none without a session.
    pub(super) fn last_heard(&self) -> Option<Instant> {
        *self.lock()
    }

    /// Whether there is a session on which the coordinator speaks.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.last_heard().is_some_and(|at| now.saturating_duration_since(at) < CUT_AFTER)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_while_the_coordinator_speaks() {
        let (way, start) = (Way::default(), Instant::now());
        assert!(!way.is_open(start));
        way.heard(start);
        assert!(way.is_open(start + CUT_AFTER - Duration::from_millis(1)));
        assert!(!way.is_open(start + CUT_AFTER));
        way.heard(start + CUT_AFTER);
        assert!(way.is_open(start + CUT_AFTER));
        way.closed();
        assert!(!way.is_open(start + CUT_AFTER));
    }
}
