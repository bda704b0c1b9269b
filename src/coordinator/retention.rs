//! Finished runs are forgotten: those beyond a number, and those that ended long ago.

use std::time::Duration;

use super::event::Event;
use super::{Coordinator, Draft};
use crate::types::{Now, RunId, Tick, UnixMillis};

/// Runs that are forgotten in one decision, so that none takes long when there are many.
const AT_ONCE: usize = 64;

impl Coordinator {
    /// Keeps of the finished runs as many, and those as old, as the settings say; what is too much for one decision is
    /// left to the next.
    pub(super) fn forget_old_runs(&mut self, draft: &mut Draft) {
        let ended = &self.state.ended;
        let surplus = ended.len().saturating_sub(self.settings.kept_runs);
        let is_too_old = |at: &UnixMillis| self.kept_for(*at, draft.now).is_zero();
        let forgotten: Vec<RunId> = ended
            .iter()
            .enumerate()
            .take_while(|(place, (_, at, _))| *place < surplus || is_too_old(at))
            .take(AT_ONCE)
            .map(|(_, (_, _, run))| run.clone())
            .collect();
        for run in forgotten {
            self.record(draft, Event::RunForgotten(run));
        }
    }

    /// When a sweep finds the next run to forget.
    pub(super) fn next_retention(&self, now: Now) -> Option<Tick> {
        let (_, oldest, _) = self.state.ended.first()?;
        let is_surplus = self.state.ended.len() > self.settings.kept_runs;
        let due = if is_surplus { now.tick } else { now.tick + self.kept_for(*oldest, now) };
        Some(due.max(self.watch.sweep_at))
    }

    /// How much longer a run that ended then is kept.
    fn kept_for(&self, ended_at: UnixMillis, now: Now) -> Duration {
        let age = Duration::from_millis(now.wall.0.saturating_sub(ended_at.0));
        self.settings.keep_runs_for.saturating_sub(age)
    }
}
