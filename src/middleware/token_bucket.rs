//! Bounds how many messages one peer may send.

use std::time::Duration;

use tokio::time::Instant;

/// What one peer may send: so many messages at once, and so many in a second over time. A node says a few in a second
/// beside what it was asked for.
pub const MESSAGES: Rate = Rate { burst: 2_000, per_second: 1_000 };

/// A burst and a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that a full bucket holds.
    pub burst: u32,
    /// Tokens that come back in a second; at least 1.
    pub per_second: u32,
}

/// A token bucket (Turner, "New directions in communications", 1986): a message takes a token, time brings them back.
#[derive(Debug)]
pub struct TokenBucket {
    rate: Rate,
    /// When the bucket would be full if nothing more were taken (the "theoretical arrival time" of the equivalent
    /// generic cell rate algorithm, ITU-T I.371): one moment instead of a count that has to be refilled.
    full_at: Instant,
}

impl TokenBucket {
    /// A full one.
    pub const fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    /// Takes one token if there is one; answers whether there was.
    pub fn take(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / self.rate.per_second.max(1);
        let full_at = self.full_at.max(now) + each;
        if full_at - now > each * self.rate.burst {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MESSAGES, start);
        assert_eq!((0..5_000).filter(|_| bucket.take(start)).count(), 2_000);
        let later = start + Duration::from_millis(50);
        assert_eq!((0..5_000).filter(|_| bucket.take(later)).count(), 50);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(
            (0..5_000).filter(|_| bucket.take(much_later)).count(),
            2_000,
            "never more than the burst"
        );
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_burst_and_rate(
            burst in 1_u32..50,
            per_second in 1_u32..100,
            pauses in prop::collection::vec(0_u64..200, 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(Rate { burst, per_second }, start);
            let (mut now, mut taken) = (start, 0_u64);
            for pause in pauses {
                now += Duration::from_millis(pause);
                taken += u64::from(bucket.take(now));
                let earned = (now - start).as_secs_f64() * f64::from(per_second);
                prop_assert!(taken as f64 <= f64::from(burst) + earned + 1e-3);
            }
            prop_assert!(taken >= 1);
        }
    }
}
