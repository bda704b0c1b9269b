//! Where the coordinator's facts are kept: opaque, versioned records behind a small trait.
//!
//! The coordinator cannot tell one implementation from another.

mod memory;

pub use memory::MemoryStore;

use crate::types::Epoch;

/// One fact, encoded. The store never looks inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The version of its form; a form never changes its meaning.
    pub version: u16,
    /// The encoded fact.
    pub bytes: Vec<u8>,
}

/// Why a store did not do what it was asked. Each variant answers: retry, ask again what happened, or stop.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Stop: a later coordinator start owns the store.
    #[error("epoch {own} was fenced: the store belongs to epoch {current}")]
    Fenced {
        /// The caller's.
        own: Epoch,
        /// The one that owns the store.
        current: Epoch,
    },
    /// Stop: the caller's idea of the log is wrong.
    #[error("the log is at record {actual}, not {expected}")]
    Gap {
        /// What the caller expected.
        expected: u64,
        /// What is there.
        actual: u64,
    },
}

/// Keeps records in order.
pub trait Store: Send {
    /// Raises the epoch for a new coordinator start and answers it.
    fn open_epoch(&mut self) -> Result<Epoch, StoreError>;

    /// All records, oldest first.
    fn load(&mut self) -> Result<Vec<Record>, StoreError>;

    /// Appends a batch as one: all of it or nothing. `expected` is the number of records there are.
    fn append(&mut self, epoch: Epoch, expected: u64, batch: Vec<Record>) -> Result<(), StoreError>;
}
