//! Trees laid out from their blobs: once per manifest, shared by the tasks that read them. What is kept for the next task is
//! bounded, and goes when nothing needs it for a while: it may be on the disk of the coordinator's state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::inputs::{InputError, Inputs};
use crate::types::{Digest, Manifest};
use crate::workspace::blobs::{BlobError, BlobLimits, BlobStore, Pin};
use crate::workspace::snapshot::{self, MaterialiseError};

/// Trees kept though nobody reads them, for the next task of the same run.
const KEPT_TREES: usize = 4;
/// What all trees may take for these to be kept, in bytes: two of the largest that a coordinator takes by default.
const KEPT_TREE_BYTES: u64 = 1 << 30;
/// What is kept of the blobs of trees that were laid out, in bytes, for those that have most files in common with them.
const KEPT_BLOB_BYTES: u64 = 256 << 20;
/// How long a tree is kept that nobody reads; blobs go with the last tree.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// How often is looked whether something can go.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// What the blobs of trees that are being laid out may take; the coordinator's own limits on a snapshot are tighter.
const STORE_LIMITS: BlobLimits = BlobLimits { max_blob_bytes: 1 << 30, max_total_bytes: 8 << 30 };

/// Why a tree could not be laid out: the node's failure.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Its blobs could not be had.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Its files could not be written.
    #[error(transparent)]
    Materialise(#[from] MaterialiseError),
    /// The node is going down.
    #[error("the node is ending")]
    Ending,
}

impl TreeError {
    /// Whether there was no room on the node's disk.
    fn is_full(&self) -> bool {
        let no_room = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        let blob = |error: &BlobError| match error {
            BlobError::DiskFull { .. } => true,
            BlobError::Io { source, .. } => no_room(source),
            _ => false,
        };
        match self {
            Self::Input(InputError::Store(error)) => blob(error),
            Self::Materialise(MaterialiseError::Blob { source, .. }) => blob(source),
            Self::Materialise(MaterialiseError::Io { source, .. }) => no_room(source),
            _ => false,
        }
    }
}

/// The trees of one node; clones share them.
#[derive(Clone)]
pub struct WorkspaceCache {
    inputs: Inputs,
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    store: BlobStore,
    trees: Mutex<Vec<Kept>>,
    /// Numbers the folders, so that a tree never meets the leftovers of an earlier one.
    made: AtomicU64,
}

/// A tree that is there or about to be.
struct Kept {
    slot: Arc<Slot>,
    /// When it was last seen in use.
    used: Instant,
}

/// A tree's place; made before the tree, so that two tasks lay it out once.
struct Slot {
    manifest: Digest,
    /// What its files take.
    bytes: u64,
    tree: OnceCell<PathBuf>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(dir) = self.tree.get()
            && let Err(error) = std::fs::remove_dir_all(dir)
            // At the end of the process the folder around it may go first.
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "a tree could not be removed");
        }
    }
}

/// A tree in use; it stays for as long as this lives.
pub struct Tree {
    root: PathBuf,
    _slot: Arc<Slot>,
}

impl Tree {
    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl WorkspaceCache {
    /// A cache in `dir`, which must be this process's own. Blocks on local file I/O.
    pub fn new(dir: &Path, inputs: Inputs) -> Result<Self, InputError> {
        Ok(Self { inputs, shared: Arc::new(Shared::new(dir)?) })
    }

    /// The tree of a manifest, laid out if it is not there yet.
    pub async fn tree(&self, digest: Digest, manifest: &Arc<Manifest>) -> Result<Tree, TreeError> {
        let bytes = manifest.files().iter().map(|file| file.size).fold(0, u64::saturating_add);
        let slot = self.shared.slot(digest, bytes);
        let root = slot.tree.get_or_try_init(|| self.lay_out(manifest)).await?.clone();
        Ok(Tree { root, _slot: slot })
    }

    /// Drops what nothing has needed for a while, for as long as it is polled.
    pub(super) fn forget_in_time(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                shared.forget(KEPT_FOR).await;
            }
        }
    }

    async fn lay_out(&self, manifest: &Arc<Manifest>) -> Result<PathBuf, TreeError> {
        let digests: Vec<Digest> = manifest.files().iter().map(|file| file.digest).collect();
        let pin = Arc::new(self.shared.store.pin(digests.iter().copied()));
        let laid_out = match self.fetch_and_write(manifest, &digests, &pin).await {
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "the disk is full; trying again without what is kept");
                self.shared.forget(Duration::ZERO).await;
                self.fetch_and_write(manifest, &digests, &pin).await
            }
            laid_out => laid_out,
        };
        drop(pin);
        let store = self.shared.store.clone();
        let keep = if laid_out.is_ok() { KEPT_BLOB_BYTES } else { 0 };
        // Whoever waits for the tree need not wait for this.
        drop(tokio::task::spawn_blocking(move || store.shrink(keep)));
        laid_out
    }

    async fn fetch_and_write(
        &self,
        manifest: &Arc<Manifest>,
        digests: &[Digest],
        pin: &Arc<Pin>,
    ) -> Result<PathBuf, TreeError> {
        let shared = Arc::clone(&self.shared);
        self.inputs.fetch_into(&shared.store, digests).await?;
        let (manifest, pin) = (Arc::clone(manifest), Arc::clone(pin));
        // If the task that asked is revoked, the work on the disk stops too.
        let cancelled = CancellationToken::new();
        let _cancel = cancelled.clone().drop_guard();
        tokio::task::spawn_blocking(move || {
            let _pin = pin;
            let number = shared.made.fetch_add(1, Ordering::Relaxed);
            let dir = shared.dir.join(number.to_string());
            snapshot::materialise(&manifest, &shared.store, &dir, &cancelled)?;
            Ok(dir)
        })
        .await
        .map_err(|_| TreeError::Ending)?
    }
}

impl Shared {
    fn new(dir: &Path) -> Result<Self, InputError> {
        let store = BlobStore::open(&dir.join("blobs"), STORE_LIMITS)?;
        Ok(Self { dir: dir.join("trees"), store, trees: Mutex::default(), made: AtomicU64::new(0) })
    }

    fn slot(&self, manifest: Digest, bytes: u64) -> Arc<Slot> {
        let mut trees = self.trees();
        // Most recently used last.
        let slot = match trees.iter().position(|kept| kept.slot.manifest == manifest) {
            Some(at) => trees.remove(at).slot,
            None => Arc::new(Slot { manifest, bytes, tree: OnceCell::new() }),
        };
        trees.push(Kept { slot: Arc::clone(&slot), used: Instant::now() });
        let dropped = drop_surplus(&mut trees, KEPT_TREES, KEPT_TREE_BYTES);
        drop(trees);
        // Removing a tree takes a while; if there is no blocking thread left it happens here.
        drop(tokio::task::spawn_blocking(move || drop(dropped)));
        slot
    }

    /// Drops the trees that nobody has read for so long, and the blobs with the last of them; returns when they are gone
    /// from the disk.
    async fn forget(&self, unused_for: Duration) {
        let (dropped, keep) = {
            let mut trees = self.trees();
            let dropped = drop_unused(&mut trees, Instant::now(), unused_for);
            let in_use = !trees.is_empty() && !unused_for.is_zero();
            (dropped, if in_use { KEPT_BLOB_BYTES } else { 0 })
        };
        if dropped.is_empty() && self.store.total_bytes() <= keep {
            return;
        }
        let store = self.store.clone();
        let gone = tokio::task::spawn_blocking(move || {
            drop(dropped);
            store.shrink(keep);
        });
        if let Err(error) = gone.await {
            tracing::debug!(%error, "trees are forgotten another time");
        }
    }

    fn trees(&self) -> MutexGuard<'_, Vec<Kept>> {
        // A list of handles is whole whatever panicked.
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the oldest trees that nobody reads out of the list until the others are few and small enough, as far as that goes.
fn drop_surplus(trees: &mut Vec<Kept>, most: usize, most_bytes: u64) -> Vec<Arc<Slot>> {
    let mut surplus = trees.len().saturating_sub(most);
    let mut excess =
        trees.iter().map(|kept| kept.slot.bytes).fold(0, u64::saturating_add).saturating_sub(most_bytes);
    let dropped = trees.extract_if(.., |kept| {
        let goes = (surplus > 0 || excess > 0) && Arc::strong_count(&kept.slot) == 1;
        if goes {
            surplus = surplus.saturating_sub(1);
            excess = excess.saturating_sub(kept.slot.bytes);
        }
        goes
    });
    dropped.map(|kept| kept.slot).collect()
}

/// Takes the trees out of the list that nobody has read for so long.
fn drop_unused(trees: &mut Vec<Kept>, now: Instant, unused_for: Duration) -> Vec<Arc<Slot>> {
    let dropped = trees.extract_if(.., |kept| {
        if Arc::strong_count(&kept.slot) > 1 {
            kept.used = now;
            return false;
        }
        now.duration_since(kept.used) >= unused_for
    });
    dropped.map(|kept| kept.slot).collect()
}

#[cfg(test)]
mod tests;
