//! What a store lies on: a file, or in a test something that loses what was not synced.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::aside;
use super::contain::Failure;
use crate::store::StoreError;

/// What a store lies on.
pub trait Medium: Send + 'static {
    /// What redb reads and writes.
    type Backend: StorageBackend;

    /// Its name in messages.
    fn path(&self) -> &Path;

    /// Opens it, again after an error: then what was not synced must not be seen as if it had been.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`](super::EmbeddedStore::open).
    fn open(&mut self) -> Result<Self::Backend, StoreError>;

    /// Whether what was opened is still what others find there.
    fn is_in_place(&self) -> bool;

    /// Copies it to where a human finds it, and answers where; nothing if there is no such place. Nothing is written to
    /// it meanwhile.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`](super::EmbeddedStore::open).
    fn keep_copy(&self) -> Result<Option<PathBuf>, StoreError> {
        Ok(None)
    }
}

/// A file.
#[derive(Debug)]
pub struct FileMedium {
    path: PathBuf,
    /// Device and inode of what was opened first.
    identity: Option<(u64, u64)>,
}

impl FileMedium {
    /// For a file that exists.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: None }
    }
}

impl Medium for FileMedium {
    type Backend = FileBackend;

    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&mut self) -> Result<FileBackend, StoreError> {
        let file = open(&self.path)?;
        let found = file.metadata().map_err(|source| Failure::Io(source).on_opening(&self.path))?;
        let refuse =
            |reason: &str| Err(StoreError::Foreign { path: self.path.clone(), reason: reason.to_owned() });
        if !found.is_file() {
            return refuse("it is no file");
        }
        if found.len() == 0 {
            // A new one is moved here whole.
            return refuse("it is empty");
        }
        let identity = (found.dev(), found.ino());
        if self.identity.replace(identity).is_some() {
            // After a sync that failed, the system may show what is not on the disk. Best effort: some file systems
            // keep nothing to forget.
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        let backend = FileBackend::new(file);
        backend.map_err(|error| Failure::from(error).on_opening(&self.path))
    }

    fn is_in_place(&self) -> bool {
        let Some(identity) = self.identity else { return true };
        match std::fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) == identity,
            // It may be there; whether it can be used is for the next call to find out.
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    fn keep_copy(&self) -> Result<Option<PathBuf>, StoreError> {
        aside::copy(&self.path).map(Some)
    }
}

/// Opens an existing file for reading and writing.
pub(super) fn open(path: &Path) -> Result<File, StoreError> {
    // A pipe or a terminal must not make this wait.
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path).map_err(|source| {
        if source.kind() == ErrorKind::IsADirectory {
            return StoreError::Foreign { path: path.to_owned(), reason: "it is a folder".to_owned() };
        }
        Failure::Io(source).on_opening(path)
    })
}

const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
/// Header and both commit slots, as redb describes its format.
const LENGTH: usize = 320;
pub(super) const FLAGS: usize = MAGIC.len();
/// The slot that counts is the second.
pub(super) const SECOND_SLOT: u8 = 1;
/// Open, or not closed properly.
const LEFT_OPEN: u8 = 2;
/// The slot that counts was synced before it was made to count, so redb looks at no other.
pub(super) const TRUSTED: u8 = 4;
/// Where both slots tell their format.
const SLOTS: [usize; 2] = [64, 192];
/// redb's format, in which everything was ever written.
const REDB_FORMAT: u8 = 3;

/// What the first bytes say.
pub(super) enum Shape {
    Empty,
    Other(&'static str),
    Redb(Header),
}

/// The part of redb's header that tells what redb itself does not: whether the file was closed, and who can read it.
pub(super) struct Header {
    pub(super) was_left_open: bool,
    formats: [u8; 2],
    is_whole: bool,
}

impl Header {
    pub(super) fn read(backend: &impl StorageBackend) -> Result<Shape, Failure> {
        let length = backend.len().map_err(Failure::Io)?;
        if length == 0 {
            return Ok(Shape::Empty);
        }
        let mut bytes = [0; LENGTH];
        let there = usize::try_from(length).map_or(LENGTH, |length| length.min(LENGTH));
        backend.read(0, &mut bytes[..there]).map_err(Failure::Io)?;
        if there < MAGIC.len() || !bytes.starts_with(&MAGIC) {
            return Ok(Shape::Other("it does not begin like one"));
        }
        Ok(Shape::Redb(Self {
            was_left_open: bytes[FLAGS] & LEFT_OPEN != 0,
            formats: SLOTS.map(|slot| bytes[slot]),
            is_whole: there == LENGTH,
        }))
    }

    /// Whether redb can be expected to read it. redb takes a newer format for damage.
    pub(super) fn check(&self, path: &Path) -> Result<(), StoreError> {
        if !self.is_whole {
            return Err(Failure::Io(io::Error::from(ErrorKind::UnexpectedEof)).on_opening(path));
        }
        let [first, second] = self.formats;
        // One alone is damage.
        if first != second || first == REDB_FORMAT {
            return Ok(());
        }
        if first > REDB_FORMAT {
            let place = path.display().to_string();
            return Err(StoreError::NewerFormat { place, found: first.into(), known: REDB_FORMAT.into() });
        }
        let reason = format!("it is a redb database of format {first}, which lintmesh never wrote");
        Err(StoreError::Foreign { path: path.to_owned(), reason })
    }
}
