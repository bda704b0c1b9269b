//! What probes of a session measure: round trips, and how far the node's clock is from this one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Now;

/// Probes that may be unanswered; older ones are forgotten.
const OUTSTANDING: usize = 64;

/// One answered probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Between probe and answer.
    pub(super) round_trip: Duration,
    /// The node's clock less this one, in milliseconds.
    pub(super) offset_ms: i64,
}

/// The probes of one session.
#[derive(Debug, Default)]
pub(super) struct ProbeClock {
    sent: VecDeque<(u64, Now)>,
    offset_ms: i64,
}

impl ProbeClock {
    /// With a first guess of the offset: the Hello's own time of sending, in milliseconds since 1970, if it told one.
    /// What the Hello took to arrive makes the guess too small, by far less than what is tolerated.
    pub(super) fn new(hello_sent_ms: Option<i64>, now: Now) -> Self {
        let offset_ms = hello_sent_ms.map_or(0, |sent| sent.saturating_sub(wall_ms(now)));
        Self { sent: VecDeque::new(), offset_ms }
    }

    /// A probe leaves.
    pub(super) fn sent(&mut self, number: u64, now: Now) {
        if self.sent.len() >= OUTSTANDING {
            self.sent.pop_front();
        }
        self.sent.push_back((number, now));
    }

    /// Its answer arrived, which was sent at `answered_ms` by the node's clock; nothing if nobody asked.
    ///
    /// The answer is taken to have left half a round trip ago (Cristian, "Probabilistic clock synchronization", 1989).
    pub(super) fn answered(&mut self, number: u64, answered_ms: Option<i64>, now: Now) -> Option<Answer> {
        let index = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, sent) = self.sent.remove(index)?;
        let round_trip = now.tick.since(sent.tick);
        if let Some(answered) = answered_ms {
            let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
            self.offset_ms = answered.saturating_sub(wall_ms(now).saturating_sub(half));
        }
        Some(Answer { round_trip, offset_ms: self.offset_ms })
    }

    /// The node's clock less this one, in milliseconds, as far as it is known.
    pub(super) const fn offset_ms(&self) -> i64 {
        self.offset_ms
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms(now: Now) -> i64 {
    i64::try_from(now.wall.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Tick, UnixMillis};

    fn at(ms: u64) -> Now {
        Now { tick: Tick::default() + Duration::from_millis(ms), wall: UnixMillis(1_000_000 + ms) }
    }

    #[test]
    fn an_answer_tells_round_trip_and_offset_once() {
        let mut clock = ProbeClock::new(None, at(0));
        clock.sent(1, at(0));
        clock.sent(2, at(100));
        // Half way there, the node's clock showed 250 ms more than this one.
        let answer = clock.answered(1, Some(1_000_000 + 20 + 250), at(40));
        assert_eq!(answer, Some(Answer { round_trip: Duration::from_millis(40), offset_ms: 250 }));
        assert_eq!(clock.answered(1, Some(0), at(50)), None, "answered before");
        assert_eq!(clock.answered(7, Some(0), at(50)), None, "never asked");
        let silent = clock.answered(2, None, at(160)).expect("asked");
        assert_eq!((silent.round_trip, clock.offset_ms()), (Duration::from_millis(60), 250));
    }

    #[test]
    fn a_hello_gives_a_first_guess_and_old_probes_are_forgotten() {
        let mut clock = ProbeClock::new(Some(4_600_000), at(0));
        assert_eq!(clock.offset_ms(), 3_600_000);
        for number in 0..=OUTSTANDING as u64 {
            clock.sent(number, at(number));
        }
        assert!(clock.answered(0, None, at(100)).is_none() && clock.answered(1, None, at(100)).is_some());
    }
}
