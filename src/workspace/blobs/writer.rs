//! One blob on its way into a store.

use sha2::{Digest as _, Sha256};

use super::index::Durability;
use super::objects::Staged;
use super::{BlobError, BlobStore};
use crate::types::Digest;

/// Takes the pieces of a blob. Dropped before [`BlobWriter::finish`], it leaves nothing behind.
pub struct BlobWriter {
    store: BlobStore,
    expected: Option<Digest>,
    hasher: Sha256,
    written: u64,
    /// There until it is published.
    staged: Option<Box<dyn Staged>>,
}

impl BlobWriter {
    pub(super) fn new(store: BlobStore, expected: Option<Digest>) -> Result<Self, BlobError> {
        let staged = Some(store.noticed(store.shared.objects.stage())?);
        Ok(Self { store, expected, hasher: Sha256::new(), written: 0, staged })
    }

    /// Adds the next piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(piece);
        self.write_unhashed(piece)
    }

    /// Adds a piece of a blob whose digest is known otherwise.
    pub(super) fn write_unhashed(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        let bytes = piece.len() as u64;
        let size = self.written.saturating_add(bytes);
        let limits = self.store.limits();
        if size > limits.max_blob_bytes {
            return Err(BlobError::TooLarge { size, limit: limits.max_blob_bytes });
        }
        let limit = self.store.limit;
        let reserved = self.store.index().reserve(bytes, limit);
        let full = |_| BlobError::Full { needed: bytes, limit };
        let dropped = reserved.map_err(full)?;
        self.written = size;
        // First: there may be no room on the disk before they are gone.
        self.store.delete_all(dropped);
        match &mut self.staged {
            Some(staged) => self.store.noticed(staged.write(piece)),
            None => Ok(()),
        }
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Checks the digest and makes the blob readable.
    pub fn finish(mut self) -> Result<Digest, BlobError> {
        let actual = Digest::from_bytes(self.hasher.finalize_reset().into());
        if let Some(expected) = self.expected.filter(|expected| *expected != actual) {
            return Err(BlobError::DigestMismatch { expected, actual });
        }
        self.commit(actual)?;
        Ok(actual)
    }

    /// Makes the blob readable under the digest of its bytes.
    pub(super) fn commit(self, digest: Digest) -> Result<(), BlobError> {
        self.publish(digest, false)
    }

    /// The same in place of the blob that is there.
    pub(super) fn replace(self, digest: Digest) -> Result<(), BlobError> {
        self.publish(digest, true)
    }

    fn publish(mut self, digest: Digest, replace: bool) -> Result<(), BlobError> {
        let store = self.store.clone();
        // So that a blob is never entered without its object, nor dropped together with a new one.
        let _claim = store.claim(digest);
        if !replace && store.contains(&digest) {
            return Ok(());
        }
        if let Some(staged) = self.staged.take() {
            store.noticed(staged.publish(&digest))?;
        }
        let mut index = store.index();
        index.release(self.written);
        index.insert(digest, self.written, Durability::Written);
        self.written = 0;
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // What is staged goes with it.
        self.store.index().release(self.written);
    }
}
