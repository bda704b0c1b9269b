//! The folder of a mesh for what is not kept. It goes with its process, or, if that was killed, when the next one starts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::geteuid;
use tempfile::TempDir;

const PREFIX: &str = "lintmesh-";

/// Locked as long as the folder is in use. The system unlocks it with the end of the process, however that comes.
const LOCK: &str = "lock";

/// A folder for temporary files that nobody else takes for left behind.
pub(super) struct TemporaryFolder {
    dir: TempDir,
    _lock: File,
}

impl TemporaryFolder {
    /// Makes one, and removes those that killed processes of the same user left beside it.
    pub(super) fn make() -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    fn make_in(base: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
                && let Err(error) = remove_if_left(&entry.path())
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(folder = %entry.path().display(), %error, "a folder that was left could not be removed");
            }
        }
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
        // It has its name only when it is locked: no other process can take the folder for left in between.
        let unnamed = dir.path().join("lock.new");
        let lock = File::create(&unnamed)?;
        match lock.lock() {
            Ok(()) => fs::rename(&unnamed, dir.path().join(LOCK))?,
            // Where the file system knows no locks, nobody ever takes it for left.
            Err(error) => tracing::debug!(folder = %dir.path().display(), %error, "not locked"),
        }
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes a folder of this user whose lock nobody holds. One without a lock is something else.
fn remove_if_left(folder: &Path) -> io::Result<()> {
    let found = folder.symlink_metadata()?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Ok(());
    }
    let path = folder.join(LOCK);
    let lock = File::open(&path)?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    // Last of all: without it, nobody would come back for what could not be removed now.
    fs::remove_file(&path)?;
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(base: &Path) -> Vec<String> {
        let entries = fs::read_dir(base).expect("there").map(|entry| entry.expect("read").file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let base = tempfile::tempdir().expect("a folder");
        let at = |name: &str| base.path().join(name);
        // A lock that nobody holds is all that a killed process leaves of itself.
        fs::create_dir_all(at("lintmesh-killed/blobs/ab")).expect("made");
        fs::write(at("lintmesh-killed/blobs/ab/cd"), "bytes").expect("written");
        fs::write(at("lintmesh-killed/lock"), "").expect("written");
        fs::create_dir(at("lintmesh-of-somebody")).expect("made");
        fs::create_dir(at("other")).expect("made");
        fs::write(at("other/lock"), "").expect("written");
        std::os::unix::fs::symlink(at("other"), at("lintmesh-link")).expect("linked");

        let own = TemporaryFolder::make_in(base.path()).expect("made");
        let own_name = own.path().file_name().expect("named").to_str().expect("UTF-8").to_owned();
        let mut left = vec!["lintmesh-link".to_owned(), "lintmesh-of-somebody".into(), "other".into()];
        left.push(own_name);
        left.sort();
        assert_eq!(names(base.path()), left);
        assert!(at("other/lock").exists(), "nothing beyond a link");

        let second = TemporaryFolder::make_in(base.path()).expect("made");
        assert!(own.path().exists(), "it is in use");
        drop((own, second));
        assert_eq!(names(base.path()), ["lintmesh-link", "lintmesh-of-somebody", "other"]);
    }
}
