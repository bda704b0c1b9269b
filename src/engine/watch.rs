//! What watchers of runs read: each run's numbered events, and its newest progress.
//!
//! Watchers pull: they read the log at their own pace and are only told that something changed. So a slow one misses
//! progress, never an event, and costs no memory; and progress, which takes as long as the run has tasks, is made only
//! when somebody asks, once for all who do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::coordinator::event::RunEvent;
use crate::coordinator::run::ToolProgress;
use crate::types::{NodeId, RunId, ToolName, UnixMillis};

/// A numbered event.
#[derive(Debug)]
pub struct LoggedEvent {
    /// From 1.
    pub sequence: u64,
    /// When, for display.
    pub at: UnixMillis,
    /// What.
    pub event: RunEvent,
}

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// By tool.
    pub tools: BTreeMap<ToolName, ToolProgress>,
    /// By node.
    pub nodes: BTreeMap<NodeId, NodePart>,
    /// Its tasks that wait.
    pub waiting_tasks: u32,
    /// Its tasks that run.
    pub running_tasks: u32,
    /// Runs before it in the queue, if it waits and nothing of it runs.
    pub runs_ahead: u32,
}

/// A node's part in a run so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodePart {
    /// The tasks it was given.
    pub tasks: Vec<Arc<str>>,
    /// `assigned`, `idle`, or its status in lower case.
    pub status: String,
    /// The share of its tasks that are done.
    pub progress: f64,
    /// The peers to which it holds a live link.
    pub connections: Vec<NodeId>,
}

/// The events of one run.
#[derive(Debug)]
pub struct RunLog {
    events: Mutex<Vec<Arc<LoggedEvent>>>,
    /// Counts the changes of its progress.
    changes: watch::Sender<u64>,
    /// The newest progress that somebody asked for, and the change that it is of.
    progress: Mutex<Option<(u64, Arc<Progress>)>>,
}

impl RunLog {
    fn new() -> Self {
        Self { events: Mutex::default(), changes: watch::Sender::new(0), progress: Mutex::default() }
    }

    /// The events after a number, at most `most` of them.
    pub fn after(&self, sequence: u64, most: usize) -> Vec<Arc<LoggedEvent>> {
        let from = usize::try_from(sequence).unwrap_or(usize::MAX);
        self.lock().iter().skip(from).take(most).cloned().collect()
    }

    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        self.lock().len() as u64
    }

    /// Changes whenever the run has a new event, or its progress is another.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether anybody watches the run.
    pub fn is_watched(&self) -> bool {
        self.changes.receiver_count() > 0
    }

    /// The progress after the newest change, if somebody has asked for it.
    pub(super) fn known_progress(&self) -> Option<Arc<Progress>> {
        let newest = *self.changes.borrow();
        let known = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(of, _)| *of == newest).map(|(_, progress)| progress.clone())
    }

    /// The same, made now if nobody has. Only where nothing changes meanwhile.
    pub(super) fn progress_or(&self, make: impl FnOnce() -> Progress) -> Arc<Progress> {
        self.known_progress().unwrap_or_else(|| {
            let made = Arc::new(make());
            let newest = *self.changes.borrow();
            *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some((newest, made.clone()));
            made
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<LoggedEvent>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The logs of all runs that are remembered.
#[derive(Debug, Clone, Default)]
pub struct RunLogs {
    logs: Arc<Mutex<BTreeMap<RunId, Arc<RunLog>>>>,
    /// How many events they have together.
    events: Arc<AtomicU64>,
}

impl RunLogs {
    /// The log of a run.
    pub fn get(&self, run: &RunId) -> Option<Arc<RunLog>> {
        self.lock().get(run).cloned()
    }

    pub(super) fn append(&self, run: &RunId, sequence: u64, at: UnixMillis, event: RunEvent) {
        let log = self.lock().entry(run.clone()).or_insert_with(|| Arc::new(RunLog::new())).clone();
        let mut events = log.lock();
        self.events.fetch_add(1, Ordering::Relaxed);
        events.push(Arc::new(LoggedEvent { sequence, at, event }));
    }

    /// How many events are kept, of all runs.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// The events that are kept.
    pub(super) fn all(&self) -> Vec<(RunId, Vec<Arc<LoggedEvent>>)> {
        self.lock().iter().map(|(run, log)| (run.clone(), log.lock().clone())).collect()
    }

    /// Tells the watchers of a run that something changed.
    pub(super) fn touch(&self, run: &RunId) {
        if let Some(log) = self.get(run) {
            log.changes.send_modify(|changes| *changes += 1);
        }
    }

    pub(super) fn forget(&self, run: &RunId) {
        if let Some(log) = self.lock().remove(run) {
            self.events.fetch_sub(log.newest(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<RunLog>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
