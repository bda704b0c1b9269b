//! Whether and when a node's process is started again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::types::{NodeId, Tick};

/// How long a node must be ACTIVE to count as well: the starts before are forgotten then.
const PROVEN_AFTER: Duration = Duration::from_secs(60);

/// The rules for starting node processes again.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartPolicy {
    /// Starts of a node within the window; 0 for none.
    pub budget: u32,
    /// Over which its starts are counted.
    pub window: Duration,
    /// The longest pause before a start.
    pub backoff_max: Duration,
    /// How long a start may take until the node joins.
    pub start_timeout: Duration,
    /// The nodes whose processes the launcher of this process starts.
    pub launched: BTreeSet<NodeId>,
    /// Whether there is a command that starts the others.
    pub has_command: bool,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            budget: 5,
            window: Duration::from_secs(600),
            backoff_max: Duration::from_secs(60),
            start_timeout: Duration::from_secs(60),
            launched: BTreeSet::new(),
            has_command: false,
        }
    }
}

impl RestartPolicy {
    /// Whether anything here can start the node's process.
    pub fn can_start(&self, node: &NodeId) -> bool {
        self.has_command || self.launched.contains(node)
    }

    /// The pause before a start, after so many others: 0, 1, 2, 4 seconds and so on.
    fn backoff(&self, earlier: usize) -> Duration {
        let doublings = u32::try_from(earlier).unwrap_or(u32::MAX).saturating_sub(1);
        let pause = match earlier {
            0 => Duration::ZERO,
            _ => Duration::from_secs(1).saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)),
        };
        pause.min(self.backoff_max)
    }
}

/// The starts of one node's process that still count.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// Oldest first; never more than the budget, and one by an operator.
    made: VecDeque<Tick>,
    active_since: Option<Tick>,
}

impl Starts {
    /// When the next start may be made; none if the budget is spent.
    pub(super) fn next(&mut self, now: Tick, policy: &RestartPolicy) -> Option<Tick> {
        let in_row = self.made.len();
        self.made.retain(|at| now < *at + policy.window);
        (self.made.len() < policy.budget as usize).then(|| now + policy.backoff(in_row))
    }

    /// A start is made. Answers how many there are now.
    pub(super) fn note(&mut self, now: Tick) -> usize {
        self.made.push_back(now);
        self.made.len()
    }

    /// How many count.
    pub(super) fn count(&self) -> usize {
        self.made.len()
    }

    /// An operator wants the node back, whatever happened before.
    pub(super) fn forget(&mut self) {
        self.made.clear();
    }

    /// The node is ACTIVE, or not any more. One that was for long enough gets its budget back.
    pub(super) fn set_active(&mut self, now: Tick, active: bool) {
        if active {
            self.active_since.get_or_insert(now);
        } else if let Some(since) = self.active_since.take()
            && now >= since + PROVEN_AFTER
        {
            self.made.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(seconds: u64) -> Tick {
        Tick(1_000 * SECOND + seconds * SECOND)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RestartPolicy::default();
        let pauses: Vec<u64> = (0..10).map(|earlier| policy.backoff(earlier).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(policy.backoff(usize::MAX).as_secs(), 60);
        let none = RestartPolicy { backoff_max: Duration::ZERO, ..policy };
        assert_eq!(none.backoff(5), Duration::ZERO);
    }

    #[test]
    fn the_budget_is_spent_by_starts_and_comes_back_with_the_window_or_with_a_minute_of_health() {
        let policy = RestartPolicy { budget: 2, ..RestartPolicy::default() };
        let mut starts = Starts::default();
        assert_eq!(starts.next(at(0), &policy), Some(at(0)));
        starts.note(at(0));
        assert_eq!(starts.next(at(5), &policy), Some(at(6)));
        starts.note(at(6));
        assert_eq!(starts.next(at(599), &policy), None);
        assert!(starts.next(at(600), &policy).is_some(), "the first start is out of the window");
        starts.note(at(600));

        starts.set_active(at(601), true);
        starts.set_active(at(650), false);
        assert_eq!(starts.next(at(605), &policy), None, "49 s prove nothing");
        starts.set_active(at(651), true);
        starts.set_active(at(652), true);
        starts.set_active(at(711), false);
        assert_eq!(
            starts.next(at(712), &policy),
            Some(at(712)),
            "a minute does, and the first is at once again"
        );
    }

    #[test]
    fn a_budget_of_zero_starts_nothing() {
        let policy = RestartPolicy { budget: 0, ..RestartPolicy::default() };
        assert_eq!(Starts::default().next(at(0), &policy), None);
    }
}
