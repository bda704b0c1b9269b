//! Makes a good file of what can be read of a damaged one.
//!
//! redb opens no file with a damaged page, so its check is gone around: the file is read as a process beside its writer
//! would read it, which trusts everything. Each record is then read on its own, and our checksum says what it is worth.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{Bound, Range};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::backends::FileBackend;
use redb::{BackendError, Builder, ConcurrencyMode, ReadOnlyDatabase, StorageBackend};

use super::contain::{Failure, contained};
use super::layout::{self, Head, Part};
use super::medium::{self, FLAGS, LEFT_OPEN, SECOND_SLOT};
use super::{CACHE_BYTES, begin, creation, reader};
use crate::store::{Record, StoreError};

/// Keeps the damaged file under another name, and puts a good one in its place.
pub(super) fn salvage(path: &Path) -> Result<(), StoreError> {
    let damaged = medium::open(path)?;
    // As redb does, so that no coordinator works on it meanwhile.
    match damaged.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(source)) => return Err(Failure::Io(source).on_opening(path)),
    }
    let aside = set_aside(path).map_err(|source| creation::refused("write", path, source))?;
    let (mut head, salvaged) = best(&damaged, path)?;
    for (part, lost) in [(Part::Snapshot, &salvaged.snapshot.lost), (Part::Log, &salvaged.log.lost)] {
        for range in ranges(lost) {
            tracing::warn!(
                part = part.name(),
                first = range.start,
                last = range.end - 1,
                "records were left out"
            );
        }
    }
    tracing::warn!(
        kept = salvaged.kept(),
        left_out = salvaged.snapshot.lost.len() + salvaged.log.lost.len(),
        damaged_file = %aside.display(),
        "the state was salvaged"
    );
    // What is left is a log without holes again, whose end is where it was.
    head.snapshot = salvaged.snapshot.kept.len() as u64;
    head.base = head.position - salvaged.log.kept.len() as u64;
    write(path, head, &salvaged)
}

/// Copies the file.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".damaged-{since}"));
    let aside = PathBuf::from(aside);
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    io::copy(&mut File::open(path)?, &mut to)?;
    to.sync_all()?;
    Ok(aside)
}

/// What was read of a part, and the places of what was not.
#[derive(Default)]
struct Rest {
    kept: Vec<Record>,
    lost: Vec<u64>,
}

#[derive(Default)]
struct Salvaged {
    snapshot: Rest,
    log: Rest,
}

impl Salvaged {
    fn kept(&self) -> usize {
        self.snapshot.kept.len() + self.log.kept.len()
    }
}

/// Of the last commit and the one before, the one of which more can be read: the last may be torn.
fn best(damaged: &File, path: &Path) -> Result<(Head, Salvaged), StoreError> {
    let mut flags = [0];
    damaged.read_exact_at(&mut flags, FLAGS as u64).map_err(|source| Failure::Io(source).on_opening(path))?;
    let last = flags[0] & SECOND_SLOT;
    let mut found: Option<(Head, Salvaged)> = None;
    let mut reason = Failure::Damaged("it has no commit".to_owned());
    for slot in [last, last ^ SECOND_SLOT] {
        let reading = Reading { damaged, slot, open: None };
        match reading.all() {
            Ok((head, salvaged))
                if found.as_ref().is_none_or(|(_, other)| salvaged.kept() > other.kept()) =>
            {
                found = Some((head, salvaged));
            }
            Ok(_) => {}
            Err(failure) => reason = failure,
        }
    }
    found.ok_or_else(|| StoreError::Damaged {
        place: path.display().to_string(),
        position: "the head".to_owned(),
        reason: format!("nothing in it can be read ({reason}); move it away to begin anew"),
    })
}

/// Reads one commit, record by record.
struct Reading<'a> {
    damaged: &'a File,
    slot: u8,
    /// Opened anew after each panic: what redb held then is in no good state.
    open: Option<ReadOnlyDatabase>,
}

impl Reading<'_> {
    fn all(mut self) -> Result<(Head, Salvaged), Failure> {
        let head = self.attempt(reader::head)?;
        let salvaged = Salvaged {
            snapshot: self.part(Part::Snapshot, 0..head.snapshot),
            log: self.part(Part::Log, head.base..head.position),
        };
        Ok((head, salvaged))
    }

    fn part(&mut self, part: Part, places: Range<u64>) -> Rest {
        let mut rest = Rest::default();
        for place in places {
            match self.attempt(|database| reader::record(database, part, place)) {
                Ok(record) => rest.kept.push(record),
                Err(_) => rest.lost.push(place),
            }
        }
        rest
    }

    fn attempt<T>(
        &mut self,
        read: impl FnOnce(&ReadOnlyDatabase) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        contained(|| {
            let database = match self.open.take() {
                Some(database) => database,
                None => {
                    let file = self.damaged.try_clone().map_err(Failure::Io)?;
                    let backend = Trusted { file: FileBackend::new(file)?, slot: self.slot };
                    let mut builder = Builder::new();
                    builder.set_cache_size(CACHE_BYTES).set_concurrency_mode(ConcurrencyMode::SingleWriter);
                    builder.open_read_only_with_backend(backend)?
                }
            };
            let done = read(&database);
            self.open = Some(database);
            done
        })
    }
}

/// A damaged file as if it had been closed properly after the commit in that slot. Its lock is held by who made it.
#[derive(Debug)]
struct Trusted {
    file: FileBackend,
    slot: u8,
}

impl StorageBackend for Trusted {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)?;
        let at = usize::try_from(offset).ok().and_then(|offset| FLAGS.checked_sub(offset));
        if let Some(flags) = at.and_then(|at| out.get_mut(at)) {
            *flags = *flags & !(SECOND_SLOT | LEFT_OPEN) | self.slot;
        }
        Ok(())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        // That the writer is there is what makes redb trust the file.
        Ok(true)
    }
}

/// Puts a file with these records in place of the damaged one.
fn write(path: &Path, head: Head, salvaged: &Salvaged) -> Result<(), StoreError> {
    let made = creation::new_beside(path)?;
    let file = made.reopen().map_err(|source| creation::refused("make", path, source))?;
    let written = contained(|| {
        let database = begin(FileBackend::new(file)?, head)?;
        let transaction = database.begin_write()?;
        layout::fill(&transaction, Part::Snapshot, 0, &salvaged.snapshot.kept)?;
        layout::fill(&transaction, Part::Log, head.base, &salvaged.log.kept)?;
        transaction.commit()?;
        Ok(database.close()?)
    });
    written.map_err(|failure| failure.on_opening(path))?;
    made.persist(path).map_err(|error| creation::refused("write", path, error.error))?;
    creation::sync(creation::folder(path))
}

/// Joins places that follow each other.
fn ranges(places: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for &place in places {
        match ranges.last_mut() {
            Some(last) if last.end == place => last.end += 1,
            _ => ranges.push(place..place + 1),
        }
    }
    ranges
}
