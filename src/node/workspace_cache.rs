//! Trees laid out from their blobs: once per manifest, shared by the tasks that read them, bounded in number.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::inputs::{InputError, Inputs};
use crate::types::{Digest, Manifest};
use crate::workspace::blobs::{BlobLimits, BlobStore, Pin};
use crate::workspace::snapshot::{self, MaterialiseError};

/// Trees kept though nobody reads them, for the next task of the same run.
const KEPT_TREES: usize = 4;
/// What the blobs beneath them may take on disk; the coordinator's own limits on a snapshot are tighter.
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

/// The trees of one node.
pub struct WorkspaceCache {
    dir: PathBuf,
    store: BlobStore,
    inputs: Inputs,
    trees: Mutex<Vec<Arc<Slot>>>,
    /// Numbers the folders, so that a tree never meets the leftovers of an earlier one.
    made: AtomicU64,
}

/// A tree's place; made before the tree, so that two tasks lay it out once.
struct Slot {
    manifest: Digest,
    tree: OnceCell<LaidOut>,
}

/// A tree on the disk, removed with its owner: from the moment it is written, since the task that asked for it may be
/// gone by then.
struct LaidOut(PathBuf);

impl Drop for LaidOut {
    fn drop(&mut self) {
        let Self(dir) = self;
        if let Err(error) = std::fs::remove_dir_all(&*dir)
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
        let store = BlobStore::open(&dir.join("blobs"), STORE_LIMITS)?;
        Ok(Self { dir: dir.join("trees"), store, inputs, trees: Mutex::default(), made: AtomicU64::new(0) })
    }

    /// The tree of a manifest, laid out if it is not there yet.
    pub async fn tree(&self, digest: Digest, manifest: &Arc<Manifest>) -> Result<Tree, TreeError> {
        let slot = self.slot(digest);
        let LaidOut(root) = slot.tree.get_or_try_init(|| self.lay_out(Arc::clone(manifest))).await?;
        let root = root.clone();
        Ok(Tree { root, _slot: slot })
    }

    fn slot(&self, manifest: Digest) -> Arc<Slot> {
        let mut trees = self.trees();
        // Most recently used last.
        let slot = match trees.iter().position(|slot| slot.manifest == manifest) {
            Some(at) => trees.remove(at),
            None => Arc::new(Slot { manifest, tree: OnceCell::new() }),
        };
        trees.push(Arc::clone(&slot));
        let dropped = drop_oldest_unused(&mut trees, KEPT_TREES);
        drop(trees);
        // Removing a tree takes a while; if there is no blocking thread left it happens here.
        drop(tokio::task::spawn_blocking(move || drop(dropped)));
        slot
    }

    async fn lay_out(&self, manifest: Arc<Manifest>) -> Result<LaidOut, TreeError> {
        let digests: Vec<Digest> = manifest.files().iter().map(|file| file.digest).collect();
        let pin = self.store.pin(digests.iter().copied());
        self.inputs.fetch_into(&self.store, &digests).await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        write(manifest, self.store.clone(), self.dir.join(number.to_string()), pin).await
    }

    fn trees(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        // A list of handles is whole whatever panicked.
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a tree whose blobs are in the store, for as long as this is waited for.
async fn write(
    manifest: Arc<Manifest>,
    store: BlobStore,
    dir: PathBuf,
    pin: Pin,
) -> Result<LaidOut, TreeError> {
    // If the task that asked is revoked, the work on the disk stops too.
    let cancelled = CancellationToken::new();
    let _cancel = cancelled.clone().drop_guard();
    tokio::task::spawn_blocking(move || {
        let _pin = pin;
        snapshot::materialise(&manifest, &store, &dir, &cancelled)?;
        Ok(LaidOut(dir))
    })
    .await
    .map_err(|_| TreeError::Ending)?
}

/// Takes the oldest trees that nobody reads out of the list until `keep` are left, if there are so many.
fn drop_oldest_unused(trees: &mut Vec<Arc<Slot>>, keep: usize) -> Vec<Arc<Slot>> {
    let mut surplus = trees.len().saturating_sub(keep);
    trees
        .extract_if(.., |slot| {
            let unused = surplus > 0 && Arc::strong_count(slot) == 1;
            surplus -= usize::from(unused);
            unused
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    async fn until(what: impl Fn() -> bool) {
        let looking = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looking).await.expect("in time");
    }

    #[tokio::test]
    async fn a_tree_whose_task_is_revoked_when_it_is_finished_is_removed() {
        let work = tempfile::tempdir().expect("a folder");
        let store = BlobStore::open(&work.path().join("blobs"), STORE_LIMITS).expect("opened");
        let dir = work.path().join("tree");
        let (manifest, pin) = (Arc::new(Manifest::new(Vec::new()).expect("valid")), store.pin([]));
        let mut writing = Box::pin(write(manifest, store, dir.clone(), pin));
        match writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => until(|| dir.exists()).await,
            Poll::Ready(written) => assert!(written.is_ok()),
        }
        drop(writing);
        until(|| !dir.exists()).await;
    }

    #[test]
    fn trees_in_use_stay_and_the_oldest_others_go() {
        let slot = |n: u8| Arc::new(Slot { manifest: Digest::of(&[n]), tree: OnceCell::new() });
        let mut trees: Vec<_> = (0..6).map(slot).collect();
        let used = Arc::clone(&trees[0]);
        let dropped: Vec<_> = drop_oldest_unused(&mut trees, 4).iter().map(|slot| slot.manifest).collect();
        assert_eq!(dropped, [Digest::of(&[1]), Digest::of(&[2])]);
        assert!(Arc::ptr_eq(&trees[0], &used) && trees.len() == 4);
    }
}
