//! Makes a good file of what can be read of a damaged one.
//!
//! Records of the log keep their positions: whoever reads them must know where some are missing, and be it at the end.
//!
//! redb opens no file with a damaged page, so its check is gone around: the file is read as by a process beside its
//! writer, which checks no page and asks for no repair. Each record is then read on its own, and our checksum says what it is worth.

use std::fs::{self, File};
use std::io;
use std::ops::{Bound, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{BackendError, Builder, ConcurrencyMode, ReadOnlyDatabase, StorageBackend};
use tempfile::NamedTempFile;

use super::contain::{Failure, contained};
use super::layout::{self, Head, Part};
use super::medium::{self, FLAGS, SECOND_SLOT, TRUSTED};
use super::{CACHE_BYTES, aside, begin, creation, reader};
use crate::store::{Record, StoreError};
use crate::types::Epoch;

/// How many damaged places an error names.
const NAMED_PLACES: usize = 3;

/// The same error, which says of a damaged page which records are in it, as far as that can be found out.
pub(super) fn located(error: StoreError, path: &Path) -> StoreError {
    let StoreError::Damaged { place, position, reason } = error else { return error };
    let found = locked(path).and_then(|damaged| best(&damaged, path));
    let position = found.ok().and_then(|(_, salvaged)| salvaged.lost()).unwrap_or(position);
    StoreError::Damaged { place, position, reason }
}

/// The damaged file, locked as redb does, so that no coordinator works on it meanwhile.
fn locked(path: &Path) -> Result<File, StoreError> {
    let damaged = medium::open(path)?;
    match damaged.try_lock() {
        Ok(()) => Ok(damaged),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(Failure::Io(source).on_opening(path)),
    }
}

/// Keeps the damaged file under another name, and puts a good one in its place.
pub(super) fn salvage(path: &Path) -> Result<(), StoreError> {
    let damaged = locked(path)?;
    let (head, salvaged) = best(&damaged, path)?;
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
    let (kept, left_out) = (salvaged.kept(), salvaged.snapshot.lost.len() + salvaged.log.lost.len());
    let made = written(path, head, salvaged)?;
    // Last of all, so that an attempt that fails leaves nothing.
    let aside = aside::keep(path)?;
    if let Err(error) = made.persist(path) {
        // It is still there under its own name.
        let _ = fs::remove_file(&aside);
        return Err(creation::refused("write", path, error.error));
    }
    creation::sync(creation::folder(path))?;
    tracing::warn!(kept, left_out, damaged_file = %aside.display(), "the state was salvaged");
    Ok(())
}

/// What was read of a part, place by place, and the places of what was not.
#[derive(Default)]
struct Rest {
    records: Vec<Option<Record>>,
    lost: Vec<u64>,
}

#[derive(Default)]
struct Salvaged {
    snapshot: Rest,
    log: Rest,
}

impl Salvaged {
    fn kept(&self) -> usize {
        self.snapshot.records.iter().chain(&self.log.records).flatten().count()
    }

    /// What was not read, in words; none if all was.
    fn lost(&self) -> Option<String> {
        let parts = [(Part::Snapshot, &self.snapshot.lost), (Part::Log, &self.log.lost)];
        let places = parts.into_iter().flat_map(|(part, lost)| {
            ranges(lost).into_iter().map(move |range| match (range.start, range.end - 1) {
                (first, last) if first == last => format!("record {first} of the {}", part.name()),
                (first, last) => format!("records {first} to {last} of the {}", part.name()),
            })
        });
        let mut named: Vec<String> = places.collect();
        let more = named.len().saturating_sub(NAMED_PLACES);
        named.truncate(NAMED_PLACES);
        if more > 0 {
            named.push(format!("{more} more places"));
        }
        (!named.is_empty()).then(|| named.join(", "))
    }
}

/// Of the last commit and the one before, the one of which more can be read: the last may be torn. What it had that the
/// one before has not counts as lost.
fn best(damaged: &File, path: &Path) -> Result<(Head, Salvaged), StoreError> {
    let mut flags = [0];
    damaged.read_exact_at(&mut flags, FLAGS as u64).map_err(|source| Failure::Io(source).on_opening(path))?;
    let last = flags[0] & SECOND_SLOT;
    let read = |slot| Reading { damaged, slot, open: None }.all();
    let (newest, before) = (read(last), read(last ^ SECOND_SLOT));
    let (newest, why) = match newest {
        Ok(newest) => (Some(newest), None),
        Err(why) => (None, Some(why)),
    };
    let known = newest.as_ref().map(|(head, _)| (head.epoch, head.position));
    match (newest, before) {
        (Some(newest), Ok(before)) if before.1.kept() <= newest.1.kept() => Ok(newest),
        (Some(newest), Err(_)) => Ok(newest),
        (_, Ok((mut head, mut salvaged))) => {
            // What the last one did is not known if its head is not: it may have appended, or raised the epoch.
            let (epoch, end) = known.unwrap_or((Epoch(head.epoch.0 + 1), head.position + 1));
            for position in head.position..end {
                salvaged.log.records.push(None);
                salvaged.log.lost.push(position);
            }
            (head.epoch, head.position) = (head.epoch.max(epoch), head.position.max(end));
            Ok((head, salvaged))
        }
        (None, Err(earlier)) => {
            let reason = why.unwrap_or(earlier);
            Err(StoreError::Damaged {
                place: path.display().to_string(),
                position: "the head".to_owned(),
                reason: format!("nothing in it can be read ({reason}); move it away to begin anew"),
            })
        }
    }
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
            let record = self.attempt(|database| reader::record(database, part, place)).ok();
            if record.is_none() {
                rest.lost.push(place);
            }
            rest.records.push(record);
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
            *flags = TRUSTED | self.slot;
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
        Ok(false)
    }
}

/// A file with these records, to be moved in place of the damaged one.
fn written(path: &Path, mut head: Head, salvaged: Salvaged) -> Result<NamedTempFile, StoreError> {
    // The snapshot's order matters, not its places.
    let snapshot: Vec<Record> = salvaged.snapshot.records.into_iter().flatten().collect();
    let log: Vec<Record> =
        salvaged.log.records.into_iter().map(|record| record.unwrap_or_else(Record::lost)).collect();
    head.snapshot = snapshot.len() as u64;
    let made = creation::new_beside(path)?;
    let file = made.reopen().map_err(|source| creation::refused("make", path, source))?;
    let written = contained(|| {
        let database = begin(FileBackend::new(file)?, head)?;
        let transaction = database.begin_write()?;
        layout::fill(&transaction, Part::Snapshot, 0, &snapshot)?;
        layout::fill(&transaction, Part::Log, head.base, &log)?;
        transaction.commit()?;
        Ok(database.close()?)
    });
    written.map_err(|failure| failure.on_opening(path))?;
    Ok(made)
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
