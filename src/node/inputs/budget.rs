//! How often a transfer may be tried again, and after which pauses.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::InputError;
use crate::node::backoff::Random;
use crate::node::way::Way;
use crate::workspace::blobs::BlobError;

/// Tries while the coordinator cannot be reached for blobs though its session speaks (20 to 41 seconds with the pauses
/// between them). While that is silent too none is spent: how long the coordinator may be gone is its own setting, and
/// whoever wants the blob has a time limit.
const TRIES_WHILE_AWAY: u32 = 13;
/// Tries while the coordinator has no room or too much to do, which it says itself: what a task made is not the less good
/// for it, so they last about as long as an attempt may (6 to 14 minutes).
const TRIES_WITHOUT_ROOM: u32 = 160;
/// Tries when what arrived was damaged.
const TRIES_WHEN_DAMAGED: u32 = 3;
/// The pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether there is a way to the coordinator again.
const LOOK: Duration = Duration::from_millis(200);

/// The tries of one transfer.
pub(super) struct Budget<'a> {
    spent: u32,
    way: &'a Way,
    random: &'a Random,
}

impl<'a> Budget<'a> {
    /// Of a transfer that is tried for the first time.
    pub(super) fn new(way: &'a Way, random: &'a Random) -> Self {
        Self { spent: 1, way, random }
    }

    /// Waits before the next try, or gives the error back if there is none left for its kind. A coordinator that is away
    /// is waited for.
    pub(super) async fn spend(&mut self, error: InputError) -> Result<(), InputError> {
        if error.is_absence() && !self.way.is_open(Instant::now()) {
            tracing::debug!(%error, "no way to the coordinator; trying again when there is one");
            while !self.way.is_open(Instant::now()) {
                tokio::time::sleep(LOOK).await;
            }
            return Ok(());
        }
        if self.spent >= tries(&error) {
            return Err(error);
        }
        tracing::debug!(%error, tries = self.spent, "trying again");
        let pause = pause(self.spent, (self.random)());
        self.spent += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The pause after so many tries: doubled up to the longest, at least half of it, so that the budget lasts.
fn pause(spent: u32, random: f64) -> Duration {
    let ceiling =
        FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(spent.saturating_sub(1))).min(LONGEST_PAUSE);
    ceiling.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// How often the same transfer may be tried when it ends like this.
fn tries(error: &InputError) -> u32 {
    match error {
        // The coordinator is away or busy: what a task made is worth waiting for it.
        InputError::Call { status, .. } if status.code() == Code::ResourceExhausted => TRIES_WITHOUT_ROOM,
        InputError::Call { .. } if error.is_absence() => TRIES_WHILE_AWAY,
        // Damaged on the way, or kept damaged: more tries will not tell.
        InputError::Mismatch(_) => TRIES_WHEN_DAMAGED,
        InputError::Store(error) if matches!(**error, BlobError::DigestMismatch { .. }) => TRIES_WHEN_DAMAGED,
        InputError::Call { .. }
        | InputError::Store(_)
        | InputError::TooLarge(_)
        | InputError::Garbled { .. } => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tonic::Status;

    use super::*;
    use crate::types::Digest;

    fn call(code: Code) -> InputError {
        InputError::Call { digest: Digest::of(b""), status: Box::new(Status::new(code, "no")) }
    }

    #[test]
    fn only_what_may_go_better_is_tried_again() {
        assert_eq!(tries(&call(Code::Unavailable)), TRIES_WHILE_AWAY);
        assert_eq!(tries(&call(Code::ResourceExhausted)), TRIES_WITHOUT_ROOM);
        assert_eq!(tries(&InputError::Mismatch(Digest::of(b""))), TRIES_WHEN_DAMAGED);
        for code in [Code::NotFound, Code::InvalidArgument, Code::Unauthenticated, Code::DeadlineExceeded] {
            assert_eq!(tries(&call(code)), 1, "{code:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_absence_of_the_coordinator_costs_no_tries_and_its_refusals_do() {
        let (way, random): (Way, Random) = (Way::default(), Arc::new(|| 0.5));
        let mut budget = Budget::new(&way, &random);
        for _ in 0..3 * TRIES_WHILE_AWAY {
            let away = budget.spend(call(Code::Unavailable));
            let pause = Duration::from_secs(60);
            assert!(tokio::time::timeout(pause, away).await.is_err(), "it waits for a session");
        }
        assert!(budget.spend(call(Code::NotFound)).await.is_err(), "what was said before is final");
        let (queue, _queued) = mpsc::channel(1);
        way.opened(Instant::now(), queue);
        for _ in 1..TRIES_WHILE_AWAY {
            way.heard(Instant::now());
            budget.spend(call(Code::Unavailable)).await.expect("another try");
        }
        way.heard(Instant::now());
        assert!(
            budget.spend(call(Code::Unavailable)).await.is_err(),
            "the session speaks, blobs do not come"
        );
    }

    #[test]
    fn the_tries_outlast_a_restart_of_the_coordinator_but_not_for_ever() {
        let total = |tries, random| (1..tries).map(|spent| pause(spent, random)).sum::<Duration>();
        let [shortest, longest] = [0.0, 1.0].map(|random| total(TRIES_WHILE_AWAY, random));
        assert!(shortest >= Duration::from_secs(20) && longest <= Duration::from_secs(60), "{longest:?}");
        let [shortest, longest] = [0.0, 1.0].map(|random| total(TRIES_WITHOUT_ROOM, random));
        assert!(shortest >= Duration::from_secs(6 * 60), "{shortest:?}");
        assert!(longest <= Duration::from_secs(14 * 60), "{longest:?}");
    }
}
