//! Why a store did not do what it was asked, and what follows from it.

use std::io;
use std::path::PathBuf;

use crate::types::Epoch;

/// What is left to do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing was changed. The same call may succeed later.
    Retry,
    /// It may have been carried out. [`Store::position`](super::Store::position) says; never repeat it blindly.
    Ask,
    /// Stop: only a human, or another coordinator, can go on.
    Stop,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A later coordinator start owns the store.
    #[error("epoch {own} was fenced: the store belongs to epoch {current}")]
    Fenced {
        /// The caller's.
        own: Epoch,
        /// The one that owns the store.
        current: Epoch,
    },
    /// The caller's idea of the log is wrong.
    #[error("the log is at record {actual}, not {expected}")]
    Gap {
        /// What the caller expected.
        expected: u64,
        /// What is there.
        actual: u64,
    },
    /// There is no room. Free some.
    #[error("no space left for the state in {place}; free some space")]
    Full {
        /// Where.
        place: String,
    },
    /// It cannot be reached, and did nothing.
    #[error("the store cannot be reached: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It did not answer, or failed half-way: nobody knows whether it was done.
    #[error("the store did not say whether it was done: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
    /// Another process uses it.
    #[error(
        "the state in {} is in use by another process; stop that one, or choose another state.dir", path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("cannot {action} the state in {}: {source}; see to its owner, permissions and mount, or choose another state.dir", path.display())]
    Denied {
        /// `read`, `write`, `make` or `copy`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A later release wrote it.
    #[error(
        "the state in {place} has format {found}, and this release knows formats up to {known}; run the release that wrote it"
    )]
    NewerFormat {
        /// Where.
        place: String,
        /// Its format.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// It is something else.
    #[error("{} is not a state file of lintmesh: {reason}; choose another state.dir", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that was found.
        reason: String,
    },
    /// What was stored is not what is there.
    #[error(
        "the state in {place} is damaged at {position}: {reason}; restore it from a copy, or start once with --salvage to go on without what is damaged"
    )]
    Damaged {
        /// Where it is kept.
        place: String,
        /// Which record, or which part of the file.
        position: String,
        /// What is wrong.
        reason: String,
    },
    /// The file system failed otherwise.
    #[error("the state in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// What is left to do.
    pub const fn remedy(&self) -> Remedy {
        match self {
            StoreError::Full { .. } | StoreError::Unavailable { .. } => Remedy::Retry,
            StoreError::Unknown { .. } => Remedy::Ask,
            StoreError::Fenced { .. }
            | StoreError::Gap { .. }
            | StoreError::InUse { .. }
            | StoreError::Denied { .. }
            | StoreError::NewerFormat { .. }
            | StoreError::Foreign { .. }
            | StoreError::Damaged { .. }
            | StoreError::Io { .. } => Remedy::Stop,
        }
    }
}
