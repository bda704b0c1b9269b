//! The logs of all runs, bounded together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{LoggedEvent, RunLog};
use crate::coordinator::event::RunEvent;
use crate::types::{RunId, UnixMillis};

/// Events of one run that are kept, the newest.
const OF_A_RUN: usize = 100_000;
/// Events of all runs together that have ended. Whoever wants to know more of them has their reports.
const OF_ENDED_RUNS: usize = 50_000;

/// The logs of all runs that are remembered.
#[derive(Debug, Clone)]
pub struct RunLogs {
    logs: Arc<Mutex<Logs>>,
}

#[derive(Debug)]
struct Logs {
    runs: BTreeMap<RunId, Arc<RunLog>>,
    /// How many events they have together.
    events: u64,
    /// How many events the runs have that have ended, in the order of their ends.
    ended: BTreeMap<(UnixMillis, RunId), usize>,
    /// And these together.
    events_of_ended: usize,
    of_a_run: usize,
    of_ended_runs: usize,
}

impl Default for RunLogs {
    fn default() -> Self {
        Self::bounded(OF_A_RUN, OF_ENDED_RUNS)
    }
}

impl RunLogs {
    fn bounded(of_a_run: usize, of_ended_runs: usize) -> Self {
        let logs = Logs {
            runs: BTreeMap::new(),
            events: 0,
            ended: BTreeMap::new(),
            events_of_ended: 0,
            of_a_run,
            of_ended_runs,
        };
        Self { logs: Arc::new(Mutex::new(logs)) }
    }

    /// The log of a run.
    pub fn get(&self, run: &RunId) -> Option<Arc<RunLog>> {
        self.lock().runs.get(run).cloned()
    }

    pub(in crate::engine) fn append(&self, run: &RunId, sequence: u64, at: UnixMillis, event: RunEvent) {
        let ends = matches!(event, RunEvent::Finished { .. });
        let mut logs = self.lock();
        let log = logs.log(run);
        let (more, kept) = {
            let mut window = log.window();
            let more = window.push(LoggedEvent { sequence, at, event }, logs.of_a_run);
            (more, window.len())
        };
        logs.events = logs.events.saturating_add_signed(more);
        if ends {
            let expired = logs.ended(run, at, kept);
            drop(logs);
            // Only now: many events take their time, and whoever looks for a log would wait for it.
            drop(expired);
        }
    }

    /// Makes sure that a run has a log that goes on after its newest event, if only to say that its events are gone.
    pub(in crate::engine) fn complete(&self, run: &RunId, newest: u64, ended_at: Option<UnixMillis>) {
        let mut logs = self.lock();
        let log = logs.log(run);
        let lost = log.window().reach(newest, ended_at);
        logs.events -= lost as u64;
        if lost > 0
            && let Some(at) = ended_at
        {
            logs.no_longer_counted(run, at);
        }
    }

    /// How many events are kept, of all runs.
    pub(in crate::engine) fn events(&self) -> u64 {
        self.lock().events
    }

    /// The runs that have a log.
    pub(in crate::engine) fn runs(&self) -> Vec<RunId> {
        self.lock().runs.keys().cloned().collect()
    }

    /// The events that are kept.
    pub(in crate::engine) fn all(&self) -> Vec<(RunId, Vec<Arc<LoggedEvent>>)> {
        self.lock().runs.iter().map(|(run, log)| (run.clone(), log.kept())).collect()
    }

    /// Tells the watchers of a run that something changed.
    pub(in crate::engine) fn touch(&self, run: &RunId) {
        if let Some(log) = self.get(run) {
            log.changes.send_modify(|changes| *changes += 1);
        }
    }

    pub(in crate::engine) fn forget(&self, run: &RunId) {
        let mut logs = self.lock();
        let Some(log) = logs.runs.remove(run) else { return };
        let window = log.window();
        logs.events -= window.len() as u64;
        if let Some(ended_at) = window.ended_at() {
            logs.no_longer_counted(run, ended_at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logs {
    fn log(&mut self, run: &RunId) -> Arc<RunLog> {
        self.runs.entry(run.clone()).or_insert_with(|| Arc::new(RunLog::new())).clone()
    }

    /// A run has ended. The events of those that ended first go, as a whole, until the others fit; those of the run that
    /// ended last stay, however many they are, for its watchers are about to read its end.
    fn ended(&mut self, run: &RunId, at: UnixMillis, kept: usize) -> Vec<VecDeque<Arc<LoggedEvent>>> {
        self.ended.insert((at, run.clone()), kept);
        self.events_of_ended += kept;
        let mut expired = Vec::new();
        while self.events_of_ended > self.of_ended_runs
            && let Some((at, oldest)) = self.ended.keys().find(|(_, other)| other != run).cloned()
        {
            expired.extend(self.runs.get(&oldest).map(|log| log.window().take()));
            let kept = self.no_longer_counted(&oldest, at);
            self.events -= kept as u64;
        }
        expired
    }

    /// Strikes a run off those that have ended and have events; answers how many it had.
    fn no_longer_counted(&mut self, run: &RunId, ended_at: UnixMillis) -> usize {
        let kept = self.ended.remove(&(ended_at, run.clone())).unwrap_or_default();
        self.events_of_ended -= kept;
        kept
    }
}

#[cfg(test)]
mod tests;
