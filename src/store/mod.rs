//! Where the coordinator's facts are kept: opaque, versioned records behind a small trait.
//!
//! The coordinator cannot tell one implementation from another. Nothing here assumes that the store is on this machine:
//! calls take their time, fail, and may fail without saying whether they were carried out. They block; who calls them
//! sees to it that they may.

mod embedded;
mod error;
mod memory;

pub use embedded::{EmbeddedOptions, EmbeddedStore, FileMedium, Medium};
pub use error::{Remedy, StoreError};
pub use memory::{MemoryLog, MemoryStore};

use crate::types::Epoch;

/// One fact, encoded. The store never looks inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The version of its form; a form never changes its meaning.
    pub version: u16,
    /// The encoded fact.
    pub bytes: Vec<u8>,
}

impl Record {
    /// The version of what stands in the place of a record of the log that was lost to damage. No fact has it.
    pub const LOST: u16 = 0;

    /// What stands in the place of a record that was lost: that there was one matters to those around it.
    pub const fn lost() -> Self {
        Self { version: Self::LOST, bytes: Vec::new() }
    }
}

/// What a coordinator begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// What the last snapshot said, in its order; empty if there was none.
    pub snapshot: Vec<Record>,
    /// What was appended since, oldest first, with [`Record::lost`] in the place of each that was lost to damage.
    pub log: Vec<Record>,
    /// The position of the next record: how many were ever appended, those that a snapshot replaced included.
    pub position: u64,
}

/// Keeps records in order.
///
/// Positions count records from 0 and never start anew. Of several coordinators only the one with the newest epoch can
/// change anything: it opened the store last. A call that names another epoch answers [`StoreError::Fenced`], whatever
/// else it says. [`StoreError::remedy`] tells of every error what is left to do.
pub trait Store: Send + 'static {
    /// Raises the epoch for a new coordinator start and answers it. When it has returned, the raise is durable, and every
    /// older epoch is fenced. If the outcome is unknown it is called again: an epoch that nobody got does no harm.
    fn open_epoch(&mut self) -> Result<Epoch, StoreError>;

    /// Everything that is kept, as it was given. A record that is not is an error that names it.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Appends a batch as one: all of it or nothing, durable when this has returned. `expected` is the position of its
    /// first record; anything else than the log's end answers [`StoreError::Gap`]. An empty batch changes nothing.
    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError>;

    /// Replaces everything before `position`, where the log must end, by these records: all of them or nothing, durable
    /// when this has returned. Positions go on as if nothing had happened. If the outcome is unknown nobody needs to know
    /// it: the records stand for what they replace.
    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError>;

    /// Where the log ends. Settles what became of an append whose outcome is unknown, and whether this epoch still owns
    /// the store.
    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError>;

    /// Keeps a copy of all that is there, where a human finds it: records of it are about to be given up for good. One
    /// since the store was opened is enough. A store whose records nobody can come back to needs none.
    fn keep_copy(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether what is stored outlives the process.
    fn is_durable(&self) -> bool {
        true
    }

    /// Whether records can be loaded again at all. If not, snapshots are a waste.
    fn keeps_records(&self) -> bool {
        true
    }

    /// Whether calls may take long enough to need a thread where blocking is allowed.
    fn blocks(&self) -> bool;
}

impl Store for Box<dyn Store> {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        (**self).open_epoch()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        (**self).load()
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        (**self).append(epoch, expected, batch)
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        (**self).snapshot(epoch, position, records)
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        (**self).position(epoch)
    }

    fn keep_copy(&mut self) -> Result<(), StoreError> {
        (**self).keep_copy()
    }

    fn is_durable(&self) -> bool {
        (**self).is_durable()
    }

    fn keeps_records(&self) -> bool {
        (**self).keeps_records()
    }

    fn blocks(&self) -> bool {
        (**self).blocks()
    }
}
