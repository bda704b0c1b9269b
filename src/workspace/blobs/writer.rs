//! One blob on its way into a store.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{BlobError, BlobStore, PARTIAL, from_io};
use crate::types::Digest;

/// Takes the pieces of a blob. Dropped before [`BlobWriter::finish`], it leaves nothing behind.
pub struct BlobWriter {
    store: BlobStore,
    expected: Option<Digest>,
    hasher: Sha256,
    written: u64,
    file: NamedTempFile,
}

impl BlobWriter {
    pub(super) fn new(store: BlobStore, expected: Option<Digest>) -> Result<Self, BlobError> {
        let partial = store.shared.dir.join(PARTIAL);
        let file = NamedTempFile::new_in(&partial).map_err(|error| from_io(&partial, error))?;
        Ok(Self { store, expected, hasher: Sha256::new(), written: 0, file })
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
        {
            // Deleted under the lock, so that a blob dropped here cannot be entered again before its file is gone.
            let mut index = self.store.index();
            let dropped = index
                .reserve(bytes)
                .map_err(|_| BlobError::Full { needed: bytes, limit: limits.max_total_bytes })?;
            self.store.unlink(&dropped);
        }
        self.written = size;
        self.file.write_all(piece).map_err(|error| from_io(self.file.path(), error))
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
    pub(super) fn commit(mut self, digest: Digest) -> Result<(), BlobError> {
        let path = self.store.path(&digest);
        if let Some(folder) = path.parent()
            && !folder.exists()
        {
            fs::create_dir_all(folder).map_err(|error| from_io(folder, error))?;
        }
        let file = self.file.as_file();
        file.set_permissions(Permissions::from_mode(0o400)).map_err(|error| from_io(&path, error))?;
        let mut index = self.store.index();
        // Under the lock, so that a blob is never entered without its file or dropped together with a new one.
        fs::rename(self.file.path(), &path).map_err(|error| from_io(&path, error))?;
        index.release(self.written);
        index.insert(digest, self.written);
        self.written = 0;
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // The partial file goes with `file`; after a commit its name is gone already.
        self.store.index().release(self.written);
    }
}
