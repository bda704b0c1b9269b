//! How the store does, for operators.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets of commits, in seconds.
pub const COMMIT_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// What was stored since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StoreFigures {
    /// Batches by how long they took, waits for a store that failed included.
    pub commits_by_duration: [u64; COMMIT_BUCKETS.len()],
    /// Batches that were stored.
    pub commits: u64,
    /// How long they took together, in seconds.
    pub commit_seconds: f64,
    /// Facts that were stored.
    pub records: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Snapshots that were taken.
    pub snapshots: u64,
}

/// Counts for a store; clones are the same counts.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreCounts(Arc<Mutex<StoreFigures>>);

impl StoreCounts {
    pub(super) fn figures(&self) -> StoreFigures {
        *self.lock()
    }

    pub(super) fn committed(&self, records: u64, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut figures = self.lock();
        if let Some(bucket) = COMMIT_BUCKETS.iter().position(|bound| seconds <= *bound) {
            figures.commits_by_duration[bucket] += 1;
        }
        figures.commits += 1;
        figures.commit_seconds += seconds;
        figures.records += records;
    }

    pub(super) fn failed(&self) {
        self.lock().errors += 1;
    }

    pub(super) fn compacted(&self) {
        self.lock().snapshots += 1;
    }

    fn lock(&self) -> MutexGuard<'_, StoreFigures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
