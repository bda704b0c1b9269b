//! Keeps the spool in step with the outbox, on threads that may block: nothing waits for the disk.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Unacknowledged;
use super::spool::{Spool, SpoolError};
use crate::node::executor::{Executor, OUTBOX_CAPACITY};
use crate::node::held::Held;
use crate::types::{AttemptRef, NodeId};
use crate::wire::peer::Ending;

/// A result is written if it is not acknowledged by then: most are, and never touch the disk. A process that dies
/// meanwhile loses no more than if it had died before the result was made.
const SETTLE: Duration = Duration::from_millis(50);
/// The pause after the disk failed.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes that are taken over from former processes: what one can have kept, with room to spare.
const MOST_BYTES: u64 = 320 << 20;
/// How long the end of the process may wait for the disk.
const FINISH_BOUND: Duration = Duration::from_secs(5);

/// Keeps on disk what is unacknowledged.
pub(in crate::node) struct Keeper {
    spool: Arc<Spool>,
    executor: Executor,
    /// What is on disk.
    stored: BTreeSet<AttemptRef>,
    is_failing: bool,
}

/// What one pass did, as far as it came.
#[derive(Default)]
struct Pass {
    written: Vec<AttemptRef>,
    removed: Vec<AttemptRef>,
}

impl Keeper {
    /// Opens a node's spool and hands what former processes left in it to the executor. None if another process of the
    /// node has it: then results are in memory only.
    pub(in crate::node) async fn open(
        state_dir: &Path,
        node: &NodeId,
        executor: &Executor,
        held: &Held,
    ) -> Result<Option<Self>, SpoolError> {
        let (folder, id) = (state_dir.to_owned(), node.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let spool = Spool::open(&folder, &id)?;
            let left = spool.read(&id, OUTBOX_CAPACITY, MOST_BYTES);
            let left = left.map_err(|source| SpoolError::Io { path: folder, source })?;
            Ok((spool, left))
        });
        let opened = opening.await.unwrap_or_else(|error| {
            Err(SpoolError::Io { path: state_dir.to_owned(), source: io::Error::other(error) })
        });
        let (spool, left) = match opened {
            Ok(opened) => opened,
            Err(error @ SpoolError::InUse(_)) => {
                tracing::warn!(%node, %error, "unacknowledged results are in this process's memory only");
                return Ok(None);
            }
            // A disk that is full must not keep a node from working.
            Err(SpoolError::Io { path, source })
                if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                tracing::warn!(
                    %node, path = %path.display(), error = %source,
                    "unacknowledged results are in this process's memory only"
                );
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if !left.is_empty() {
            tracing::info!(%node, results = left.len(), "former processes left results; they will be delivered");
        }
        for Unacknowledged { result, unsent } in &left {
            if let (Ending::Output { output, .. }, Some(unsent)) = (&result.ending, unsent) {
                // For peers, by which it may go; without room it goes straight only.
                let _ = held.put_unsent(output.digest, unsent);
            }
        }
        let stored = left.iter().map(|kept| kept.result.key.clone()).collect();
        executor.take_over(left);
        Ok(Some(Self { spool: Arc::new(spool), executor: executor.clone(), stored, is_failing: false }))
    }

    /// Runs until it is told to end; then everything that is left is written, as far as the disk does that in time.
    pub(in crate::node) async fn run(mut self, until: CancellationToken) {
        let overdue = async {
            until.cancelled().await;
            tokio::time::sleep(FINISH_BOUND).await;
        };
        // A pass that is under way may hang as well as the last.
        tokio::select! {
            () = self.keep(&until) => {}
            () = overdue => tracing::warn!("the disk is too slow to keep all unacknowledged results"),
        }
    }

    async fn keep(&mut self, until: &CancellationToken) {
        while until.run_until_cancelled(self.executor.outbox_changed()).await.is_some() {
            loop {
                let seen = self.unacknowledged();
                let pause = if self.is_failing { RETRY } else { SETTLE };
                if until.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    break;
                }
                self.pass(&seen).await;
                if self.stored == self.unacknowledged() {
                    break;
                }
            }
        }
        let left = self.unacknowledged();
        self.pass(&left).await;
    }

    fn unacknowledged(&self) -> BTreeSet<AttemptRef> {
        self.executor.inventory().1.into_iter().collect()
    }

    /// Removes what is acknowledged, and writes those of `due` that are not.
    async fn pass(&mut self, due: &BTreeSet<AttemptRef>) {
        let current = self.unacknowledged();
        let gone: Vec<AttemptRef> = self.stored.difference(&current).cloned().collect();
        let new = due.intersection(&current).filter(|attempt| !self.stored.contains(attempt));
        let new: Vec<Unacknowledged> =
            new.filter_map(|attempt| self.executor.unacknowledged(attempt)).collect();
        if gone.is_empty() && new.is_empty() {
            return;
        }
        let spool = Arc::clone(&self.spool);
        let work = tokio::task::spawn_blocking(move || {
            let mut pass = Pass::default();
            let done = pass.perform(&spool, gone, &new);
            (pass, done)
        });
        let (pass, done) = match work.await {
            Ok(worked) => worked,
            Err(error) => (Pass::default(), Err(io::Error::other(error))),
        };
        for attempt in &pass.removed {
            self.stored.remove(attempt);
        }
        self.stored.extend(pass.written);
        let was_failing = std::mem::replace(&mut self.is_failing, done.is_err());
        match done {
            Ok(()) if was_failing => tracing::info!("unacknowledged results are kept on disk again"),
            Err(error) if !was_failing => {
                tracing::warn!(%error, "unacknowledged results are in this process's memory only; trying again");
            }
            _ => {}
        }
    }
}

impl Pass {
    fn perform(&mut self, spool: &Spool, gone: Vec<AttemptRef>, new: &[Unacknowledged]) -> io::Result<()> {
        // First what makes room.
        for attempt in gone {
            spool.remove(&attempt)?;
            self.removed.push(attempt);
        }
        let mut written = Vec::new();
        let mut failed = Ok(());
        for kept in new {
            // A large one may have no room where a small one has.
            match spool.write(kept) {
                Ok(()) => written.push(kept.result.key.clone()),
                Err(error) => failed = Err(error),
            }
        }
        if !written.is_empty() {
            spool.sync()?;
            self.written = written;
        }
        failed
    }
}

#[cfg(test)]
mod tests;
