//! The folder in which a node's unacknowledged results outlive its process: a file each, written whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Unacknowledged;
use super::record::{self, RecordError};
use crate::types::{AttemptRef, NodeId};

/// Guards the folder against a second process of the node.
const LOCK: &str = "lock";
/// How a result's file name ends.
const RESULT: &str = "result";
/// How the name of a file ends that is being written.
const PART: &str = "part";
/// The largest file that is read: the largest output, and its result.
const MOST_BYTES: u64 = (256 << 20) + (1 << 20);
/// How often it is looked whether a former process of the node has ended, and the pause between: 2 s in all.
const LOCK_LOOKS: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Two processes of one node.
    #[error("another process of this node uses {}", .0.display())]
    InUse(PathBuf),
    /// The file system.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The folder, for as long as this process has it.
#[derive(Debug)]
pub(in crate::node) struct Spool {
    folder: PathBuf,
    /// Let go of by the system when the process ends, however it does.
    _lock: File,
}

impl Spool {
    /// Opens the folder of a node beneath `state_dir`; both are made if they are missing. Waits a moment for a former
    /// process of the node. Blocks.
    pub(in crate::node) fn open(state_dir: &Path, node: &NodeId) -> Result<Self, SpoolError> {
        let folder = state_dir.join(node.as_str()).join("outbox");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Io { path, source }
        };
        // They hold what was found in the source code of others.
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed(&folder))?;
        let path = folder.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        for _ in 0..LOCK_LOOKS {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { folder, _lock: lock }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(source)) => return Err(SpoolError::Io { path, source }),
            }
        }
        Err(SpoolError::InUse(folder))
    }

    /// What former processes of the node left, oldest attempt first: so many at most, and so many bytes. Files that are
    /// damaged, or no result of the node, are removed, with a warning; those that cannot be read now, or not by this
    /// release, and those beyond the bounds wait for another start. Blocks.
    pub(in crate::node) fn read(
        &self,
        node: &NodeId,
        most: usize,
        most_bytes: u64,
    ) -> io::Result<Vec<Unacknowledged>> {
        let mut found = BTreeMap::new();
        let mut bytes = 0;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(RESULT) => {}
                Some(PART) => {
                    fs::remove_file(&path)?;
                    continue;
                }
                _ => continue,
            }
            let waits = |reason: &dyn std::fmt::Display| {
                tracing::warn!(path = %path.display(), %reason, "a result of a former process waits for another start");
            };
            let length = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) => {
                    waits(&error);
                    continue;
                }
            };
            if found.len() >= most || bytes + length > most_bytes {
                waits(&"there are too many");
                continue;
            }
            match read(&path, length, node) {
                Ok(kept) => {
                    bytes += length;
                    let attempt = kept.result.key.attempt;
                    found.insert((attempt.epoch, attempt.number, path), kept);
                }
                Err(Unread::NotNow(reason)) => waits(&reason),
                Err(Unread::Never(reason)) => {
                    tracing::warn!(
                        path = %path.display(), %reason,
                        "a result of a former process is dropped; its task will be done again"
                    );
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// Writes a result: all of it or nothing, once [`Self::sync`] has returned for good. Blocks.
    pub(super) fn write(&self, kept: &Unacknowledged) -> io::Result<()> {
        let path = self.path(&kept.result.key);
        let part = path.with_extension(PART);
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&record::head(kept))?;
            if let Some(unsent) = &kept.unsent {
                file.write_all(unsent)?;
            }
            file.sync_all()?;
            fs::rename(&part, &path)
        })();
        if written.is_err() {
            // A full disk has no room for half a result either.
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Makes durable what the names in the folder stand for. Blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Removes a result, if it is there. Blocks.
    pub(super) fn remove(&self, key: &AttemptRef) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, AttemptRef { run, task, attempt }: &AttemptRef) -> PathBuf {
        // Run ids are fit for file names.
        self.folder.join(format!("{run}.{}.{}.{}.{RESULT}", task.0, attempt.epoch.0, attempt.number))
    }
}

/// Why a file gave no result.
enum Unread {
    /// Another start, or another release, may read it.
    NotNow(String),
    /// It is damaged, or not the node's.
    Never(String),
}

fn read(path: &Path, length: u64, node: &NodeId) -> Result<Unacknowledged, Unread> {
    if length > MOST_BYTES {
        return Err(Unread::NotNow(format!("it has {length} bytes")));
    }
    let bytes = fs::read(path).map_err(|error| Unread::NotNow(error.to_string()))?;
    let kept = record::parse(&bytes).map_err(|error| match error {
        RecordError::Form | RecordError::Message(_) => Unread::NotNow(error.to_string()),
        RecordError::Damaged => Unread::Never(error.to_string()),
    })?;
    if kept.result.executor != *node {
        return Err(Unread::Never(format!("it is a result of {}", kept.result.executor)));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
