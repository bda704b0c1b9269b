//! Pauses between attempts to reach somebody.

use std::sync::Arc;
use std::time::Duration;

/// Random numbers from 0 to 1: the system's, or those of a test.
pub type Random = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Exponential pauses with full jitter, so that nodes that lost somebody together do not come back together
/// ("Exponential Backoff And Jitter", AWS Architecture Blog). Without end: a node has nothing else to do.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses of at most `first`, then doubled up to `longest`.
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The next pause; `random` is from 0 to 1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let ceiling = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }

    /// It went well: the next pauses start from the first.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_random_scales_them() {
        let longest = Duration::from_secs(5);
        let mut backoff = Backoff::new(Duration::from_millis(100), longest);
        let pauses: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.5), longest / 2);
        for _ in 0..100 {
            assert!(backoff.next(1.0) <= longest, "never overflows");
        }
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_millis(), 100);
    }
}
