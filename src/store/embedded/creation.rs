//! Makes a state file as a whole: whatever happens, there is none or a good one.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use redb::backends::FileBackend;
use tempfile::NamedTempFile;

use super::begin;
use super::contain::{Failure, contained};
use super::layout::Head;
use crate::store::StoreError;

/// Makes the file, and its folder, if it is not there. Only its owner may read it.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(refused("read", path, source)),
    }
    let folder = folder(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| refused("make", folder, source))?;
    let made = new_beside(path)?;
    let backend = made.reopen().map_err(|source| refused("make", path, source))?;
    let began = contained(|| Ok(begin(FileBackend::new(backend)?, Head::default())?.close()?));
    began.map_err(|failure| failure.on_opening(path))?;
    match made.persist_noclobber(path) {
        Ok(_) => sync(folder),
        // Another process was faster, and may have swept this one's away; which of them has it, its lock will tell.
        Err(_) if fs::symlink_metadata(path).is_ok() => Ok(()),
        Err(error) => Err(refused("make", path, error.error)),
    }
}

/// An empty file that can be moved to that path. Gone again when it is dropped.
pub(super) fn new_beside(path: &Path) -> Result<NamedTempFile, StoreError> {
    // It is made for its owner only.
    tempfile::Builder::new()
        .prefix(&prefix(path))
        .tempfile_in(folder(path))
        .map_err(|source| refused("make", path, source))
}

/// Removes what processes left that were killed while they made a file. For who has the state: nobody else needs one any
/// more.
pub(super) fn sweep(path: &Path) {
    let prefix = prefix(path);
    let Ok(entries) = fs::read_dir(folder(path)) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(file = %entry.path().display(), %error, "a file of no use is left");
        }
    }
}

/// How the names begin of files that are being made.
fn prefix(path: &Path) -> String {
    format!("{}.new-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Makes the names in a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| refused("write", folder, source))
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

pub(super) fn refused(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists => StoreError::Denied { action, path: path.to_owned(), source },
        _ => Failure::Io(source).on_opening(path),
    }
}
