//! What a node runs, with the sums that every placement asks for: summing them up each time would make each task cost the
//! more the more others run.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::time::Duration;

use super::{MissedBeats, RunningAttempt};
use crate::types::{AttemptId, AttemptRef, Tick};

/// The attempts that a node runs. Read like a map.
#[derive(Debug, Default)]
pub struct Running {
    attempts: BTreeMap<AttemptId, RunningAttempt>,
    cpu_slots: u32,
    /// How many attempts use each capability; those that none uses are not in it.
    capabilities: BTreeMap<String, u32>,
}

impl Running {
    /// Takes an attempt in.
    pub fn insert(&mut self, id: AttemptId, attempt: RunningAttempt) {
        self.remove(&id);
        self.cpu_slots += attempt.cpu_slots;
        for name in &attempt.capabilities {
            match self.capabilities.get_mut(name) {
                Some(uses) => *uses += 1,
                None => {
                    self.capabilities.insert(name.clone(), 1);
                }
            }
        }
        self.attempts.insert(id, attempt);
    }

    /// Takes an attempt out.
    pub fn remove(&mut self, id: &AttemptId) -> Option<RunningAttempt> {
        let attempt = self.attempts.remove(id)?;
        self.cpu_slots -= attempt.cpu_slots;
        for name in &attempt.capabilities {
            if let Some(uses) = self.capabilities.get_mut(name) {
                *uses -= 1;
                if *uses == 0 {
                    self.capabilities.remove(name);
                }
            }
        }
        Some(attempt)
    }

    /// Takes all attempts out but some.
    pub fn take_but(&mut self, kept: &BTreeSet<AttemptId>) -> BTreeMap<AttemptId, RunningAttempt> {
        let others: Vec<AttemptId> = self.attempts.keys().filter(|id| !kept.contains(id)).copied().collect();
        others.into_iter().filter_map(|id| Some((id, self.remove(&id)?))).collect()
    }

    /// Gives every attempt more time.
    pub fn postpone(&mut self, by: Duration) {
        for attempt in self.attempts.values_mut() {
            attempt.deadline = attempt.deadline + by;
        }
    }

    /// What an attempt made is here and waits for room.
    pub fn has_arrived(&mut self, id: &AttemptId) {
        if let Some(attempt) = self.attempts.get_mut(id) {
            attempt.has_arrived = true;
        }
    }

    /// What waited for room is to be brought again, for which there is time until then at least.
    pub fn comes_again(&mut self, until: Tick) {
        for attempt in self.attempts.values_mut() {
            if std::mem::take(&mut attempt.has_arrived) {
                attempt.deadline = attempt.deadline.max(until);
            }
        }
    }

    /// The attempts, with the heartbeats that did not tell of each.
    pub fn beats(&mut self) -> impl Iterator<Item = (AttemptRef, &mut MissedBeats)> {
        self.attempts.iter_mut().map(|(id, attempt)| (attempt.named(*id), &mut attempt.missed_beats))
    }

    /// Cores in use.
    pub const fn cpu_slots(&self) -> u32 {
        self.cpu_slots
    }

    /// How many of these capabilities are in use.
    pub fn uses_of(&self, capabilities: &BTreeSet<String>) -> usize {
        self.capabilities.keys().filter(|name| capabilities.contains(*name)).count()
    }
}

impl Deref for Running {
    type Target = BTreeMap<AttemptId, RunningAttempt>;

    fn deref(&self) -> &Self::Target {
        &self.attempts
    }
}

impl<'a> IntoIterator for &'a Running {
    type Item = (&'a AttemptId, &'a RunningAttempt);
    type IntoIter = std::collections::btree_map::Iter<'a, AttemptId, RunningAttempt>;

    fn into_iter(self) -> Self::IntoIter {
        self.attempts.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::breaker::Permit;
    use crate::types::{Epoch, RunId, TaskId};

    fn attempt(number: u64, cpu_slots: u32, capabilities: &[&str]) -> (AttemptId, RunningAttempt) {
        let running = RunningAttempt {
            run: RunId::new("run-1").expect("valid"),
            task: TaskId(number),
            deadline: Tick(0),
            has_arrived: false,
            cpu_slots,
            capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
            permit: Permit::adopted(),
            missed_beats: MissedBeats { count: None, counted_at: Tick(0) },
        };
        (AttemptId { epoch: Epoch(1), number }, running)
    }

    #[test]
    fn the_sums_are_of_what_is_there() {
        let mut running = Running::default();
        let of: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        for (id, one) in [attempt(1, 1, &["a", "x"]), attempt(2, 0, &["a", "b"]), attempt(3, 1, &["x"])] {
            running.insert(id, one);
        }
        assert_eq!((running.len(), running.cpu_slots(), running.uses_of(&of)), (3, 2, 2));
        let (id, again) = attempt(1, 1, &["c"]);
        running.insert(id, again);
        assert_eq!((running.len(), running.cpu_slots(), running.uses_of(&of)), (3, 2, 3));
        for number in [2, 2, 1] {
            running.remove(&AttemptId { epoch: Epoch(1), number });
        }
        assert_eq!((running.len(), running.cpu_slots(), running.uses_of(&of)), (1, 1, 0));
    }
}
