//! Pauses between attempts to reach the coordinator.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential pauses with full jitter, so that nodes that lost their coordinator together do not come back together
/// ("Exponential Backoff And Jitter", AWS Architecture Blog). Without end: a node has nothing else to do.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause; `random` is from 0 to 1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let ceiling = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_random_scales_them() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.5), LONGEST / 2);
        for _ in 0..100 {
            assert!(backoff.next(1.0) <= LONGEST, "never overflows");
        }
    }
}
