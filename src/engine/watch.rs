//! What watchers of runs read: each run's numbered events, and its newest progress.
//!
//! Watchers pull: they read the log at their own pace and are only told that it grew. So a slow one misses progress, never
//! an event, and costs no memory.

use std::collections::BTreeMap;
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
    /// The number of the newest event.
    pub sequence: u64,
    /// By tool.
    pub tools: BTreeMap<ToolName, ToolProgress>,
    /// By node.
    pub nodes: BTreeMap<NodeId, NodePart>,
}

/// A node's part in a run so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodePart {
    /// The tasks it was given.
    pub tasks: Vec<String>,
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
    progress: watch::Sender<Arc<Progress>>,
}

impl RunLog {
    fn new() -> Self {
        Self { events: Mutex::default(), progress: watch::Sender::new(Arc::default()) }
    }

    /// The events after a number, at most `most` of them.
    pub fn after(&self, sequence: u64, most: usize) -> Vec<Arc<LoggedEvent>> {
        let from = usize::try_from(sequence).unwrap_or(usize::MAX);
        self.lock().iter().skip(from).take(most).cloned().collect()
    }

    /// The newest progress; changes whenever the run does.
    pub fn progress(&self) -> watch::Receiver<Arc<Progress>> {
        self.progress.subscribe()
    }

    /// Whether anybody watches the run.
    pub fn is_watched(&self) -> bool {
        self.progress.receiver_count() > 0
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<LoggedEvent>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The logs of all runs that are remembered.
#[derive(Debug, Clone, Default)]
pub struct RunLogs {
    logs: Arc<Mutex<BTreeMap<RunId, Arc<RunLog>>>>,
}

impl RunLogs {
    /// The log of a run.
    pub fn get(&self, run: &RunId) -> Option<Arc<RunLog>> {
        self.lock().get(run).cloned()
    }

    pub(super) fn append(&self, run: &RunId, at: UnixMillis, event: RunEvent) {
        let log = self.lock().entry(run.clone()).or_insert_with(|| Arc::new(RunLog::new())).clone();
        let mut events = log.lock();
        let sequence = events.len() as u64 + 1;
        events.push(Arc::new(LoggedEvent { sequence, at, event }));
    }

    pub(super) fn publish(&self, run: &RunId, progress: Progress) {
        if let Some(log) = self.get(run) {
            log.progress.send_replace(Arc::new(progress));
        }
    }

    pub(super) fn forget(&self, run: &RunId) {
        self.lock().remove(run);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<RunLog>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
