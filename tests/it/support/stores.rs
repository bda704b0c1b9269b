//! Where stores keep things, as coordinators find them one after the other.

use std::path::PathBuf;
use std::sync::Arc;

use lintmesh::store::{EmbeddedOptions, EmbeddedStore, MemoryLog, MemoryStore, Record, Store, StoreError};
use tempfile::TempDir;

/// Where a store keeps things. Clones are the same place.
pub(crate) trait Place: Clone + Send + 'static {
    /// How a coordinator uses it.
    type Store: Store;

    /// Whether several can have it open; the one with the newest epoch owns it. If not, others are refused.
    const IS_SHARED: bool;

    /// An empty one.
    fn new() -> Self;

    /// Opens it, as a coordinator does that starts.
    fn open(&self) -> Result<Self::Store, StoreError>;
}

impl Place for MemoryLog {
    type Store = MemoryStore;

    const IS_SHARED: bool = true;

    fn new() -> Self {
        Self::default()
    }

    fn open(&self) -> Result<MemoryStore, StoreError> {
        Ok(MemoryStore::over(self.clone()))
    }
}

/// A state folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    folder: Arc<TempDir>,
}

impl Folder {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("state").join("state.redb")
    }
}

impl Place for Folder {
    type Store = EmbeddedStore;

    const IS_SHARED: bool = false;

    fn new() -> Self {
        Self { folder: Arc::new(TempDir::new().expect("a folder")) }
    }

    fn open(&self) -> Result<EmbeddedStore, StoreError> {
        EmbeddedStore::open(&self.path(), EmbeddedOptions::default())
    }
}

/// A record that tells its number.
pub(crate) fn record(number: u64) -> Record {
    Record { version: 1, bytes: format!("fact {number}").into_bytes() }
}

/// Records that tell their numbers.
pub(crate) fn records(numbers: std::ops::Range<u64>) -> Vec<Record> {
    numbers.map(record).collect()
}
