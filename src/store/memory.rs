//! Keeps records in memory: for private meshes, whose state dies with them, and for tests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Loaded, Record, Store, StoreError};
use crate::types::Epoch;

/// What several [`MemoryStore`]s may share, as coordinators share a store; clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    epoch: Epoch,
    loaded: Loaded,
}

/// A store without durability.
///
/// A private mesh has nobody to give its records back to, so by default they are counted, not kept; a store over a
/// [`MemoryLog`] keeps them.
#[derive(Debug)]
pub struct MemoryStore {
    log: MemoryLog,
    keeps: bool,
}

impl MemoryStore {
    /// A store that counts its records.
    pub fn new() -> Self {
        Self { log: MemoryLog::default(), keeps: false }
    }

    /// A store that keeps its records in a log, which others may open too.
    pub const fn over(log: MemoryLog) -> Self {
        Self { log, keeps: true }
    }

    /// What is there, if that epoch owns it and the log ends where it is expected to.
    fn checked(&self, epoch: Epoch, expected: Option<u64>) -> Result<MutexGuard<'_, Kept>, StoreError> {
        let kept = self.log.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch != kept.epoch {
            return Err(StoreError::Fenced { own: epoch, current: kept.epoch });
        }
        let actual = kept.loaded.position;
        match expected {
            Some(expected) if expected != actual => Err(StoreError::Gap { expected, actual }),
            _ => Ok(kept),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        let mut kept = self.log.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.epoch = Epoch(kept.epoch.0 + 1);
        Ok(kept.epoch)
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(self.log.kept.lock().unwrap_or_else(PoisonError::into_inner).loaded.clone())
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        let mut kept = self.checked(epoch, Some(expected))?;
        kept.loaded.position += batch.len() as u64;
        if self.keeps {
            kept.loaded.log.extend_from_slice(batch);
        }
        Ok(())
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        let mut kept = self.checked(epoch, Some(position))?;
        if self.keeps {
            kept.loaded.snapshot = records.to_vec();
            kept.loaded.log.clear();
        }
        Ok(())
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        self.checked(epoch, None).map(|kept| kept.loaded.position)
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn keeps_records(&self) -> bool {
        self.keeps
    }

    fn blocks(&self) -> bool {
        false
    }
}
