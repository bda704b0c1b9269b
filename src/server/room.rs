//! Whether there is room on the disk for one more run.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::status::{ApiError, Shortage};

/// How many bytes are free for this user on the file system of a folder.
pub type FreeBytes = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// When room may have been made.
pub const ROOM_RETRY: Duration = Duration::from_secs(30);

/// What the system says.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// A folder that must have room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub dir: PathBuf,
    /// What is kept there, for people.
    pub what: &'static str,
    /// The setting that names it.
    pub setting: &'static str,
}

/// The room that runs need to end, once they are taken.
#[derive(Clone)]
pub struct Room {
    places: Vec<Place>,
    needed: u64,
    free: FreeBytes,
}

impl Room {
    /// Looks at these folders, each of which must have so many bytes free.
    pub fn new(places: Vec<Place>, needed: u64, free: FreeBytes) -> Self {
        Self { places, needed, free }
    }

    /// Refuses what is new if there is too little room. Blocks.
    pub fn check(&self) -> Result<(), ApiError> {
        for Place { dir, what, setting } in &self.places {
            let free = (self.free)(dir).map_err(|error| {
                tracing::error!(dir = %dir.display(), %error, "it is not known how much is free");
                let message = format!("the folder of the {what} cannot be looked at; see {setting}");
                ApiError::Unavailable { reason: "FOLDER_FAILED", message, retry: ROOM_RETRY }
            })?;
            if free < self.needed {
                let shortage = Some(Shortage { free, needed: self.needed });
                tracing::warn!(dir = %dir.display(), free, needed = self.needed, "too little room");
                return Err(ApiError::DiskFull { what, setting, shortage, retry: ROOM_RETRY });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<Place> {
        let place = |dir: &str, what, setting| Place { dir: dir.into(), what, setting };
        vec![place("/state", "runs", "state.dir"), place("/blobs", "blobs", "workspace.blob_dir")]
    }

    fn room(free: impl Fn(&Path) -> io::Result<u64> + Send + Sync + 'static) -> Room {
        Room::new(places(), 100, Arc::new(free))
    }

    #[test]
    fn each_folder_must_have_room_and_the_one_that_has_not_is_named() {
        assert_eq!(room(|_| Ok(100)).check(), Ok(()));
        let full = room(|dir| Ok(if dir.ends_with("blobs") { 99 } else { 100 })).check();
        let Err(error @ ApiError::DiskFull { setting: "workspace.blob_dir", .. }) = full else {
            panic!("{full:?}")
        };
        let text = error.to_string();
        for part in ["99 bytes", "100", "blobs", "workspace.blob_dir", "state.min_free_bytes", "free some"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("/blobs"), "clients learn no paths of this machine: {text}");
    }

    #[test]
    fn a_folder_that_is_gone_takes_nothing_new() {
        let gone = room(|_| Err(io::ErrorKind::NotFound.into())).check();
        assert!(matches!(gone, Err(ApiError::Unavailable { reason: "FOLDER_FAILED", .. })), "{gone:?}");
    }

    #[test]
    fn the_system_tells_what_is_free() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(free_bytes(dir.path()).expect("there") > 0);
        assert!(free_bytes(&dir.path().join("gone")).is_err());
    }
}
