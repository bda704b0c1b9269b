//! What watchers of runs read: each run's numbered events, and its newest progress.
//!
//! Watchers pull: they read the log at their own pace and are only told that something changed. So a slow one misses
//! progress, never an event, and costs no memory; and progress, which takes as long as the run has tasks, is made only
//! when somebody asks, once for all who do.
//!
//! Logs are bounded: of a long run the newest events are kept, and of the runs that have ended those that ended last. What
//! is gone is said to be gone, never left out.

mod logs;
mod window;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::coordinator::event::RunEvent;
use crate::coordinator::run::ToolProgress;
use crate::types::{NodeId, ToolName, UnixMillis};
pub use logs::RunLogs;
pub use window::Expired;
use window::Window;

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
    window: Mutex<Window>,
    /// Counts the changes of its progress.
    changes: watch::Sender<u64>,
    /// The newest progress that somebody asked for, and the change that it is of.
    progress: Mutex<Option<(u64, Arc<Progress>)>>,
}

impl RunLog {
    fn new() -> Self {
        Self { window: Mutex::default(), changes: watch::Sender::new(0), progress: Mutex::default() }
    }

    /// The events after a number, at most `most` of them; an error if some of them are not kept any more.
    pub fn after(&self, sequence: u64, most: usize) -> Result<Vec<Arc<LoggedEvent>>, Expired> {
        self.window().after(sequence, most)
    }

    /// All events that are kept.
    pub fn kept(&self) -> Vec<Arc<LoggedEvent>> {
        self.window().kept()
    }

    /// The number of the oldest event that is kept; one more than the newest if none is.
    pub fn oldest(&self) -> u64 {
        self.window().oldest()
    }

    /// The number of the newest event, whether it is kept or not.
    pub fn newest(&self) -> u64 {
        self.window().newest()
    }

    /// Whether the run has ended: there will be no newer event.
    pub fn has_ended(&self) -> bool {
        self.window().ended_at().is_some()
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

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
