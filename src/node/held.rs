//! Blobs that a node holds in memory: those it fetched and those it made, which its peers may ask for.

mod cache;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use self::cache::Cache;
use crate::types::Digest;

/// What the cache of one node may hold, in bytes.
const CACHE_BYTES: usize = 64 << 20;
/// What outputs that the coordinator does not have yet may take beside it, in bytes.
const UNSENT_BYTES: usize = 256 << 20;

/// The blobs of one node; clones share them.
#[derive(Clone)]
pub struct Held {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    cache: Cache,
    /// Kept by the results that name them.
    unsent: BTreeMap<Digest, Weak<[u8]>>,
}

impl Default for Held {
    fn default() -> Self {
        let inner = Inner { cache: Cache::new(CACHE_BYTES), unsent: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

impl Held {
    /// A blob, if it is here (still).
    pub fn get(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        let mut inner = self.lock();
        inner.unsent.get(digest).and_then(Weak::upgrade).or_else(|| inner.cache.get(digest))
    }

    /// Keeps a blob for a while.
    pub fn put(&self, digest: Digest, bytes: Arc<[u8]>) {
        self.lock().cache.put(digest, bytes);
    }

    /// Notes an output that the coordinator does not have yet, for as long as somebody keeps it; answers whether there
    /// is room for it.
    pub fn put_unsent(&self, digest: Digest, bytes: &Arc<[u8]>) -> bool {
        let mut inner = self.lock();
        inner.unsent.retain(|_, kept| kept.strong_count() > 0);
        let taken: usize = inner.unsent.values().filter_map(Weak::upgrade).map(|kept| kept.len()).sum();
        if taken.saturating_add(bytes.len()) > UNSENT_BYTES {
            return false;
        }
        inner.unsent.insert(digest, Arc::downgrade(bytes));
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds this; a poisoned lock is as good as a whole one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsent_output_is_here_while_its_result_is_and_there_is_a_bound() {
        let held = Held::default();
        let [one, two, three] = [b"1", b"2", b"3"].map(|name| Digest::of(name));
        let large = || -> Arc<[u8]> { vec![0; UNSENT_BYTES / 2].into() };
        let (first, second, third): (_, _, Arc<[u8]>) = (large(), large(), vec![0].into());
        assert!(held.put_unsent(one, &first) && held.put_unsent(two, &second));
        assert!(!held.put_unsent(three, &third));
        assert!(held.get(&one).is_some() && held.get(&three).is_none());
        drop(first);
        assert!(held.get(&one).is_none() && held.put_unsent(three, &third));
    }
}
