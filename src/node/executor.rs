//! Runs attempts: starts them, ends them at their timeout or when they are revoked, keeps what they leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::outbox::{Outbox, Unacknowledged};
use super::stages::{StageProduct, StageRunner};
use crate::linters::process::{END_BOUND, Progress};
use crate::types::{AttemptRef, Digest, Incarnation, Measured, NodeId};
use crate::wire::peer::{Assignment, AttemptResult, Ending};

/// Results kept for a coordinator that is away: some times what a node runs at once, at most 256 KiB each.
pub(super) const OUTBOX_CAPACITY: usize = 64;

/// How long a cancelled stage may take to end its linter. Longer than the end of a process itself may take
/// (`linters::process::bounds`): a stage that is dropped kills nothing any more.
pub(super) const KILL_BOUND: Duration = END_BOUND.saturating_add(Duration::from_millis(500));

/// What became of an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It runs now.
    Started,
    /// This attempt runs already, or its result was sent again; there is nothing to say.
    Known,
    /// It is not taken, for this reason.
    Rejected(&'static str),
}

/// The attempts of one node; clones share them. Outlives sessions.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    incarnation: Incarnation,
    max_concurrent: usize,
    stages: Arc<dyn StageRunner>,
    work: Mutex<Work>,
    results_changed: Notify,
    /// What the outbox holds changed; for whoever keeps it on disk.
    outbox_changed: Notify,
    /// Something ended, or was acknowledged.
    less: Notify,
    tasks: TaskTracker,
}

struct Work {
    running: BTreeMap<AttemptRef, Running>,
    outbox: Outbox,
    draining: bool,
}

struct Running {
    capabilities: BTreeSet<String>,
    cancel: CancellationToken,
    progress: Arc<Progress>,
}

impl Work {
    /// Decides about an assignment; what is known is never started twice.
    fn admit(&mut self, key: &AttemptRef, max_concurrent: usize) -> Admission {
        if self.running.contains_key(key) || self.outbox.send_again(key) {
            Admission::Known
        } else if self.draining {
            Admission::Rejected("DRAINING")
        } else if self.running.len() >= max_concurrent || !self.outbox.has_room(self.running.len()) {
            Admission::Rejected("BUSY")
        } else {
            Admission::Started
        }
    }
}

impl Executor {
    /// An idle executor.
    pub fn new(
        node: NodeId,
        incarnation: Incarnation,
        max_concurrent: u32,
        stages: Arc<dyn StageRunner>,
    ) -> Self {
        let work = Work { running: BTreeMap::new(), outbox: Outbox::new(OUTBOX_CAPACITY), draining: false };
        let shared = Shared {
            node,
            incarnation,
            max_concurrent: usize::try_from(max_concurrent).unwrap_or(usize::MAX),
            stages,
            work: Mutex::new(work),
            results_changed: Notify::new(),
            outbox_changed: Notify::new(),
            less: Notify::new(),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts an attempt if there is room for it.
    pub fn assign(&self, assignment: Assignment) -> Admission {
        let mut work = self.work();
        let admission = work.admit(&assignment.key, self.shared.max_concurrent);
        match admission {
            Admission::Started => {
                let cancel = CancellationToken::new();
                let progress = Arc::new(Progress::default());
                let running = Running {
                    capabilities: assignment.capabilities.clone(),
                    cancel: cancel.clone(),
                    progress: Arc::clone(&progress),
                };
                work.running.insert(assignment.key.clone(), running);
                drop(work);
                let span = tracing::info_span!(
                    "attempt",
                    run = %assignment.key.run,
                    task = %assignment.key.task,
                    attempt = %assignment.key.attempt,
                    node = %self.shared.node,
                );
                let executor = self.clone();
                self.shared.tasks.spawn(
                    async move { executor.execute(assignment, cancel, progress).await }.instrument(span),
                );
            }
            Admission::Known => self.shared.results_changed.notify_one(),
            Admission::Rejected(_) => {}
        }
        admission
    }

    /// Ends an attempt and forgets its result. Its slot is free when its processes are gone.
    pub fn revoke(&self, key: &AttemptRef) {
        let mut work = self.work();
        work.outbox.forget(key);
        if let Some(running) = work.running.get(key) {
            running.cancel.cancel();
        }
        drop(work);
        self.shared.less.notify_waiters();
        self.shared.outbox_changed.notify_one();
    }

    /// The coordinator has the result.
    pub fn acknowledge(&self, key: &AttemptRef) {
        self.work().outbox.forget(key);
        self.shared.less.notify_waiters();
        self.shared.outbox_changed.notify_one();
    }

    /// Takes in results that an earlier process of the node left, to be sent like its own.
    pub fn take_over(&self, left: Vec<Unacknowledged>) {
        let mut work = self.work();
        for one in left {
            work.outbox.push(one);
        }
        drop(work);
        self.shared.results_changed.notify_one();
    }

    /// An unacknowledged result, with the bytes that must be brought before it.
    pub fn unacknowledged(&self, key: &AttemptRef) -> Option<Unacknowledged> {
        self.work().outbox.get(key).cloned()
    }

    /// Waits until what is unacknowledged has changed since the last time.
    pub async fn outbox_changed(&self) {
        self.shared.outbox_changed.notified().await;
    }

    /// Takes no more work from here on; what runs goes on.
    pub fn drain(&self) {
        self.work().draining = true;
    }

    /// Whether it takes no more work.
    pub fn is_draining(&self) -> bool {
        self.work().draining
    }

    /// Waits until nothing runs and every result is acknowledged.
    pub async fn finished(&self) {
        loop {
            let less = self.shared.less.notified();
            let (running, unacknowledged) = self.inventory();
            if running.is_empty() && unacknowledged.is_empty() {
                return;
            }
            less.await;
        }
    }

    /// The attempts that run, and those whose results are unacknowledged.
    pub fn inventory(&self) -> (Vec<AttemptRef>, Vec<AttemptRef>) {
        let work = self.work();
        (work.running.keys().cloned().collect(), work.outbox.keys())
    }

    /// What is seen of the attempts that run.
    pub fn progress(&self) -> Vec<(AttemptRef, Arc<Progress>)> {
        let work = self.work();
        work.running.iter().map(|(key, running)| (key.clone(), Arc::clone(&running.progress))).collect()
    }

    /// An unacknowledged result.
    pub fn result(&self, key: &AttemptRef) -> Option<AttemptResult> {
        self.work().outbox.result(key).cloned()
    }

    /// The output that must be brought to the coordinator before the attempt's result.
    pub fn unsent(&self, key: &AttemptRef) -> Option<(Digest, Arc<[u8]>)> {
        let work = self.work();
        match &work.outbox.result(key)?.ending {
            Ending::Output { output, .. } => Some((output.digest, work.outbox.unsent(key)?)),
            Ending::Failure(_) => None,
        }
    }

    /// The attempt's output was brought.
    pub fn was_sent(&self, key: &AttemptRef) {
        self.work().outbox.was_sent(key);
    }

    /// The attempt's output cannot be brought, for this reason: its result is a failure instead. None if the result is
    /// not waited for any more.
    pub fn could_not_bring(&self, key: &AttemptRef, reason: String) -> Option<AttemptResult> {
        self.work().outbox.fail(key, reason).cloned()
    }

    /// Waits until the attempt's result is acknowledged, or is nobody's business any more.
    pub async fn forgotten(&self, key: &AttemptRef) {
        loop {
            let less = self.shared.less.notified();
            if self.work().outbox.result(key).is_none() {
                return;
            }
            less.await;
        }
    }

    /// How many attempts run, and how many distinct capabilities they use.
    pub fn in_use(&self) -> (u32, u32) {
        let work = self.work();
        let capabilities: BTreeSet<&String> =
            work.running.values().flat_map(|running| &running.capabilities).collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (count(work.running.len()), count(capabilities.len()))
    }

    /// Waits for a result that was not sent on this connection. Cancel safe as long as what it answers is sent.
    pub async fn next_result(&self, connection: u64) -> AttemptResult {
        loop {
            let changed = self.shared.results_changed.notified();
            if let Some(result) = self.work().outbox.next_unsent(connection) {
                return result;
            }
            changed.await;
        }
    }

    /// Takes no more work, ends what runs, and waits for that, at most for `bound`.
    pub async fn stop(&self, bound: Duration) {
        {
            let mut work = self.work();
            work.draining = true;
            for running in work.running.values() {
                running.cancel.cancel();
            }
        }
        self.shared.tasks.close();
        if tokio::time::timeout(bound, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(node = %self.shared.node, "attempts did not end in time; the process ends anyway");
        }
    }

    async fn execute(self, assignment: Assignment, revoked: CancellationToken, progress: Arc<Progress>) {
        let key = assignment.key.clone();
        let tool = assignment.tool.as_ref().map(tracing::field::display);
        tracing::debug!(stage = %assignment.stage, tool, shard = assignment.shard, "started");
        let started = Instant::now();
        let ended = self.run_stage(assignment, &revoked, progress).await;
        let mut work = self.work();
        work.running.remove(&key);
        // A revoked attempt's result is nobody's business any more, however it ended.
        let Some(ended) = ended.filter(|_| !revoked.is_cancelled()) else {
            tracing::debug!("revoked");
            drop(work);
            self.shared.less.notify_waiters();
            return;
        };
        let (ending, unsent, measured) = match ended {
            Ok(StageProduct { output, data, unsent, measured }) => {
                tracing::debug!(digest = %output.digest, size = output.size, "finished");
                (Ending::Output { output, data }, unsent, measured)
            }
            Err(reason) => {
                tracing::warn!(%reason, "failed");
                (Ending::Failure(reason), None, Measured::default())
            }
        };
        let result = AttemptResult {
            key,
            executor: self.shared.node.clone(),
            incarnation: self.shared.incarnation,
            ending,
            measured: Measured { wall: started.elapsed(), ..measured },
        };
        work.outbox.push(Unacknowledged { result, unsent });
        drop(work);
        self.shared.results_changed.notify_one();
        self.shared.outbox_changed.notify_one();
    }

    /// Runs the stage to its end, its timeout or its revocation (none).
    async fn run_stage(
        &self,
        assignment: Assignment,
        revoked: &CancellationToken,
        progress: Arc<Progress>,
    ) -> Option<Result<StageProduct, String>> {
        let timeout = assignment.timeout;
        let cancel = revoked.child_token();
        // A task of its own, so that a panic in a stage is that attempt's failure and nothing else's.
        let stages = Arc::clone(&self.shared.stages);
        let stage_cancel = cancel.clone();
        let mut stage = tokio::spawn(
            async move { stages.run(assignment, stage_cancel, progress).await }
                .instrument(tracing::Span::current()),
        );
        let cut_short = tokio::select! {
            joined = &mut stage => {
                return Some(match joined {
                    Ok(product) => product.map_err(|error| error.to_string()),
                    Err(error) if error.is_panic() => Err("the stage panicked; see the node's log".to_owned()),
                    Err(_) => Err("the stage was aborted".to_owned()),
                });
            }
            () = revoked.cancelled() => None,
            () = tokio::time::sleep(timeout) => {
                Some(Err(format!("the attempt did not end within its timeout of {timeout:?}")))
            }
        };
        cancel.cancel();
        if tokio::time::timeout(KILL_BOUND, &mut stage).await.is_err() {
            stage.abort();
        }
        cut_short
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // The bookkeeping cannot panic half-way; a poisoned lock is as good as a whole one.
        self.shared.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
