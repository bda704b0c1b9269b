//! Virtual time: what happens next, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::Tick;

/// What is to happen, by moment; what was planned first for one moment happens first.
pub(super) struct Schedule<T> {
    now: Tick,
    planned: u64,
    queue: BTreeMap<(Tick, u64), T>,
}

impl<T> Schedule<T> {
    pub(super) const fn new(start: Tick) -> Self {
        Self { now: start, planned: 0, queue: BTreeMap::new() }
    }

    pub(super) const fn now(&self) -> Tick {
        self.now
    }

    pub(super) fn after(&mut self, pause: Duration, what: T) {
        self.at(self.now + pause, what);
    }

    /// A moment that is past means now.
    pub(super) fn at(&mut self, when: Tick, what: T) {
        self.planned += 1;
        self.queue.insert((when.max(self.now), self.planned), what);
    }

    /// Moves time on to what happens next, or to `end` if nothing does until then.
    pub(super) fn next(&mut self, end: Tick) -> Option<T> {
        let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) else {
            self.now = self.now.max(end);
            return None;
        };
        self.now = entry.key().0;
        Some(entry.remove())
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
