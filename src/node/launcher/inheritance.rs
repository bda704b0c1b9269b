//! The nodes that outlived their launcher: which of them the next one goes on with, and the end of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;

use super::record::{Process, Record};
use super::stranger::Stranger;
use crate::node::{orphan, work_folder};
use crate::types::{Digest, NodeId};

/// How long a node that nobody wants any more may take to end.
const END_BOUND: Duration = Duration::from_secs(2);
/// What nodes call their private folders; see [`crate::node::agent`].
const WORK: &str = "work";

/// How nodes outlive their launcher.
#[derive(Debug, Clone)]
pub struct Survival {
    /// Holds a folder for each node, which its processes hand on to one another.
    pub dir: PathBuf,
    /// How long a node without a launcher goes on without a session. Zero: it ends with its launcher.
    pub grace: Duration,
}

impl Survival {
    /// The folder that the processes of a node hand on.
    pub(super) fn folder(&self, node: &NodeId) -> PathBuf {
        self.dir.join(node.as_str())
    }

    /// Where a process of a node makes its private folder.
    pub(super) fn work_dir(&self, node: &NodeId) -> PathBuf {
        self.folder(node).join(WORK)
    }

    /// Makes the folder for the next process of a node, and has removed what dead ones left in it. Whatever lives there
    /// still has no launcher any more.
    pub(super) fn prepare(&self, node: &NodeId) -> io::Result<()> {
        let work_dir = self.work_dir(node);
        // What is there now; not what the next process makes there.
        let left = entries(&work_dir);
        if !left.is_empty() {
            // Trees can be large. What remains if this is interrupted, the next start finds.
            drop(tokio::task::spawn_blocking(|| remove(left)));
        }
        orphan::cut_lifelines(&self.folder(node));
        // The source code of others is in there.
        DirBuilder::new().recursive(true).mode(0o700).create(work_dir)
    }
}

/// What an earlier launcher left.
pub struct Inheritance {
    pub(super) record: Record,
    pub(super) adoptable: BTreeMap<NodeId, Adoptable>,
}

/// A living process that was told at its start what a new one would be told.
pub(super) struct Adoptable {
    pub(super) process: Process,
    pub(super) stranger: Stranger,
    /// Shows it that it has a launcher.
    pub(super) lifeline: Option<File>,
}

impl Inheritance {
    /// Finds the processes that still live. Those of nodes that would be told something else today (`wanted`, see
    /// [`LaunchOptions::survivors`](super::LaunchOptions::survivors)), or are wanted no more, are ended, and what the dead
    /// left in `dir` (see [`Survival::dir`]) is removed.
    pub async fn take(record: Record, wanted: &BTreeMap<NodeId, Digest>, dir: &Path) -> Self {
        let (mut adoptable, mut unwanted) = (BTreeMap::new(), JoinSet::new());
        for (node, process) in record.processes() {
            let Some(stranger) = Stranger::find(process.pid, process.started) else { continue };
            if wanted.get(node) == Some(&process.settings) {
                // From now on it waits, however long the start takes. Without it, it has its session to tell it the same.
                let lifeline = orphan::hold_lifeline(&dir.join(node.as_str()), process.pid).await;
                let told =
                    |error: &io::Error| tracing::warn!(%node, %error, "no lifeline for an adopted node");
                let lifeline = lifeline.inspect_err(told).ok();
                adoptable.insert(node.clone(), Adoptable { process: *process, stranger, lifeline });
            } else {
                tracing::info!(%node, pid = process.pid, "a node of an earlier coordinator is ended: it is no longer declared so");
                unwanted.spawn(async move { stranger.stop(END_BOUND).await });
            }
        }
        while unwanted.join_next().await.is_some() {}
        let (dir, alive) = (dir.to_owned(), adoptable.keys().cloned().collect());
        // Trees can be large.
        if tokio::task::spawn_blocking(move || sweep(&dir, &alive)).await.is_err() {
            tracing::error!("removing the folders of dead nodes failed");
        }
        Self { record, adoptable }
    }

    /// The secrets of the living, which join without being launched.
    pub fn secrets(&self) -> impl Iterator<Item = (&NodeId, Digest)> {
        self.adoptable.iter().map(|(node, adoptable)| (node, adoptable.process.secret))
    }

    /// Where they look for their coordinator; or where others did before them.
    pub const fn node_listener(&self) -> Option<SocketAddr> {
        self.record.node_listener()
    }
}

/// Removes what processes left that could not do it themselves, but for the nodes that live.
fn sweep(dir: &Path, alive: &BTreeSet<NodeId>) {
    let Ok(nodes) = fs::read_dir(dir) else { return };
    let is_alive = |name: &str| alive.iter().any(|node| node.as_str() == name);
    for node in nodes.flatten().filter(|node| !node.file_name().to_str().is_some_and(is_alive)) {
        let left = entries(&node.path().join(WORK));
        for folder in left.iter().filter(|folder| work_folder::is_in_use(folder)) {
            tracing::warn!(folder = %folder.display(), "a node process that is not known works here until it ends");
        }
        remove(left);
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Removes the folders of processes that have ended.
fn remove(folders: Vec<PathBuf>) {
    for folder in folders.into_iter().filter(|folder| !work_folder::is_in_use(folder)) {
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "what a dead node left could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let node = |name: &str| NodeId::new(name).expect("valid");
        let survival = Survival { dir: dir.path().to_owned(), grace: Duration::ZERO };
        for name in ["dead", "alive"] {
            let tree = survival.work_dir(&node(name)).join("lintmesh-node-x/trees/1");
            fs::create_dir_all(&tree).expect("made");
            fs::write(tree.join("a.py"), "").expect("written");
            fs::write(survival.folder(&node(name)).join("results"), "").expect("written");
        }
        sweep(dir.path(), &[node("alive")].into());
        let left = |name: &str| fs::read_dir(survival.work_dir(&node(name))).expect("there").count();
        assert_eq!((left("dead"), left("alive")), (0, 1));
        assert!(survival.folder(&node("dead")).join("results").exists(), "it is handed on");

        let unknown = work_folder::WorkFolder::make(&survival.work_dir(&node("dead"))).expect("made");
        sweep(dir.path(), &BTreeSet::new());
        assert_eq!((left("dead"), left("alive")), (1, 0), "one that lives keeps its folder, known or not");
        drop(unknown);
        sweep(&dir.path().join("nothing"), &BTreeSet::new());
    }
}
