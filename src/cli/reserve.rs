//! Room that is held back beside the state, and given up when the disk is full: so that what runs can end.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use tokio::sync::watch;

use crate::engine::Storage;

/// More is not needed for what runs to end.
const MOST_BYTES: u64 = 32 << 20;
/// How often is looked whether there is room again.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// A file that is nothing but room.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// What must be free beside it; else it would take the room that it is for.
    min_free: u64,
}

impl Reserve {
    /// In the folder of the state, half of `state.min_free_bytes` but not too large.
    pub(super) fn new(dir: &Path, min_free: u64) -> Self {
        Self { path: dir.join("reserve"), bytes: (min_free / 2).min(MOST_BYTES), min_free }
    }

    /// Holds the room, gives it up whenever the state or a blob cannot be stored for want of it, and takes it again when
    /// there is enough. Until the coordinator is gone. `shortages` counts the blobs that found no room: they may, while
    /// the state still has some within its file.
    pub(super) async fn keep(
        self,
        mut storage: watch::Receiver<Storage>,
        mut shortages: watch::Receiver<u64>,
    ) {
        if self.bytes == 0 {
            return;
        }
        // A full disk is told once, not every time it is looked at.
        let mut failed = None;
        let mut blobs_are_short = false;
        loop {
            let state = *storage.borrow_and_update();
            match self.adapt(state, std::mem::take(&mut blobs_are_short)) {
                Ok(()) => failed = None,
                Err(error) if failed == Some(error.kind()) => {}
                Err(error) => {
                    tracing::warn!(file = %self.path.display(), %error, "no room is held back for a full disk");
                    failed = Some(error.kind());
                }
            }
            tokio::select! {
                changed = storage.changed() => if changed.is_err() { return },
                Ok(()) = shortages.changed() => blobs_are_short = true,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    fn adapt(&self, storage: Storage, blobs_are_short: bool) -> io::Result<()> {
        let held = fs::metadata(&self.path).map_or(0, |found| found.len());
        // Blobs may lie on another disk: this room is of no use to them there.
        let is_full = storage == Storage::Full || blobs_are_short && self.free()? < self.min_free;
        match storage {
            _ if is_full && held > 0 => {
                fs::remove_file(&self.path)?;
                tracing::warn!(
                    bytes = held,
                    "the disk is full: the room held back is given up, so that what runs can end; free some space"
                );
                Ok(())
            }
            Storage::Works if held != self.bytes && !is_full => self.take(),
            Storage::Works | Storage::Full | Storage::Fails => Ok(()),
        }
    }

    fn take(&self) -> io::Result<()> {
        // One of another size, or half of one.
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if self.free()? < self.min_free.saturating_add(self.bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        let length = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        // Written, not only promised: a file with holes holds nothing.
        posix_fallocate(&file, 0, length).map_err(|error| {
            // The error says what matters.
            let _ = fs::remove_file(&self.path);
            io::Error::from(error)
        })
    }

    fn free(&self) -> io::Result<u64> {
        let found = statvfs(self.path.parent().unwrap_or(&self.path))?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_given_up_when_the_disk_is_full_and_taken_again_later() {
        let dir = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::new(dir.path(), 2 << 20);
        let path = reserve.path.clone();
        let held = || fs::metadata(&path).map_or(0, |found| found.blocks() * 512);
        let (storage, changes) = watch::channel(Storage::Works);
        let (_shortages, none) = watch::channel(0);
        let keeping = tokio::spawn(reserve.keep(changes, none));
        let soon = || tokio::time::sleep(Duration::from_millis(1));
        soon().await;
        assert!(held() >= 1 << 20, "really on the disk: {}", held());
        storage.send_replace(Storage::Fails);
        soon().await;
        assert!(held() > 0, "more room would not help");
        storage.send_replace(Storage::Full);
        soon().await;
        assert_eq!(held(), 0);
        tokio::time::sleep(2 * LOOK_INTERVAL).await;
        assert_eq!(held(), 0, "not before facts are stored again");
        storage.send_replace(Storage::Works);
        soon().await;
        assert!(held() >= 1 << 20);
        drop(storage);
        keeping.await.expect("it ends with the coordinator");
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_is_not_there_is_not_taken_until_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut reserve = Reserve::new(dir.path(), 2 << 20);
        reserve.min_free = u64::MAX;
        assert_eq!(
            reserve.adapt(Storage::Works, false).expect_err("no room").kind(),
            io::ErrorKind::StorageFull
        );
        assert!(!reserve.path.exists());
        reserve.min_free = 0;
        reserve.adapt(Storage::Works, false).expect("room");
        reserve.bytes /= 2;
        reserve.adapt(Storage::Works, false).expect("room");
        assert_eq!(fs::metadata(&reserve.path).expect("there").len(), reserve.bytes, "another size is set");
        let (_storage, changes) = watch::channel(Storage::Works);
        Reserve::new(dir.path(), 0).keep(changes, watch::channel(0).1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn blobs_without_room_get_it_unless_they_lie_on_another_disk() {
        let dir = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::new(dir.path(), 2 << 20);
        reserve.adapt(Storage::Works, false).expect("room");
        reserve.adapt(Storage::Works, true).expect("looked");
        assert!(reserve.path.exists(), "there is room on this disk");

        // As if this disk had less.
        let reserve = Reserve { min_free: u64::MAX, ..reserve };
        let path = reserve.path.clone();
        let (_storage, works) = watch::channel(Storage::Works);
        let (short, shortages) = watch::channel(0);
        let keeping = tokio::spawn(reserve.keep(works, shortages));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(path.exists(), "nothing is short");
        short.send_modify(|count| *count += 1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!path.exists());
        drop(short);
        tokio::time::sleep(2 * LOOK_INTERVAL).await;
        assert!(!path.exists() && !keeping.is_finished(), "there is no room to hold back");
        keeping.abort();
    }

    #[test]
    fn it_is_half_of_what_must_be_free_and_never_large() {
        let bytes = |min_free| Reserve::new(Path::new("/x"), min_free).bytes;
        assert_eq!((bytes(0), bytes(2 << 20), bytes(1 << 40)), (0, 1 << 20, 32 << 20));
    }
}
