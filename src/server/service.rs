//! What all services of a server share.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::counts::Counts;
use super::health_hub::HealthHub;
use super::metrics;
use crate::config::Settings;
use crate::coordinator::run::Run;
use crate::engine::Handle;
use crate::linters::adapters;
use crate::linters::toolchain::ToolchainMode;
use crate::middleware::request_id::RandomBits;
use crate::middleware::rpc_metrics::RpcMetrics;
use crate::status::ApiError;
use crate::types::{Digest, RunId, ToolName, UnixMillis};
use crate::workspace::blobs::{BlobError, BlobStore, Pin};

/// How long blobs that a client asked about stay, so that it has time to upload the rest and start its run.
pub const SNAPSHOT_KEPT: Duration = Duration::from_secs(600);

/// How many blobs are promised at a time, one asked about twice counted twice; the oldest promises are broken first.
const MAX_PROMISED: usize = 1_000_000;

/// When a client that came to a server that stops may try again: another one may have taken its place then.
const STOPPING_RETRY: Duration = Duration::from_secs(5);

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
    pins: Mutex<Pins>,
}

#[derive(Default)]
struct Pins {
    /// What runs hold that had not ended when it was last looked.
    open: BTreeMap<RunId, Vec<Pin>>,
    /// The results of those that had.
    results: BTreeMap<RunId, Pin>,
    /// Whether runs were started since it was last looked: only then are older ones forgotten.
    has_started: bool,
    promises: VecDeque<Promise>,
    /// Blobs in all promises together.
    promised: usize,
}

struct Promise {
    until: Instant,
    blobs: usize,
    _pin: Pin,
}

impl Pins {
    /// Breaks the promises that are over, and the oldest of the others until there is room for so many blobs.
    fn make_room(&mut self, blobs: usize, now: Instant) {
        while let Some(oldest) = self.promises.front()
            && (oldest.until <= now || self.promised.saturating_add(blobs) > MAX_PROMISED)
        {
            self.promised -= oldest.blobs;
            self.promises.pop_front();
        }
    }
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
        draining: CancellationToken,
    ) -> Arc<Self> {
        let health = HealthHub::new(engine.clone(), Self::tools(), engine.now().wall);
        Arc::new(Self {
            engine,
            blobs,
            settings,
            trees,
            toolchain_mode,
            random,
            counts: Counts::default(),
            calls: RpcMetrics::new(metrics::methods()),
            health,
            draining,
            stopping: CancellationToken::new(),
            pins: Mutex::default(),
        })
    }

    /// Refuses a new run while the server drains.
    pub fn takes_runs(&self) -> Result<(), ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::Unavailable {
                reason: "SERVER_STOPPING",
                message: "the server stops and takes no new runs".into(),
                retry: STOPPING_RETRY,
            });
        }
        Ok(())
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
        if digests.is_empty() {
            return;
        }
        let promise = Promise {
            until: Instant::now() + SNAPSHOT_KEPT,
            blobs: digests.len(),
            _pin: self.blobs.pin(digests.iter().copied()),
        };
        let mut pins = self.lock();
        pins.make_room(promise.blobs, Instant::now());
        pins.promised += promise.blobs;
        pins.promises.push_back(promise);
    }

    /// Keeps blobs for as long as a run that has started needs them.
    pub fn keep_for(&self, run: &RunId, pins: impl IntoIterator<Item = Pin>) {
        let mut held = self.lock();
        held.has_started |= !held.open.contains_key(run);
        held.open.entry(run.clone()).or_default().extend(pins);
    }

    /// Lets go of what ended runs no longer need: all but their results; of everything of forgotten runs; and of
    /// promises that are over. Looks only at what may have changed since the last time.
    pub async fn release_ended(&self) {
        let (held, kept) = {
            let mut pins = self.lock();
            pins.make_room(0, Instant::now());
            let held: Vec<RunId> = pins.open.keys().cloned().collect();
            let kept: Vec<RunId> = match std::mem::take(&mut pins.has_started) {
                true => pins.results.keys().cloned().collect(),
                false => Vec::new(),
            };
            (held, kept)
        };
        if held.is_empty() && kept.is_empty() {
            return;
        }
        let (ended, forgotten) = self
            .engine
            .query(move |core, _| {
                let runs = &core.state().runs;
                let result = |id: &RunId| {
                    let ending = runs.get(id)?.ending.as_ref()?;
                    Some(ending.result.as_ref()?.output.digest)
                };
                let ended = held.into_iter().filter(|id| !runs.get(id).is_some_and(Run::is_open));
                let forgotten = kept.into_iter().filter(|id| !runs.contains_key(id));
                (ended.map(|id| (result(&id), id)).collect::<Vec<_>>(), forgotten.collect::<Vec<_>>())
            })
            .await
            .unwrap_or_default();
        for (result, run) in ended {
            let kept = result.map(|digest| self.blobs.pin([digest]));
            let mut pins = self.lock();
            // Only now: the result is in it, and must be held without a gap.
            pins.open.remove(&run);
            if let Some(kept) = kept {
                pins.results.insert(run, kept);
            }
        }
        let mut pins = self.lock();
        for run in forgotten {
            pins.results.remove(&run);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::blobs::BlobLimits;

    #[tokio::test(start_paused = true)]
    async fn promises_end_by_time_and_the_oldest_are_broken_for_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let limits = BlobLimits { max_blob_bytes: 100, max_total_bytes: 100 };
        let blobs = BlobStore::open(dir.path(), limits).expect("opens");
        let mut pins = Pins::default();
        let now = Instant::now();
        for (blobs_in_it, seconds) in [(400_000, 1), (600_000, 2)] {
            let until = now + Duration::from_secs(seconds);
            pins.promises.push_back(Promise { until, blobs: blobs_in_it, _pin: blobs.pin([]) });
            pins.promised += blobs_in_it;
        }
        pins.make_room(0, now);
        assert_eq!((pins.promises.len(), pins.promised), (2, 1_000_000), "full, and nothing is over");
        pins.make_room(1, now);
        assert_eq!((pins.promises.len(), pins.promised), (1, 600_000));
        pins.make_room(0, now + Duration::from_secs(2));
        assert_eq!((pins.promises.len(), pins.promised), (0, 0));
    }
}
