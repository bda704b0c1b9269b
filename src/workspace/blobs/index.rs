//! Which blobs a store has, which of them are in use, and which go first when room is needed. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::types::Digest;

/// There is no room beside what is pinned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// Whether a blob would survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It was there at the start: what an earlier process left may have been cut short by a power cut since.
    Found,
    /// Written by this process, to memory at least.
    Written,
    /// Making it durable failed. The system may have dropped its bytes and say next time that all is well.
    Doubtful,
    /// It would.
    Durable,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    size: u64,
    /// Key into [`Index::by_use`]; greater means used later.
    used: u64,
    /// Tells a blob from one with the same digest that was stored later.
    entered: u64,
    durability: Durability,
}

/// A blob that is to be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) digest: Digest,
    pub(super) durability: Durability,
    entered: u64,
}

/// The stock of a store.
#[derive(Debug, Default)]
pub(super) struct Index {
    stored: u64,
    /// Bytes promised to blobs that are being written.
    reserved: u64,
    /// Counts uses and entries.
    moments: u64,
    entries: HashMap<Digest, Entry>,
    by_use: BTreeMap<u64, Digest>,
    pins: HashMap<Digest, u32>,
    /// Blobs that are being published or deleted, which is done without holding up the others.
    claimed: HashSet<Digest>,
}

impl Index {
    pub(super) fn total(&self) -> u64 {
        self.stored.saturating_add(self.reserved)
    }

    /// Sets `bytes` aside for a blob being written, if it fits within `limit`, the store's own or less, beside what is in
    /// use. Answers the blobs that must be deleted to make room; they are claimed.
    pub(super) fn reserve(&mut self, bytes: u64, limit: u64) -> Result<Vec<Digest>, NoRoom> {
        let (dropped, excess) = self.surplus(bytes, limit);
        if excess > 0 {
            return Err(NoRoom);
        }
        self.drop_all(&dropped);
        self.reserved += bytes;
        Ok(dropped)
    }

    /// Gives back what [`Index::reserve`] set aside.
    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Drops least recently used blobs until the others take at most `limit` bytes, or only pinned ones are left. Answers
    /// the blobs that must be deleted; they are claimed.
    pub(super) fn trim(&mut self, limit: u64) -> Vec<Digest> {
        let (dropped, _) = self.surplus(0, limit);
        self.drop_all(&dropped);
        dropped
    }

    /// The blobs that would go for `bytes` more within `limit`, and by how much they would not suffice.
    fn surplus(&self, bytes: u64, limit: u64) -> (Vec<Digest>, u64) {
        let mut excess = self.total().saturating_add(bytes).saturating_sub(limit);
        let mut dropped = Vec::new();
        for digest in self.by_use.values() {
            if excess == 0 {
                break;
            }
            let in_use = self.pins.contains_key(digest) || self.claimed.contains(digest);
            if let (Some(entry), false) = (self.entries.get(digest), in_use) {
                excess = excess.saturating_sub(entry.size);
                dropped.push(*digest);
            }
        }
        (dropped, excess)
    }

    fn drop_all(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.remove(digest);
            self.claimed.insert(*digest);
        }
    }

    /// Enters a blob that is stored.
    pub(super) fn insert(&mut self, digest: Digest, size: u64, durability: Durability) {
        self.remove(&digest);
        self.moments += 1;
        let moment = self.moments;
        self.entries.insert(digest, Entry { size, used: moment, entered: moment, durability });
        self.by_use.insert(moment, digest);
        self.stored += size;
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.by_use.remove(&entry.used);
            self.stored -= entry.size;
        }
    }

    /// Which entry a blob has; another one if it is stored anew.
    pub(super) fn entry(&self, digest: &Digest) -> Option<u64> {
        self.entries.get(digest).map(|entry| entry.entered)
    }

    /// Marks a blob as just used and answers its size, if it is there.
    pub(super) fn touch(&mut self, digest: &Digest) -> Option<u64> {
        let entry = self.entries.get_mut(digest)?;
        self.moments += 1;
        self.by_use.remove(&entry.used);
        entry.used = self.moments;
        self.by_use.insert(entry.used, *digest);
        Some(entry.size)
    }

    /// Those of the digests whose blobs are not durable, each once; an error names the first that is not there.
    pub(super) fn due(&self, digests: &[Digest]) -> Result<Vec<Due>, Digest> {
        let mut asked = HashSet::new();
        let mut due = Vec::new();
        for digest in digests.iter().filter(|digest| asked.insert(**digest)) {
            let Entry { durability, entered, .. } = self.entries.get(digest).ok_or(*digest)?;
            if *durability != Durability::Durable {
                due.push(Due { digest: *digest, durability: *durability, entered: *entered });
            }
        }
        Ok(due)
    }

    /// Notes what became of blobs that were due. What was stored anew meanwhile is left as it is.
    pub(super) fn settle(&mut self, due: &[Due], durability: Durability) {
        for due in due {
            if let Some(entry) = self.entries.get_mut(&due.digest)
                && entry.entered == due.entered
            {
                entry.durability = durability;
            }
        }
    }

    /// Takes a blob for publishing or deleting it; not if somebody else has it.
    pub(super) fn claim(&mut self, digest: &Digest) -> bool {
        self.claimed.insert(*digest)
    }

    pub(super) fn unclaim(&mut self, digest: &Digest) {
        self.claimed.remove(digest);
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
