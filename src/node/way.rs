//! Whether the coordinator can be reached.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::envelope::Said;

/// After so long without a word from the coordinator, results look for another way.
const CUT_AFTER: Duration = Duration::from_secs(3);

/// The session's state, for those who may take another way; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Way {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// When the last session ended.
    ended: Option<Instant>,
}

#[derive(Debug)]
struct Session {
    since: Instant,
    heard: Instant,
    answered: Instant,
    queue: mpsc::Sender<Said>,
}

impl Way {
    /// The coordinator welcomed this node; what is queued goes to it.
    pub(super) fn opened(&self, now: Instant, queue: mpsc::Sender<Said>) {
        self.lock().session = Some(Session { since: now, heard: now, answered: now, queue });
    }

    /// The coordinator said something.
    pub(super) fn heard(&self, now: Instant) {
        if let Some(session) = self.lock().session.as_mut() {
            session.heard = now;
        }
    }

    /// The coordinator answered something: what this node says arrives too.
    pub(super) fn answered(&self, now: Instant) {
        if let Some(session) = self.lock().session.as_mut() {
            session.answered = now;
        }
    }

    /// The session ended, if there was one; how long it lasted, from its Welcome on.
    pub(super) fn closed(&self, now: Instant) -> Option<Duration> {
        let mut state = self.lock();
        let session = state.session.take()?;
        state.ended = Some(now);
        Some(now.saturating_duration_since(session.since))
    }

    /// Whether there is no session, and if so since when; since for ever if there was none.
    pub(super) fn closed_since(&self) -> Option<Option<Instant>> {
        let state = self.lock();
        state.session.is_none().then_some(state.ended)
    }

    /// When the coordinator said something last; none without a session.
    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.lock().session.as_ref().map(|session| session.heard)
    }

    /// When the coordinator answered something last; none without a session.
    pub(super) fn last_answered(&self) -> Option<Instant> {
        self.lock().session.as_ref().map(|session| session.answered)
    }

    /// Whether there is a session on which the coordinator speaks.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.last_heard().is_some_and(|at| now.saturating_duration_since(at) < CUT_AFTER)
    }

    /// Where messages for the coordinator go, if it speaks.
    pub(super) fn queue(&self, now: Instant) -> Option<mpsc::Sender<Said>> {
        self.is_open(now).then(|| self.lock().session.as_ref().map(|session| session.queue.clone()))?
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_while_the_coordinator_speaks() {
        let (way, start) = (Way::default(), Instant::now());
        assert_eq!(way.closed_since(), Some(None));
        assert!(!way.is_open(start));
        way.heard(start);
        assert!(!way.is_open(start), "only a session brings anything");
        let (queue, _queued) = mpsc::channel(1);
        way.opened(start, queue);
        assert!(way.queue(start).is_some() && way.is_open(start + CUT_AFTER - Duration::from_millis(1)));
        assert!(!way.is_open(start + CUT_AFTER));
        way.heard(start + CUT_AFTER);
        assert!(way.is_open(start + CUT_AFTER));
        assert_eq!(way.closed_since(), None);
        assert_eq!(way.closed(start + CUT_AFTER), Some(CUT_AFTER));
        assert!(!way.is_open(start + CUT_AFTER));
        assert_eq!(way.closed(start + 2 * CUT_AFTER), None);
        assert_eq!(
            way.closed_since(),
            Some(Some(start + CUT_AFTER)),
            "a failed attempt to come back is no end"
        );
    }
}
