//! Exact counts of calls over a sliding window.
//!
//! Exact, because an average weighted by arrival time lets a burst hide an outage.

use std::time::Duration;

use crate::types::Tick;

const BUCKETS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    successes: u32,
    failures: u32,
}

/// A ring of ten buckets, each a tenth of the window long.
#[derive(Debug, Clone)]
pub(super) struct Window {
    bucket_micros: u64,
    /// Number of the newest bucket since tick 0.
    newest: u64,
    buckets: [Bucket; BUCKETS],
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        let bucket_micros = (micros / BUCKETS as u64).max(1);
        Self { bucket_micros, newest: 0, buckets: Default::default() }
    }

    /// Counts one call; a tick before the newest counts into the newest bucket.
    pub(super) fn add(&mut self, now: Tick, success: bool) {
        self.advance(now);
        let bucket = &mut self.buckets[(self.newest % BUCKETS as u64) as usize];
        let count = if success { &mut bucket.successes } else { &mut bucket.failures };
        *count = count.saturating_add(1);
    }

    /// Whether at least `min_requests` calls are counted and less than `min_rate` of them succeeded.
    pub(super) fn is_below(&self, min_requests: u32, min_rate: f64) -> bool {
        let successes: u64 = self.buckets.iter().map(|b| u64::from(b.successes)).sum();
        let failures: u64 = self.buckets.iter().map(|b| u64::from(b.failures)).sum();
        let total = successes + failures;
        total > 0 && total >= u64::from(min_requests) && (successes as f64) < min_rate * total as f64
    }

    pub(super) fn clear(&mut self) {
        self.buckets = Default::default();
    }

    fn advance(&mut self, now: Tick) {
        let current = now.0 / self.bucket_micros;
        let passed = current.saturating_sub(self.newest);
        for step in 1..=passed.min(BUCKETS as u64) {
            self.buckets[((self.newest + step) % BUCKETS as u64) as usize] = Bucket::default();
        }
        self.newest = self.newest.max(current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Tick {
        Tick(n * 1_000_000)
    }

    #[test]
    fn calls_older_than_the_window_do_not_count() {
        let mut window = Window::new(Duration::from_secs(10));
        window.add(second(0), false);
        window.add(second(9), true);
        assert!(window.is_below(2, 0.6), "one of two within ten seconds");
        window.add(second(10), true);
        assert!(!window.is_below(1, 0.6), "the failure left the window");
    }

    #[test]
    fn a_long_pause_empties_the_window() {
        let mut window = Window::new(Duration::from_secs(10));
        for n in 0..10 {
            window.add(second(n), false);
        }
        window.add(second(1_000), true);
        assert!(!window.is_below(1, 1.0));
    }

    #[test]
    fn the_rate_decides_nothing_below_the_minimum() {
        let mut window = Window::new(Duration::from_secs(10));
        window.add(second(0), false);
        assert!(!window.is_below(2, 1.0));
        assert!(!Window::new(Duration::ZERO).is_below(0, 1.0), "no calls, no rate");
    }
}
