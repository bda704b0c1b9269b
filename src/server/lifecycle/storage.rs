//! Where a server keeps bytes, and the room that must be there.

use std::path::{Path, PathBuf};

use tokio::task::JoinError;

use super::StartError;
use crate::config::Settings;
use crate::server::needed::{Needed, Pinned};
use crate::server::room::{FreeBytes, Place, Room};
use crate::workspace::blobs::{BlobError, BlobLimits, BlobStore, LocalObjects};

/// Opens the blob store. What is too much stays until what is needed is pinned.
pub(super) async fn open(dir: &Path, settings: &Settings) -> Result<BlobStore, StartError> {
    let workspace = &settings.workspace;
    let limits =
        BlobLimits { max_blob_bytes: workspace.max_blob_bytes, max_total_bytes: workspace.max_store_bytes };
    let (place, dir) = (dir.display().to_string(), dir.to_owned());
    let opened = tokio::task::spawn_blocking(move || BlobStore::load(LocalObjects::open(&dir)?, limits));
    Ok(opened.await.map_err(|error| failed(place, error))??)
}

/// Pins what is needed, then drops what is too much.
pub(super) async fn pin(blobs: &BlobStore, needed: Needed) -> Result<Pinned, StartError> {
    let blobs = blobs.clone();
    let pinned = tokio::task::spawn_blocking(move || {
        let pinned = needed.pin(&blobs);
        blobs.trim();
        pinned
    });
    Ok(pinned.await.map_err(|error| failed("its blobs".to_owned(), error))?)
}

fn failed(place: String, error: JoinError) -> BlobError {
    BlobError::Io { place, source: std::io::Error::other(error) }
}

/// The room that new runs need in the folders of the state and of the blobs.
pub(super) fn room(state_dir: PathBuf, blob_dir: PathBuf, needed: u64, free: FreeBytes) -> Room {
    let state = Place { dir: state_dir, what: "runs", setting: "state.dir" };
    let blobs = Place { dir: blob_dir, what: "blobs", setting: "workspace.blob_dir" };
    Room::new(vec![state, blobs], needed, free)
}
