//! A content-addressed store of blobs, bounded in size.
//!
//! Which blobs there are, which are in use, how many may stay and whether bytes are those of their digest is decided
//! here; where the bytes are is behind [`Objects`]. A blob is written aside and then published under its digest, so that
//! a reader sees all of it or nothing. Writing does not make it durable: a sync per blob would make a snapshot of 3,000
//! small files take seconds. Whoever is about to rely on blobs has all of them made durable at once.

mod durable;
mod error;
mod index;
mod local;
mod objects;
mod reader;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::types::Digest;

pub use error::BlobError;
use index::{Durability, Index};
pub use local::LocalObjects;
pub use objects::{ObjectError, Objects, Staged, Stored};
pub use reader::BlobReader;
pub use writer::BlobWriter;

/// How much a [`BlobStore`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLimits {
    /// The largest blob, in bytes.
    pub max_blob_bytes: u64,
    /// All blobs together, in bytes. Beyond it the least recently used blobs that are not pinned are dropped.
    pub max_total_bytes: u64,
}

/// A handle on a store; clones share it. All calls block.
#[derive(Clone)]
pub struct BlobStore {
    shared: Arc<Shared>,
    /// In bytes: what is written through this handle is refused where more than that would be in use.
    limit: u64,
}

struct Shared {
    objects: Box<dyn Objects>,
    limits: BlobLimits,
    index: Mutex<Index>,
    /// Told whenever a blob is no longer claimed.
    unclaimed: Condvar,
    /// How often the disk had no room.
    shortages: watch::Sender<u64>,
}

/// Keeps blobs from being dropped for as long as it lives, also those that arrive only later.
#[must_use = "blobs are unpinned as soon as the pin is dropped"]
pub struct Pin {
    store: BlobStore,
    digests: Vec<Digest>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.index().unpin(&self.digests);
    }
}

/// A blob that is being published or deleted by nobody else for as long as this lives.
struct Claim<'a> {
    store: &'a BlobStore,
    digest: Digest,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.store.index().unclaim(&self.digest);
        self.store.shared.unclaimed.notify_all();
    }
}

impl BlobStore {
    /// Opens the store in a local folder, which is made if needed, with the blobs that are there. One process at a time.
    pub fn open(dir: &Path, limits: BlobLimits) -> Result<Self, BlobError> {
        let store = Self::load(LocalObjects::open(dir)?, limits)?;
        store.trim();
        Ok(store)
    }

    /// A store of the objects that are there. They may be more than the limits allow: [`BlobStore::trim`] drops what is
    /// too much, once all that is needed is pinned. Until then nothing must be written.
    pub fn load(objects: impl Objects, limits: BlobLimits) -> Result<Self, BlobError> {
        let mut index = Index::new();
        let mut found = objects.list()?;
        found.sort_by_key(|stored| (stored.modified, stored.name));
        for Stored { name, size, .. } in found {
            index.insert(name, size, Durability::Found);
        }
        let (objects, index) = (Box::new(objects), Mutex::new(index));
        let (unclaimed, shortages) = (Condvar::new(), watch::Sender::new(0));
        let shared = Arc::new(Shared { objects, limits, index, unclaimed, shortages });
        Ok(Self { shared, limit: limits.max_total_bytes })
    }

    /// A handle on the same store whose writers leave room for those of others: they are refused where more than so many
    /// bytes would be in use.
    pub fn within(&self, limit: u64) -> Self {
        Self { shared: self.shared.clone(), limit: limit.min(self.limit) }
    }

    /// Counts the writes for which the disk had no room.
    pub fn shortages(&self) -> watch::Receiver<u64> {
        self.shared.shortages.subscribe()
    }

    /// Notices if there was no room.
    fn noticed<T>(&self, done: Result<T, ObjectError>) -> Result<T, BlobError> {
        if matches!(done, Err(ObjectError::Full { .. })) {
            self.shared.shortages.send_modify(|count| *count += 1);
        }
        Ok(done?)
    }

    /// Drops the least recently used blobs that are not pinned until the limit is kept, as far as that goes.
    pub fn trim(&self) {
        self.shrink(self.shared.limits.max_total_bytes);
    }

    /// Drops the least recently used blobs that are not pinned until the others take at most so many bytes, as far as that
    /// goes.
    pub fn shrink(&self, bytes: u64) {
        let dropped = self.index().trim(bytes);
        self.delete_all(dropped);
    }

    /// Stores the bytes and answers their digest.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        self.store(digest, bytes)?;
        Ok(digest)
    }

    /// Stores the bytes if they are those that `expected` stands for.
    pub fn put_expected(&self, expected: Digest, bytes: &[u8]) -> Result<(), BlobError> {
        let actual = Digest::of(bytes);
        if actual != expected {
            return Err(BlobError::DigestMismatch { expected, actual });
        }
        self.store(actual, bytes)
    }

    fn store(&self, digest: Digest, bytes: &[u8]) -> Result<(), BlobError> {
        if self.contains(&digest) {
            return Ok(());
        }
        let mut writer = self.writer(Some(digest))?;
        writer.write_unhashed(bytes)?;
        writer.commit(digest)
    }

    /// Starts a blob that arrives in pieces; with `expected`, only bytes with that digest are stored.
    pub fn writer(&self, expected: Option<Digest>) -> Result<BlobWriter, BlobError> {
        BlobWriter::new(self.clone(), expected)
    }

    /// The bytes of a blob, checked. A damaged blob is removed and is then [`BlobError::Missing`].
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        self.reader(digest)?.read_to_end(&mut bytes).map_err(|error| self.unreadable(digest, error))?;
        Ok(bytes)
    }

    fn unreadable(&self, digest: &Digest, source: io::Error) -> BlobError {
        match source.kind() {
            io::ErrorKind::InvalidData => BlobError::Missing(*digest),
            _ => BlobError::Io { place: format!("{digest} in {}", self.shared.objects.place()), source },
        }
    }

    /// Reads a blob in pieces. The end of a damaged blob is an error of kind `InvalidData`, and the blob is removed.
    pub fn reader(&self, digest: &Digest) -> Result<BlobReader, BlobError> {
        let entry = {
            let mut index = self.index();
            index.touch(digest).and_then(|_| index.entry(digest)).ok_or(BlobError::Missing(*digest))?
        };
        match self.shared.objects.open(digest)? {
            Some(object) => Ok(BlobReader::new(self.clone(), (*digest, entry), object)),
            None => {
                self.discard(digest, entry);
                Err(BlobError::Missing(*digest))
            }
        }
    }

    /// Whether the blob is there; if so it counts as just used.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.index().touch(digest).is_some()
    }

    /// The length of a blob in bytes, if it is there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.index().touch(digest)
    }

    /// Those of the digests whose blobs are not there, each once, in the order given; the others count as just used.
    pub fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let mut index = self.index();
        let mut asked = std::collections::HashSet::new();
        let mut missing = Vec::new();
        for digest in digests {
            if index.touch(digest).is_none() && asked.insert(*digest) {
                missing.push(*digest);
            }
        }
        missing
    }

    /// Keeps these blobs in the store until the pin is dropped; those not there yet are kept once they arrive.
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pin {
        let digests: Vec<_> = digests.into_iter().collect();
        self.index().pin(&digests);
        Pin { store: self.clone(), digests }
    }

    /// How many bytes the blobs take, those being written included.
    pub fn total_bytes(&self) -> u64 {
        self.index().total()
    }

    /// The limits it was opened with.
    pub fn limits(&self) -> BlobLimits {
        self.shared.limits
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // The index is changed in steps that cannot panic, so a poisoned one is still whole.
        self.shared.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody publishes or deletes the blob. Whoever has a claim waits for nothing else.
    fn claim(&self, digest: Digest) -> Claim<'_> {
        let mut index = self.index();
        while !index.claim(&digest) {
            index = self.shared.unclaimed.wait(index).unwrap_or_else(PoisonError::into_inner);
        }
        Claim { store: self, digest }
    }

    /// Deletes blobs that were dropped from the index, and ends the claims on them.
    fn delete_all(&self, dropped: Vec<Digest>) {
        let claims: Vec<_> = dropped.into_iter().map(|digest| Claim { store: self, digest }).collect();
        claims.into_iter().for_each(|claim| self.delete(&claim));
    }

    fn delete(&self, claim: &Claim<'_>) {
        if let Err(error) = self.shared.objects.delete(&claim.digest) {
            tracing::warn!(digest = %claim.digest, %error, "a dropped blob could not be deleted");
        }
    }

    /// Forgets a blob whose bytes are gone or are not what its name says; not one that was stored anew meanwhile.
    fn discard(&self, digest: &Digest, entry: u64) {
        let claim = self.claim(*digest);
        {
            let mut index = self.index();
            if index.entry(digest) != Some(entry) {
                return;
            }
            index.remove(digest);
        }
        tracing::warn!(%digest, "a blob that was damaged or deleted is not in the store any more");
        self.delete(&claim);
    }
}

impl std::fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStore").field("place", &self.shared.objects.place()).finish_non_exhaustive()
    }
}
