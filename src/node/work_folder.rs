//! The private folder of a node process. Nobody removes it while that process lives, not even a launcher that knows nothing
//! of it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::TempDir;

/// A folder for its owner only (0700), since it holds the source code of others; removed when this is dropped.
#[derive(Debug)]
pub(super) struct WorkFolder {
    dir: TempDir,
    /// Let go of by the system when the process ends, however it does.
    _lock: File,
}

impl WorkFolder {
    /// Makes one.
    pub(super) fn make(beneath: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("lintmesh-node-").tempdir_in(beneath)?;
        let lock = File::open(dir.path())?;
        if let Err(error) = lock.try_lock() {
            // Where the file system knows no locks, it lasts until the next launcher comes.
            tracing::debug!(dir = %dir.path().display(), %error, "the work folder is not locked");
        }
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Removes it, and says if it could not.
    pub(super) fn close(self) -> io::Result<()> {
        self.dir.close()
    }
}

/// Whether the process lives whose folder this is.
pub(super) fn is_in_use(folder: &Path) -> bool {
    File::open(folder).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_use_while_its_process_lives() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = WorkFolder::make(dir.path()).expect("made");
        let path = folder.path().to_owned();
        assert!(is_in_use(&path));
        let WorkFolder { dir: left, _lock: lock } = folder;
        drop(lock);
        assert!(!is_in_use(&path), "as after the death of its process");
        left.close().expect("removed");
        assert!(!is_in_use(&path));
    }
}
