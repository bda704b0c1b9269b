//! A disk in memory that does to a file what real ones do: what was not synced may be lost, in part, in any order, when
//! the power goes or a sync fails; it gets full; it fails.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use lintmesh::store::{Medium, StoreError};
use redb::StorageBackend;

/// What is written at once, or not.
const SECTOR: usize = 512;
/// What room is counted in.
const BLOCK: u64 = 4096;

/// Numbers that look random; equal seeds give equal ones (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of the numbers below.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write(offset, data) => {
                let (from, end) = (*offset as usize, *offset as usize + data.len());
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[from..end].copy_from_slice(data);
            }
            Change::Length(length) => to.resize(*length as usize, 0),
        }
    }
}

/// Counts what was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) writes: u64,
    pub(crate) bytes: u64,
    pub(crate) syncs: u64,
}

#[derive(Debug)]
struct Inner {
    dice: Dice,
    /// What is on the platters.
    stable: Vec<u8>,
    /// What was changed since, in order.
    unsynced: Vec<Change>,
    /// What who reads sees.
    seen: Vec<u8>,
    /// Blocks that ever were written.
    blocks: BTreeSet<u64>,
    room: Option<usize>,
    /// Changes and syncs until the power goes.
    power: Option<u64>,
    /// Changes and syncs until one fails, and how.
    failure: Option<(u64, ErrorKind)>,
    /// Raised when the power goes; who opened the disk before has nothing more to say.
    boot: u64,
    counts: Counts,
}

/// A disk with one file. Clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    inner: Arc<Mutex<Inner>>,
}

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        let inner = Inner {
            dice: Dice::new(seed),
            stable: Vec::new(),
            unsynced: Vec::new(),
            seen: Vec::new(),
            blocks: BTreeSet::new(),
            room: None,
            power: None,
            failure: None,
            boot: 0,
            counts: Counts::default(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under the lock")
    }

    /// The power goes after so many changes and syncs.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.lock().power = Some(changes);
    }

    /// Power again. Of what was not synced, some is there.
    pub(crate) fn restore_power(&self) {
        let mut inner = self.lock();
        inner.power = None;
        inner.boot += 1;
        inner.lose();
        inner.seen = inner.stable.clone();
    }

    /// After so many changes and syncs, one fails.
    pub(crate) fn fail_after(&self, changes: u64, kind: ErrorKind) {
        self.lock().failure = Some((changes, kind));
    }

    /// Nothing fails any more. Whether it had.
    pub(crate) fn mend(&self) -> bool {
        self.lock().failure.take().is_none()
    }

    /// Leaves room for so many more blocks; none for as many as are wanted.
    pub(crate) fn limit(&self, more: Option<usize>) {
        let mut inner = self.lock();
        inner.room = more.map(|more| inner.blocks.len() + more);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }
}

impl Inner {
    /// What was not synced reaches the platters: each change or not, and one in part.
    fn lose(&mut self) {
        let changes = std::mem::take(&mut self.unsynced);
        let kept_percent = [0, 50, 90, 100, 100][self.dice.below(5) as usize];
        let torn = self.dice.below(changes.len() as u64 + 1) as usize;
        for (at, change) in changes.into_iter().enumerate() {
            match change {
                Change::Write(offset, data) if at == torn => {
                    let is_prefix = self.dice.is(50);
                    let whole = self.dice.below(data.len() as u64 / SECTOR as u64 + 1) as usize;
                    for (number, sector) in data.chunks(SECTOR).enumerate() {
                        if if is_prefix { number < whole } else { self.dice.is(50) } {
                            let offset = offset + (number * SECTOR) as u64;
                            Change::Write(offset, sector.to_vec()).apply(&mut self.stable);
                        }
                    }
                }
                change if self.dice.is(kept_percent) => change.apply(&mut self.stable),
                _ => {}
            }
        }
    }

    /// Fails if it is time to.
    fn step(&mut self, boot: u64) -> io::Result<()> {
        if let Some(left) = &mut self.power {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return Err(io::Error::other("the power is off")),
            }
        }
        if self.boot != boot {
            return Err(io::Error::other("the power was off"));
        }
        match &mut self.failure {
            Some((0, kind)) => {
                let kind = *kind;
                self.failure = None;
                Err(kind.into())
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, boot: u64, change: Change) -> io::Result<()> {
        self.step(boot)?;
        if let Change::Write(offset, data) = &change {
            let blocks: Vec<u64> =
                (offset / BLOCK..=(offset + data.len().max(1) as u64 - 1) / BLOCK).collect();
            let new = blocks.iter().filter(|block| !self.blocks.contains(block)).count();
            if self.room.is_some_and(|room| self.blocks.len() + new > room) {
                return Err(ErrorKind::StorageFull.into());
            }
            self.blocks.extend(blocks);
            self.counts.writes += 1;
            self.counts.bytes += data.len() as u64;
        }
        change.apply(&mut self.seen);
        self.unsynced.push(change);
        Ok(())
    }
}

impl Medium for Disk {
    type Backend = Opened;

    fn path(&self) -> &Path {
        Path::new("disk")
    }

    fn open(&mut self) -> Result<Opened, StoreError> {
        let mut inner = self.lock();
        // What a failed sync left in memory only is forgotten.
        let mut seen = inner.stable.clone();
        inner.unsynced.iter().for_each(|change| change.apply(&mut seen));
        inner.seen = seen;
        Ok(Opened { disk: self.clone(), boot: inner.boot })
    }

    fn is_in_place(&self) -> bool {
        true
    }
}

/// The file, as redb has it open.
#[derive(Debug)]
pub(crate) struct Opened {
    disk: Disk,
    boot: u64,
}

impl Opened {
    fn inner(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.lock();
        if inner.power == Some(0) || inner.boot != self.boot {
            return Err(io::Error::other("the power is off"));
        }
        Ok(inner)
    }
}

impl StorageBackend for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner()?;
        let from = offset as usize;
        let there = inner.seen.get(from..from + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.lock().change(self.boot, Change::Length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let had_power = inner.power != Some(0) && inner.boot == self.boot;
        if let Err(error) = inner.step(self.boot) {
            if had_power {
                // The system tells it once, and takes what it could not write for written.
                inner.lose();
            }
            return Err(error);
        }
        let inner = &mut *inner;
        inner.unsynced.drain(..).for_each(|change| change.apply(&mut inner.stable));
        inner.counts.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.lock().change(self.boot, Change::Write(offset, data.to_vec()))
    }
}
