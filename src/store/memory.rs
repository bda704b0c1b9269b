//! Keeps no record beyond what fencing needs: for private meshes, whose state dies with them, and for tests.

use super::{Record, Store, StoreError};
use crate::types::Epoch;

/// A store without durability.
///
/// A private mesh has nobody to give its records back to, so by default they are counted, not kept;
/// [`MemoryStore::recording`] keeps them.
#[derive(Debug, Default)]
pub struct MemoryStore {
    epoch: Epoch,
    length: u64,
    kept: Option<Vec<Record>>,
}

impl MemoryStore {
    /// A store that counts its records.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that keeps its records for [`Store::load`].
    pub fn recording() -> Self {
        Self { kept: Some(Vec::new()), ..Self::default() }
    }
}

impl Store for MemoryStore {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.epoch = Epoch(self.epoch.0 + 1);
        Ok(self.epoch)
    }

    fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        Ok(self.kept.clone().unwrap_or_default())
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: Vec<Record>) -> Result<(), StoreError> {
        if epoch != self.epoch {
            return Err(StoreError::Fenced { own: epoch, current: self.epoch });
        }
        if expected != self.length {
            return Err(StoreError::Gap { expected, actual: self.length });
        }
        self.length += batch.len() as u64;
        if let Some(kept) = &mut self.kept {
            kept.extend(batch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(byte: u8) -> Record {
        Record { version: 1, bytes: vec![byte] }
    }

    #[test]
    fn an_older_epoch_is_fenced_and_a_wrong_position_refused() {
        let mut store = MemoryStore::recording();
        let first = store.open_epoch().expect("opens");
        store.append(first, 0, vec![record(1)]).expect("appends");
        let second = store.open_epoch().expect("opens again");
        assert!(matches!(store.append(first, 1, vec![record(2)]), Err(StoreError::Fenced { .. })));
        assert!(matches!(store.append(second, 0, vec![record(2)]), Err(StoreError::Gap { .. })));
        store.append(second, 1, vec![record(2)]).expect("appends");
        assert_eq!(store.load().expect("loads"), [record(1), record(2)]);
    }
}
