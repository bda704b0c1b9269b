//! Blobs held in memory, bounded by their bytes; the least recently used goes first.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Digest;

#[derive(Debug)]
pub(super) struct Cache {
    limit: usize,
    held: usize,
    /// Counts uses; the entry with the smallest count is the least recently used.
    clock: u64,
    entries: HashMap<Digest, (u64, Arc<[u8]>)>,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, held: 0, clock: 0, entries: HashMap::new() }
    }

    pub(super) fn get(&mut self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let (used, bytes) = self.entries.get_mut(digest)?;
        *used = self.clock;
        Some(Arc::clone(bytes))
    }

    /// Holds a blob; one that is larger than a quarter of the limit is not held, since it would push out all others.
    pub(super) fn put(&mut self, digest: Digest, bytes: Arc<[u8]>) {
        if bytes.len() > self.limit / 4 || self.entries.contains_key(&digest) {
            return;
        }
        self.clock += 1;
        self.held += bytes.len();
        self.entries.insert(digest, (self.clock, bytes));
        while self.held > self.limit {
            let Some(oldest) =
                self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(digest, _)| *digest)
            else {
                return;
            };
            if let Some((_, bytes)) = self.entries.remove(&oldest) {
                self.held -= bytes.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &mut Cache, name: &str, size: usize) {
        cache.put(Digest::of(name.as_bytes()), vec![0; size].into());
    }

    fn has(cache: &mut Cache, name: &str) -> bool {
        cache.get(&Digest::of(name.as_bytes())).is_some()
    }

    #[test]
    fn the_least_recently_used_goes_when_the_bytes_are_spent() {
        let mut cache = Cache::new(40);
        for name in ["a", "b", "c", "d"] {
            put(&mut cache, name, 10);
        }
        assert!(has(&mut cache, "a"));
        put(&mut cache, "e", 10);
        assert!(has(&mut cache, "a") && !has(&mut cache, "b") && has(&mut cache, "e"));
        assert_eq!(cache.held, 40);
    }

    #[test]
    fn one_large_blob_does_not_push_out_all_others() {
        let mut cache = Cache::new(40);
        put(&mut cache, "a", 10);
        put(&mut cache, "large", 11);
        assert!(has(&mut cache, "a") && !has(&mut cache, "large"));
    }
}
