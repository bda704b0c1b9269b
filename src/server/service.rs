//! What all services of a server share.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::engine::Handle;
use crate::linters::adapters;
use crate::linters::toolchain::ToolchainMode;
use crate::middleware::request_id::RandomBits;
use crate::status::ApiError;
use crate::types::{Digest, RunId, ToolName, UnixMillis};
use crate::workspace::blobs::{BlobError, BlobStore, Pin};

/// How long blobs that a client asked about stay, so that it has time to upload the rest and start its run.
pub const SNAPSHOT_KEPT: Duration = Duration::from_secs(600);

/// How many such promises are kept at a time; the oldest is broken first.
const MAX_PROMISES: usize = 1000;

/// How a coordinator treats trees that are read where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The settings.
    pub settings: Settings,
    /// What trees may be read where.
    pub trees: TreePolicy,
    /// Where the linters come from, for the report.
    pub toolchain_mode: Option<ToolchainMode>,
    /// Randomness for ids.
    pub random: RandomBits,
    /// Ends when the server stops; open streams end with it.
    pub stopping: CancellationToken,
    pins: Mutex<Pins>,
}

#[derive(Default)]
struct Pins {
    runs: BTreeMap<RunId, Vec<Pin>>,
    promised: VecDeque<(Instant, Pin)>,
}

impl Service {
    /// Joins the parts.
    pub fn new(
        engine: Handle,
        blobs: BlobStore,
        settings: Settings,
        trees: TreePolicy,
        toolchain_mode: Option<ToolchainMode>,
        random: RandomBits,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        let pins = Mutex::default();
        Arc::new(Self { engine, blobs, settings, trees, toolchain_mode, random, stopping, pins })
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

    /// Keeps blobs that a client asked about for a while.
    pub fn promise(&self, digests: &[Digest]) {
        let pin = self.blobs.pin(digests.iter().copied());
        let now = Instant::now();
        let mut pins = self.lock();
        while pins.promised.front().is_some_and(|(until, _)| *until <= now)
            || pins.promised.len() >= MAX_PROMISES
        {
            pins.promised.pop_front();
        }
        pins.promised.push_back((now + SNAPSHOT_KEPT, pin));
    }

    /// Keeps blobs for as long as a run that has started needs them.
    pub fn keep_for(&self, run: &RunId, pins: impl IntoIterator<Item = Pin>) {
        self.lock().runs.entry(run.clone()).or_default().extend(pins);
    }

    /// Lets go of what ended runs no longer need: all but their results; and of everything of forgotten runs.
    pub async fn release_ended(&self) {
        let held: Vec<RunId> = self.lock().runs.keys().cloned().collect();
        let ended = self
            .engine
            .query(move |core, _| {
                held.into_iter()
                    .filter_map(|id| match core.state().runs.get(&id) {
                        Some(run) if run.is_open() => None,
                        Some(run) => {
                            let ending = run.ending.as_ref();
                            let result = ending.and_then(|ending| ending.result.as_ref());
                            Some((id, result.map(|result| result.output.digest)))
                        }
                        None => Some((id, None)),
                    })
                    .collect::<Vec<_>>()
            })
            .await
            .unwrap_or_default();
        for (run, result) in ended {
            let kept: Vec<Pin> = result.map(|digest| self.blobs.pin([digest])).into_iter().collect();
            let mut pins = self.lock();
            if kept.is_empty() {
                pins.runs.remove(&run);
            } else {
                pins.runs.insert(run, kept);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to answer when the blob store fails.
pub fn blob_error(error: BlobError) -> ApiError {
    let later = Duration::from_secs(30);
    match error {
        BlobError::Missing(digest) => ApiError::NotFound { resource_type: "blob", name: digest.to_string() },
        BlobError::DigestMismatch { .. } | BlobError::TooLarge { .. } => {
            ApiError::invalid("data", error.to_string())
        }
        BlobError::Full { limit, .. } => {
            ApiError::ResourceExhausted { what: "bytes in the blob store", limit, retry: later }
        }
        BlobError::DiskFull { .. } => ApiError::DiskFull { retry: later },
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
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a blocking task failed");
        ApiError::Internal { request_id: String::new() }
    })
}
