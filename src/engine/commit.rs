//! Brings facts into the store, and settles what became of them when it does not say so.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::figures::StoreCounts;
use crate::store::{Record, Remedy, Store, StoreError};
use crate::types::Epoch;

/// Pauses between attempts, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a store may fail before the coordinator stops; another may do better. One that is only full is waited for,
/// which does not count: a new coordinator would find it full too.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the store is asked who owns it, at most: whoever raises that doubt may be lying.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// The store, and where its log ends.
pub(super) struct Committer<S> {
    /// None while a call is under way on another thread.
    store: Option<Open<S>>,
    open: watch::Receiver<()>,
    keeps_records: bool,
    epoch: Epoch,
    position: u64,
    /// Records since the last snapshot.
    loose: u64,
    counts: StoreCounts,
    /// When the store was last asked who owns it.
    checked: Option<Instant>,
}

/// A store, wherever it is.
struct Open<S> {
    store: S,
    /// Dropped after the store.
    _told_by_its_end: watch::Sender<()>,
}

/// What is asked of the store.
#[derive(Clone)]
enum Call {
    Append(Arc<[Record]>),
    Snapshot(Arc<[Record]>),
    Position,
}

impl<S: Store> Committer<S> {
    /// For the epoch that owns the store.
    pub(super) fn new(store: S, epoch: Epoch, position: u64, loose: u64) -> Self {
        let keeps_records = store.keeps_records();
        let (told_by_its_end, open) = watch::channel(());
        let store = Some(Open { store, _told_by_its_end: told_by_its_end });
        let (counts, checked) = (StoreCounts::default(), None);
        Self { store, open, keeps_records, epoch, position, loose, counts, checked }
    }

    /// Says nothing, and ends when the store is closed.
    pub(super) fn store_open(&self) -> watch::Receiver<()> {
        self.open.clone()
    }

    /// How it does.
    pub(super) fn counts(&self) -> StoreCounts {
        self.counts.clone()
    }

    /// Records since the last snapshot; none if they are not kept anyway.
    pub(super) const fn loose(&self) -> u64 {
        if self.keeps_records { self.loose } else { 0 }
    }

    /// Appends a batch; when this has returned it is stored. `stalled` is told why it is not, while that lasts.
    pub(super) async fn append(
        &mut self,
        batch: Arc<[Record]>,
        stalled: impl FnMut(Option<&StoreError>),
    ) -> Result<(), StoreError> {
        let (records, began) = (batch.len() as u64, Instant::now());
        self.settle(Call::Append(batch), records, stalled).await?;
        self.position += records;
        self.loose = self.loose.saturating_add(records);
        self.counts.committed(records, began.elapsed());
        Ok(())
    }

    /// Asks the store whether this epoch still owns it, unless it was asked lately. A store that does not say so now is
    /// asked another time; an append would be refused anyway.
    pub(super) async fn check(&mut self) -> Result<(), StoreError> {
        if self.checked.is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return Ok(());
        }
        self.checked = Some(Instant::now());
        match self.call(Call::Position).await {
            Ok(end) if end == self.position => Ok(()),
            Ok(actual) => Err(StoreError::Gap { expected: self.position, actual }),
            Err(error) if error.remedy() == Remedy::Stop => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the store does not say who owns it");
                Ok(())
            }
        }
    }

    /// Replaces all records so far. If the store has no room for both there is simply no snapshot yet.
    pub(super) async fn snapshot(&mut self, records: Arc<[Record]>) -> Result<(), StoreError> {
        match self.call(Call::Snapshot(records)).await {
            Ok(_) => {
                self.loose = 0;
                self.counts.compacted();
            }
            Err(error) if error.remedy() == Remedy::Stop => return Err(error),
            // Either of two equal states; the next attempt comes with more records.
            Err(error) => {
                tracing::warn!(%error, "the state could not be compacted; trying again later");
                self.loose /= 2;
            }
        }
        Ok(())
    }

    /// Repeats a call until it is known to be done.
    async fn settle(
        &mut self,
        call: Call,
        records: u64,
        mut stalled: impl FnMut(Option<&StoreError>),
    ) -> Result<(), StoreError> {
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        let mut failing_since = began;
        let mut wanted = call.clone();
        let mut has_stalled = false;
        loop {
            let error = match self.call(wanted.clone()).await {
                Ok(end) if !matches!(wanted, Call::Position) || end == self.position + records => break,
                Ok(end) if end == self.position => {
                    wanted = call.clone();
                    continue;
                }
                Ok(actual) => return Err(StoreError::Gap { expected: self.position + records, actual }),
                Err(error) => error,
            };
            wanted = match error.remedy() {
                Remedy::Stop => return Err(error),
                Remedy::Ask => Call::Position,
                Remedy::Retry => wanted,
            };
            if matches!(error, StoreError::Full { .. }) {
                failing_since = Instant::now();
            } else if failing_since.elapsed() >= PATIENCE {
                return Err(error);
            }
            if !has_stalled {
                tracing::error!(%error, "facts cannot be stored; nothing goes on until they are");
            }
            has_stalled = true;
            stalled(Some(&error));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if has_stalled {
            tracing::info!(after = ?began.elapsed(), "facts can be stored again");
            stalled(None);
        }
        Ok(())
    }

    async fn call(&mut self, call: Call) -> Result<u64, StoreError> {
        let Some(mut open) = self.store.take() else { unreachable!("one call is made at a time") };
        let (epoch, position, blocks) = (self.epoch, self.position, open.store.blocks());
        let perform = move || {
            let store = &mut open.store;
            let done = match call {
                Call::Append(batch) => store.append(epoch, position, &batch).map(|()| position),
                Call::Snapshot(records) => store.snapshot(epoch, position, &records).map(|()| position),
                Call::Position => store.position(epoch),
            };
            (open, done)
        };
        let (open, done) = if blocks {
            match tokio::task::spawn_blocking(perform).await {
                Ok(performed) => performed,
                Err(error) => match error.try_into_panic() {
                    // A store that panicked is gone, and with it whoever relied on it.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The process ends: nothing is stored any more, and nobody asks what became of it.
                    Err(_) => std::future::pending().await,
                },
            }
        } else {
            perform()
        };
        self.store = Some(open);
        if done.is_err() {
            self.counts.failed();
        }
        done
    }
}

#[cfg(test)]
mod tests;
