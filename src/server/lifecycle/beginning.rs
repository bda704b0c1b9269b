//! What a coordinator does before anybody can call it: it takes up what the one before left.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{StartError, storage};
use crate::coordinator::decision::Reply;
use crate::coordinator::input::Input;
use crate::engine::{EngineError, Handle, Stopped, Storage};
use crate::server::needed::{Needed, Pinned};
use crate::store::StoreError;
use crate::types::NodeSpec;
use crate::workspace::blobs::BlobStore;

/// How long the store may take to be closed if the start fails.
const CLOSING_BOUND: Duration = Duration::from_secs(2);

/// Keeps what the state needs, ends the runs that cannot go on, and declares the nodes. A start that fails ends the
/// coordinator: nobody could see it wait for a store without room, nor tell it to stop.
pub(super) async fn begin(
    running: JoinHandle<Result<(), EngineError>>,
    engine: &Handle,
    blobs: &BlobStore,
    nodes: Vec<NodeSpec>,
    state_dir: Option<&Path>,
) -> Result<(Pinned, JoinHandle<Result<(), EngineError>>), StartError> {
    let failed = tokio::select! {
        biased;
        begun = take_up(engine, blobs, nodes) => match begun {
            Ok(pinned) => return Ok((pinned, running)),
            Err(error) => error,
        },
        () = full(engine.storage_changes()) => {
            let place = state_dir.map_or_else(|| "memory".to_owned(), |dir| dir.display().to_string());
            StartError::Engine(StoreError::Full { place }.into())
        }
    };
    if !matches!(failed, StartError::Stopped(Stopped)) {
        running.abort();
        // Whoever starts it again wants to find it closed.
        let _ = tokio::time::timeout(CLOSING_BOUND, engine.store_closed()).await;
        return Err(failed);
    }
    Err(match running.await {
        Ok(Err(error)) => StartError::Engine(error),
        Ok(Ok(())) | Err(_) => failed,
    })
}

async fn take_up(engine: &Handle, blobs: &BlobStore, nodes: Vec<NodeSpec>) -> Result<Pinned, StartError> {
    // Before anything can be dropped.
    let needed = engine.query(|core, _| Needed::by(core.state())).await?;
    let mut pinned = storage::pin(blobs, needed).await?;
    for (run, reason) in std::mem::take(&mut pinned.lost) {
        tracing::warn!(%run, "the run is ended: {reason}");
        engine.decide(Input::CancelRun { run, reason }).await?;
    }
    // The mesh is what configuration declares, before anybody can ask.
    if let Reply::Refused(refusal) = engine.decide(Input::Configure(nodes)).await? {
        tracing::error!(%refusal, "the nodes that configuration declares are not taken");
    }
    Ok(pinned)
}

/// Completes when there is no room for facts. A coordinator that has stopped tells why itself.
async fn full(mut storage: watch::Receiver<Storage>) {
    let is_stopped = storage.wait_for(|storage| *storage == Storage::Full).await.is_err();
    if is_stopped {
        std::future::pending::<()>().await;
    }
}
