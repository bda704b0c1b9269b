//! A content-addressed store of blobs in one local folder, bounded in size.
//!
//! A blob is written to a file of its own and then renamed to its digest, so that a reader sees all of it or
//! nothing. Nothing is synced to disk: a blob can always be made or sent again, its bytes are checked whenever they
//! are read, and a sync per blob would make a snapshot of 3,000 small files take seconds.

mod index;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::Digest;

use index::Index;
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

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not in the store, or was found damaged and removed. Send or make it again.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// The bytes are not those the digest stands for. The sender must fix it.
    #[error("the bytes have digest {actual}, not {expected} as announced")]
    DigestMismatch {
        /// The digest they were announced with.
        expected: Digest,
        /// Their real digest.
        actual: Digest,
    },
    /// The blob is longer than one blob may be. The sender must split or leave it out.
    #[error("a blob of {size} bytes is larger than the limit of {limit} bytes (workspace.max_blob_bytes)")]
    TooLarge {
        /// Its length so far, in bytes.
        size: u64,
        /// [`BlobLimits::max_blob_bytes`].
        limit: u64,
    },
    /// The store is full of blobs that are in use. Retry when runs have ended, or raise the limit.
    #[error(
        "the blob store is full: {needed} more bytes do not fit beside what is in use (workspace.max_store_bytes is {limit})"
    )]
    Full {
        /// How many bytes were asked for.
        needed: u64,
        /// [`BlobLimits::max_total_bytes`].
        limit: u64,
    },
    /// The file system has no room. Free some space, then retry.
    #[error("no space left for blobs on the file system of {}", dir.display())]
    DiskFull {
        /// The store's folder.
        dir: PathBuf,
    },
    /// Another process uses the folder. Choose another one.
    #[error("the blob folder {} is in use by another process; choose another workspace.blob_dir", dir.display())]
    InUse {
        /// The store's folder.
        dir: PathBuf,
    },
    /// The file system failed otherwise.
    #[error("blob store {}: {source}", path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A handle on a store; clones share it. All calls block, on local file I/O only.
#[derive(Clone)]
pub struct BlobStore {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    limits: BlobLimits,
    index: Mutex<Index>,
    /// Holds the lock on the folder for as long as the store lives.
    _lock: File,
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

/// Files being written; emptied when the store is opened.
const PARTIAL: &str = "partial";

impl BlobStore {
    /// Opens the store in `dir`, which is made if needed, with the blobs that are there. One process at a time.
    pub fn open(dir: &Path, limits: BlobLimits) -> Result<Self, BlobError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| from_io(&path, source)
        };
        // Source code is nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => BlobError::InUse { dir: dir.to_owned() },
            fs::TryLockError::Error(source) => from_io(&lock_path, source),
        })?;
        let partial = dir.join(PARTIAL);
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(at(&partial))?;
        }
        fs::create_dir(&partial).map_err(at(&partial))?;
        let mut index = Index::new(limits.max_total_bytes);
        for (digest, size) in stored(dir).map_err(at(dir))? {
            index.insert(digest, size);
        }
        // The limit may be lower than when the blobs were stored.
        let dropped = index.make_room(0).unwrap_or_default();
        let shared = Shared { dir: dir.to_owned(), limits, index: Mutex::new(index), _lock: lock };
        let store = Self { shared: Arc::new(shared) };
        store.unlink(&dropped);
        Ok(store)
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
        self.reader(digest)?.read_to_end(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => BlobError::Missing(*digest),
            _ => from_io(&self.path(digest), error),
        })?;
        Ok(bytes)
    }

    /// Reads a blob in pieces. The end of a damaged blob is an error of kind `InvalidData`, and the blob is removed.
    pub fn reader(&self, digest: &Digest) -> Result<BlobReader, BlobError> {
        if !self.contains(digest) {
            return Err(BlobError::Missing(*digest));
        }
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(BlobReader::new(self.clone(), *digest, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index().remove(digest);
                Err(BlobError::Missing(*digest))
            }
            Err(error) => Err(from_io(&path, error)),
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

    fn path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.shared.dir, digest)
    }

    fn unlink(&self, digests: &[Digest]) {
        for digest in digests {
            if let Err(error) = fs::remove_file(self.path(digest)) {
                tracing::warn!(%digest, %error, "a dropped blob could not be deleted");
            }
        }
    }

    /// Forgets a blob whose bytes are not what its name says.
    fn discard_damaged(&self, digest: &Digest) {
        tracing::warn!(%digest, "a damaged blob was removed from the store");
        let mut index = self.index();
        index.remove(digest);
        self.unlink(&[*digest]);
    }
}

impl std::fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStore").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// Two levels, so that no folder gets too many entries.
fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    let (folder, rest) = name.split_at(2);
    dir.join(folder).join(rest)
}

/// The blobs in a folder, least recently stored first.
fn stored(dir: &Path) -> io::Result<Vec<(Digest, u64)>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(dir)? {
        let folder = folder?;
        let Some(prefix) = folder.file_name().to_str().filter(|name| name.len() == 2).map(str::to_owned)
        else {
            continue;
        };
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            let name = file.file_name();
            let digest = name.to_str().and_then(|rest| format!("{prefix}{rest}").parse::<Digest>().ok());
            let metadata = file.metadata()?;
            if let Some(digest) = digest.filter(|_| metadata.is_file()) {
                found.push((metadata.modified()?, digest, metadata.len()));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, digest, size)| (digest, size)).collect())
}

fn from_io(path: &Path, source: io::Error) -> BlobError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            BlobError::DiskFull { dir: path.parent().unwrap_or(path).to_owned() }
        }
        _ => BlobError::Io { path: path.to_owned(), source },
    }
}
