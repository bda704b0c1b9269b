//! Keeps a state file as it is under another name beside it, for a human to come back to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::creation::{folder, refused, sync};
use crate::store::StoreError;

/// Names that are tried for files that are kept in the same second.
const NAMES: u32 = 100;

/// Keeps a file that is about to be replaced. It costs no room where the file system has links.
pub(super) fn keep(path: &Path) -> Result<PathBuf, StoreError> {
    named(path, |name| match fs::hard_link(path, name) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => copied(path, name),
        linked => linked,
    })
}

/// Copies a file that is gone on with.
pub(super) fn copy(path: &Path) -> Result<PathBuf, StoreError> {
    named(path, |name| copied(path, name))
}

/// Makes something under a name that nothing has, and makes that durable.
fn named(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<PathBuf, StoreError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut taken = None;
    for number in 1..=NAMES {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{since}"));
        if number > 1 {
            name.push(format!("-{number}"));
        }
        let name = PathBuf::from(name);
        match make(&name) {
            Ok(()) => return sync(folder(path)).map(|()| name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => taken = Some(error),
            Err(error) => return Err(refused("copy", path, error)),
        }
    }
    Err(refused("copy", path, taken.unwrap_or_else(|| ErrorKind::AlreadyExists.into())))
}

/// All of it, or nothing.
fn copied(path: &Path, name: &Path) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(name)?;
    let done = File::open(path).and_then(|mut from| io::copy(&mut from, &mut to)).and_then(|_| to.sync_all());
    if done.is_err() {
        // Half a copy is of no use, and takes room that is short. What is wrong is told.
        let _ = fs::remove_file(name);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_copy_has_a_name_of_its_own_and_half_of_one_is_not_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("state.redb");
        fs::write(&path, "state").expect("written");
        let kept = [keep(&path), copy(&path), copy(&path)].map(|kept| kept.expect("kept"));
        for name in &kept {
            assert_eq!(fs::read(name).expect("there"), b"state");
        }
        assert!(kept[0] != kept[1] && kept[1] != kept[2] && kept[0] != kept[2], "{kept:?}");
        fs::write(&path, "goes on").expect("written");
        assert_eq!(fs::read(&kept[1]).expect("there"), b"state", "a copy is no link");

        let folder = dir.path().join("folder");
        fs::create_dir(&folder).expect("made");
        copy(&folder).expect_err("a folder has no bytes");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 5);
    }
}
