//! The newest events of one run, without gaps.

use std::collections::VecDeque;
use std::sync::Arc;

use super::LoggedEvent;
use crate::coordinator::event::RunEvent;
use crate::types::UnixMillis;

/// Events were asked for that are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events before {oldest} are not kept any more; the newest is {newest}")]
pub struct Expired {
    /// The oldest event that is kept; one more than `newest` if none is.
    pub oldest: u64,
    /// The newest event there was.
    pub newest: u64,
}

/// A run's events from the oldest one kept to the newest one there was.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Without gaps, the last of them with the number `newest`.
    events: VecDeque<Arc<LoggedEvent>>,
    newest: u64,
    ended_at: Option<UnixMillis>,
}

impl Window {
    /// Takes in the next event and keeps at most so many. Answers how many are kept less, or more, than before.
    pub(super) fn push(&mut self, logged: LoggedEvent, most: usize) -> i64 {
        let before = self.events.len();
        if logged.sequence != self.newest + 1 {
            // A hole: what is before it can no longer be told without a gap.
            self.events.clear();
        }
        self.newest = logged.sequence;
        if matches!(logged.event, RunEvent::Finished { .. }) {
            self.ended_at = Some(logged.at);
        }
        self.events.push_back(Arc::new(logged));
        while self.events.len() > most {
            self.events.pop_front();
        }
        self.events.len() as i64 - before as i64
    }

    /// Makes sure that it goes on after an event, and ended if the run did, though what it has may tell of less. Answers
    /// how many events are kept less for that.
    pub(super) fn reach(&mut self, newest: u64, ended_at: Option<UnixMillis>) -> usize {
        self.ended_at = ended_at;
        if self.newest == newest {
            return 0;
        }
        self.newest = newest;
        self.take().len()
    }

    /// Gives all events up.
    pub(super) fn take(&mut self) -> VecDeque<Arc<LoggedEvent>> {
        std::mem::take(&mut self.events)
    }

    /// The events after a number, at most `most` of them.
    pub(super) fn after(&self, sequence: u64, most: usize) -> Result<Vec<Arc<LoggedEvent>>, Expired> {
        let oldest = self.oldest();
        let Some(skipped) = sequence.saturating_add(1).checked_sub(oldest) else {
            return Err(Expired { oldest, newest: self.newest });
        };
        let from = usize::try_from(skipped).unwrap_or(usize::MAX).min(self.events.len());
        let end = from.saturating_add(most).min(self.events.len());
        Ok(self.events.range(from..end).cloned().collect())
    }

    /// All that are kept.
    pub(super) fn kept(&self) -> Vec<Arc<LoggedEvent>> {
        self.events.iter().cloned().collect()
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The oldest that is kept; one more than the newest if none is.
    pub(super) fn oldest(&self) -> u64 {
        self.newest + 1 - self.events.len() as u64
    }

    /// The newest there was.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// When the run ended.
    pub(super) const fn ended_at(&self) -> Option<UnixMillis> {
        self.ended_at
    }
}
