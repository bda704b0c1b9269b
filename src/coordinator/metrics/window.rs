//! Sums over the last 300 seconds, in memory that does not grow.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::Duration;

use crate::types::Tick;

/// The window over which figures are measured. Source: the operations manual, "Metrics Collection".
pub const WINDOW: Duration = Duration::from_secs(300);
/// What leaves the window at a time.
pub const STEP: Duration = Duration::from_secs(5);

const STEPS: u64 = WINDOW.as_secs() / STEP.as_secs();

/// Sums of `T` in steps of five seconds; the oldest of sixty leaves when a new one begins.
///
/// Moments may come out of order by a little: what is older than the newest step counts into the newest.
#[derive(Debug, Clone)]
pub(super) struct SlidingWindow<T> {
    /// When counting began; a younger window is measured over its age.
    since: Option<Tick>,
    /// Step number and sum, oldest first; steps without anything are not kept.
    steps: VecDeque<(u64, T)>,
}

impl<T> Default for SlidingWindow<T> {
    fn default() -> Self {
        Self { since: None, steps: VecDeque::new() }
    }
}

impl<T: AddAssign + Default + Clone> SlidingWindow<T> {
    /// Starts counting, if that has not been done.
    pub(super) fn begin(&mut self, now: Tick) {
        self.since.get_or_insert(now);
    }

    /// Adds to the present step.
    pub(super) fn add(&mut self, now: Tick, amount: T) {
        self.begin(now);
        let step = step_of(now);
        match self.steps.back_mut() {
            Some((newest, sum)) if *newest >= step => *sum += amount,
            _ => self.steps.push_back((step, amount)),
        }
        self.forget(now);
    }

    /// Drops what has left the window.
    pub(super) fn forget(&mut self, now: Tick) {
        let oldest = oldest_step(now);
        while self.steps.front().is_some_and(|(step, _)| *step < oldest) {
            self.steps.pop_front();
        }
    }

    /// The sum of what is in the window.
    pub(super) fn sum(&self, now: Tick) -> T {
        let oldest = oldest_step(now);
        let mut sum = T::default();
        for (_, part) in self.steps.iter().filter(|(step, _)| *step >= oldest) {
            sum += part.clone();
        }
        sum
    }

    /// The time the sum covers: 295 to 300 seconds, or the age of the window while it is younger.
    pub(super) fn covers(&self, now: Tick) -> Duration {
        let begins = Tick(oldest_step(now) * micros(STEP));
        self.since.map_or(Duration::ZERO, |since| now.since(since.max(begins)))
    }

    /// When something leaves next; none if there is nothing in it.
    pub(super) fn next_change(&self) -> Option<Tick> {
        self.steps.front().map(|(step, _)| Tick((step + STEPS) * micros(STEP)))
    }
}

fn step_of(now: Tick) -> u64 {
    now.0 / micros(STEP)
}

fn oldest_step(now: Tick) -> u64 {
    (step_of(now) + 1).saturating_sub(STEPS)
}

const fn micros(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000)
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut window = SlidingWindow::<u64>::default();
        window.add(second(3), 1);
        window.add(second(7), 10);
        assert_eq!(window.sum(second(299)), 11);
        assert_eq!(window.next_change(), Some(second(300)));
        assert_eq!(window.sum(second(300)), 10);
        window.forget(second(300));
        assert_eq!(window.next_change(), Some(second(305)));
        assert_eq!(window.sum(second(305)), 0);
        window.forget(second(10_000));
        assert_eq!(window.next_change(), None);
    }

    #[test]
    fn a_young_window_is_measured_over_its_age() {
        let mut window = SlidingWindow::<u64>::default();
        assert_eq!(window.covers(second(50)), Duration::ZERO);
        window.begin(second(50));
        assert_eq!(window.covers(second(60)), Duration::from_secs(10));
        assert_eq!(window.covers(second(352)), Duration::from_secs(297), "from the step that began at 55");
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_last_sixty_steps_and_memory_is_bounded(
            adds in prop::collection::vec((0_u64..20_000_000, 0_u64..1000), 0..400),
            later in 0_u64..400_000_000,
        ) {
            let mut window = SlidingWindow::<u64>::default();
            let mut now = Tick(0);
            let mut all = Vec::new();
            for (gap, amount) in adds {
                now = Tick(now.0 + gap);
                window.add(now, amount);
                all.push((now, amount));
                prop_assert!(window.steps.len() as u64 <= STEPS);
            }
            let end = Tick(now.0 + later);
            let begins = (end.0 / 5_000_000 + 1).saturating_sub(60) * 5_000_000;
            let expected: u64 = all.iter().filter(|(at, _)| at.0 >= begins).map(|(_, amount)| amount).sum();
            prop_assert_eq!(window.sum(end), expected);
            prop_assert!(window.covers(end) <= WINDOW);
            let before = window.sum(end);
            window.forget(end);
            prop_assert_eq!(window.sum(end), before, "forgetting changes nothing that counts");
        }
    }
}
