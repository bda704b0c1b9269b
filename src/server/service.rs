//! What all services of a server share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::counts::Counts;
use super::health_hub::HealthHub;
use super::metrics;
use super::needed::Pinned;
use super::outputs::Unstored;
use super::pins::Pins;
use super::room::{ROOM_RETRY, Room};
use crate::config::Settings;
use crate::engine::{Handle, Storage};
use crate::linters::adapters;
use crate::linters::toolchain::ToolchainMode;
use crate::middleware::request_id::RandomBits;
use crate::middleware::rpc_metrics::RpcMetrics;
use crate::status::ApiError;
use crate::types::{RunId, ToolName, UnixMillis};
use crate::workspace::blobs::{BlobError, BlobStore};

/// When a client that came to a server that stops may try again: another one may have taken its place then.
const STOPPING_RETRY: Duration = Duration::from_secs(5);

/// The same where the state cannot be stored: it is tried again all the time.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// How a coordinator treats trees that are read where they are. By default it reads none, and runs no code of any tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreePolicy {
    /// The roots beneath which paths may be named.
    pub allowed_roots: Vec<PathBuf>,
    /// Whether configuration that runs code of the tree may be used.
    pub allow_tree_code: bool,
    /// Whether the nodes see this machine's files; otherwise trees are shipped to them.
    pub nodes_share_files: bool,
    /// Whether requests may name an interpreter by its path.
    pub allow_interpreter_paths: bool,
}

/// What all services share.
pub struct Service {
    /// The coordinator.
    pub engine: Handle,
    /// The bytes.
    pub blobs: BlobStore,
    /// The same for what clients bring: it leaves room for what their runs make.
    pub inputs: BlobStore,
    /// The settings.
    pub settings: Settings,
    /// What trees may be read where.
    pub trees: TreePolicy,
    /// Where the linters come from, for the report.
    pub toolchain_mode: Option<ToolchainMode>,
    /// Randomness for ids.
    pub random: RandomBits,
    /// What was refused, and what passed.
    pub counts: Counts,
    /// How long calls take and how they end.
    pub calls: Arc<RpcMetrics>,
    /// Measures the mesh's health for all who watch it.
    pub health: HealthHub,
    /// Ends when the server is asked to stop: it takes no new runs, and lets those that are open end.
    pub draining: CancellationToken,
    /// Ends when that is done; open streams end with it.
    pub stopping: CancellationToken,
    /// The blobs that runs and clients need.
    pub pins: Pins,
    /// Results that wait for room.
    pub unstored: Unstored,
    /// Whether facts outlive the process: then the blobs they refer to must, too.
    pub is_durable: bool,
    room: Option<Room>,
}

/// What the services of a server are made of.
pub struct Parts {
    /// See [`Service`].
    pub engine: Handle,
    /// See [`Service`].
    pub blobs: BlobStore,
    /// What of the blobs the state needs.
    pub pinned: Pinned,
    /// See [`Service`].
    pub settings: Settings,
    /// See [`Service`].
    pub trees: TreePolicy,
    /// See [`Service`].
    pub toolchain_mode: Option<ToolchainMode>,
    /// See [`Service`].
    pub random: RandomBits,
    /// See [`Service`].
    pub draining: CancellationToken,
    /// The room that new runs need; none if facts do not outlive the process.
    pub room: Option<Room>,
}

impl Service {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { engine, blobs, pinned, settings, trees, toolchain_mode, random, draining, room } = parts;
        let health = HealthHub::new(engine.clone(), Self::tools(), engine.now().wall);
        let inputs = blobs.within(settings.workspace.max_input_bytes());
        Arc::new(Self {
            engine,
            blobs,
            inputs,
            settings,
            trees,
            toolchain_mode,
            random,
            counts: Counts::default(),
            calls: RpcMetrics::new(metrics::methods()),
            health,
            draining,
            stopping: CancellationToken::new(),
            pins: Pins::resumed(pinned),
            unstored: Unstored::default(),
            is_durable: room.is_some(),
            room,
        })
    }

    /// Refuses a new run while the server drains, or while it could not be stored.
    pub async fn takes_runs(&self) -> Result<(), ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::Unavailable {
                reason: "SERVER_STOPPING",
                message: "the server stops and takes no new runs".into(),
                retry: STOPPING_RETRY,
            });
        }
        self.stores_facts()?;
        match self.room.clone() {
            Some(room) => blocking(move || room.check()).await?,
            None => Ok(()),
        }
    }

    /// Refuses bytes of clients while there would be no room for a run of them. Blocks.
    pub fn takes_bytes(&self) -> Result<(), ApiError> {
        self.stores_facts()?;
        self.room.as_ref().map_or(Ok(()), Room::check)
    }

    /// Refuses what has to be stored while nothing can be. Whoever asks the core then waits until that is over.
    pub fn stores_facts(&self) -> Result<(), ApiError> {
        match self.engine.storage() {
            Storage::Works => Ok(()),
            Storage::Full => Err(ApiError::DiskFull {
                what: "runs",
                setting: "state.dir",
                shortage: None,
                retry: ROOM_RETRY,
            }),
            Storage::Fails => Err(ApiError::Unavailable {
                reason: "STATE_STORE_FAILED",
                message:
                    "the state cannot be stored now, so no run can be accepted; the server's log says why"
                        .into(),
                retry: STORE_RETRY,
            }),
        }
    }

    /// The names of all linters, sorted.
    pub fn tools() -> Vec<ToolName> {
        let mut tools: Vec<_> =
            adapters().iter().filter_map(|adapter| ToolName::new(adapter.name()).ok()).collect();
        tools.sort();
        tools
    }

    /// A new run id: sorts by time, and cannot be guessed.
    pub fn new_run_id(&self, at: UnixMillis) -> RunId {
        let text = format!("run-{:011x}-{:010x}", at.0, (self.random)() & 0xff_ffff_ffff);
        RunId::new(&text).unwrap_or_else(|error| unreachable!("made by the rule: {error}"))
    }
}

/// What to answer when the blob store fails.
pub fn blob_error(error: BlobError) -> ApiError {
    let later = ROOM_RETRY;
    match error {
        BlobError::Missing(digest) => ApiError::NotFound { resource_type: "blob", name: digest.to_string() },
        BlobError::DigestMismatch { .. } | BlobError::TooLarge { .. } => {
            ApiError::invalid("data", error.to_string())
        }
        BlobError::Full { limit, .. } => {
            ApiError::ResourceExhausted { what: "bytes in the blob store", limit, retry: later }
        }
        BlobError::DiskFull { place } => {
            tracing::error!(place, "there is no space left for blobs");
            let (what, setting) = ("blobs", "workspace.blob_dir");
            ApiError::DiskFull { what, setting, shortage: None, retry: ROOM_RETRY }
        }
        BlobError::InUse { .. } | BlobError::Io { .. } => {
            tracing::error!(%error, "blob store");
            ApiError::Unavailable {
                reason: "BLOB_STORE_FAILED",
                message: "the blob store failed".into(),
                retry: later,
            }
        }
    }
}

/// What to answer when the coordinator has stopped.
pub fn stopped(_: crate::engine::Stopped) -> ApiError {
    ApiError::Unavailable {
        reason: "COORDINATOR_STOPPED",
        message: "the coordinator has stopped".into(),
        retry: Duration::from_secs(1),
    }
}

/// Runs file work where it may block.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    // What it logs belongs to the call.
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(|error| {
        tracing::error!(%error, "a blocking task failed");
        ApiError::Internal { request_id: String::new() }
    })
}
