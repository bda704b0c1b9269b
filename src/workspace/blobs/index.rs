//! Which blobs a store has, which of them are in use, and which go first when room is needed. No I/O.

use std::collections::{BTreeMap, HashMap};

use crate::types::Digest;

/// There is no room beside what is pinned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

#[derive(Debug, Clone, Copy)]
struct Entry {
    size: u64,
    /// Key into [`Index::by_use`]; greater means used later.
    used: u64,
}

/// The stock of a store.
#[derive(Debug)]
pub(super) struct Index {
    limit: u64,
    stored: u64,
    /// Bytes promised to blobs that are being written.
    reserved: u64,
    uses: u64,
    entries: HashMap<Digest, Entry>,
    by_use: BTreeMap<u64, Digest>,
    pins: HashMap<Digest, u32>,
}

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            stored: 0,
            reserved: 0,
            uses: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            pins: HashMap::new(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.stored.saturating_add(self.reserved)
    }

    /// Sets `bytes` aside for a blob being written. Answers the blobs that must be deleted to make room.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<Vec<Digest>, NoRoom> {
        let dropped = self.make_room(bytes)?;
        self.reserved += bytes;
        Ok(dropped)
    }

    /// Gives back what [`Index::reserve`] set aside.
    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Drops least recently used blobs until `bytes` more fit; drops none if that cannot be reached.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<Vec<Digest>, NoRoom> {
        let wanted = self.total().saturating_add(bytes);
        let mut excess = wanted.saturating_sub(self.limit);
        let mut dropped = Vec::new();
        for digest in self.by_use.values() {
            if excess == 0 {
                break;
            }
            if let (Some(entry), None) = (self.entries.get(digest), self.pins.get(digest)) {
                excess = excess.saturating_sub(entry.size);
                dropped.push(*digest);
            }
        }
        if excess > 0 {
            return Err(NoRoom);
        }
        for digest in &dropped {
            self.remove(digest);
        }
        Ok(dropped)
    }

    /// Enters a blob that is on disk.
    pub(super) fn insert(&mut self, digest: Digest, size: u64) {
        self.remove(&digest);
        self.uses += 1;
        self.entries.insert(digest, Entry { size, used: self.uses });
        self.by_use.insert(self.uses, digest);
        self.stored += size;
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.by_use.remove(&entry.used);
            self.stored -= entry.size;
        }
    }

    /// Marks a blob as just used and answers its size, if it is there.
    pub(super) fn touch(&mut self, digest: &Digest) -> Option<u64> {
        let entry = self.entries.get_mut(digest)?;
        self.uses += 1;
        self.by_use.remove(&entry.used);
        entry.used = self.uses;
        self.by_use.insert(entry.used, *digest);
        Some(entry.size)
    }

    pub(super) fn pin(&mut self, digests: &[Digest]) {
        for digest in digests {
            *self.pins.entry(*digest).or_default() += 1;
        }
    }

    pub(super) fn unpin(&mut self, digests: &[Digest]) {
        for digest in digests {
            if let Some(count) = self.pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    self.pins.remove(digest);
                }
            }
        }
    }
}
