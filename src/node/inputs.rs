//! Fetches the blobs that tasks read from the coordinator and brings it what they make, each checked by its digest.

mod budget;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use self::budget::Budget;
use super::backoff::Random;
use super::held::Held;
use super::link::Link;
use super::peers::Peers;
use super::way::Way;
use crate::proto::v1::workspace_service_client::WorkspaceServiceClient;
use crate::proto::v1::{DownloadBlobsRequest, UploadBlobsRequest};
use crate::types::{Digest, NodeId};
use crate::workspace::blobs::{BlobError, BlobStore};

/// The largest blob that is held in memory: outputs of stages, plans, manifests.
const MAX_BLOB_BYTES: usize = 256 << 20;
/// Bytes of a blob in one message.
const PIECE_BYTES: usize = 256 << 10;
/// Digests in one request; 64 bytes each on the wire.
const DIGESTS_A_CALL: usize = 1_000;
/// Downloads at a time, so that a wide AGGREGATE does not flood the connection.
const DOWNLOADS_AT_A_TIME: usize = 4;

/// Why a blob could not be had or brought. The node's failure, never a tool's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InputError {
    /// The coordinator refused or was away for too long.
    #[error("blob {digest}: {} ({:?})", status.message(), status.code())]
    Call {
        /// Which blob.
        digest: Digest,
        /// The last answer.
        status: Box<Status>,
    },
    /// The bytes that came are not the blob's.
    #[error("blob {0}: the bytes that arrived do not match the digest")]
    Mismatch(Digest),
    /// The blob is too large to be held in memory.
    #[error("blob {0} is larger than 256 MiB")]
    TooLarge(Digest),
    /// It is not the JSON it should be.
    #[error("blob {digest} is not a {what}: {reason}")]
    Garbled {
        /// Which blob.
        digest: Digest,
        /// What it should be.
        what: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// The node's own disk.
    #[error("blob store of the node: {0}")]
    Store(Arc<BlobError>),
}

impl InputError {
    /// Whether the coordinator does not want the blob, and will not want it next time either: of its own accord, or because
    /// it takes longer than a transfer may. All else can be an accident on the way.
    pub(super) fn is_refusal(&self) -> bool {
        let Self::Call { status, .. } = self else { return false };
        matches!(
            status.code(),
            Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
        )
    }

    /// Whether the coordinator cannot be reached, or has failed for now.
    pub(super) fn is_absence(&self) -> bool {
        let Self::Call { status, .. } = self else { return false };
        matches!(status.code(), Code::Unavailable | Code::Aborted | Code::Unknown | Code::Cancelled)
    }
}

impl From<BlobError> for InputError {
    fn from(error: BlobError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// How often a large output looks whether its coordinator is away; see [`Inputs::bring`].
const AWAY_LOOK: Duration = Duration::from_millis(500);

/// The node's side of `WorkspaceService`; clones share what they hold and the connection.
#[derive(Clone)]
pub struct Inputs {
    client: WorkspaceServiceClient<Link>,
    shared: Arc<Shared>,
}

/// Where blobs come from and go to.
pub(super) struct Sources {
    /// The connection to the coordinator.
    pub(super) link: Link,
    /// What is here.
    pub(super) held: Held,
    /// Those who made what is needed.
    pub(super) peers: Peers,
    /// Whether the coordinator can be reached.
    pub(super) way: Way,
    /// Randomness for pauses.
    pub(super) random: Random,
}

/// A download that several tasks wait for.
type Flight = OnceCell<Arc<[u8]>>;

struct Shared {
    held: Held,
    peers: Peers,
    way: Way,
    random: Random,
    /// Outputs that came from the peers that made them.
    by_peer: AtomicU64,
    /// Downloads under way, so that two tasks never fetch one blob twice.
    flights: Mutex<HashMap<Digest, Weak<Flight>>>,
    downloads: Semaphore,
}

impl Inputs {
    /// Blobs from the coordinator and from peers.
    pub(super) fn new(sources: Sources) -> Self {
        let Sources { link, held, peers, way, random } = sources;
        let shared = Shared {
            held,
            peers,
            way,
            random,
            by_peer: AtomicU64::new(0),
            flights: Mutex::default(),
            downloads: Semaphore::new(DOWNLOADS_AT_A_TIME),
        };
        Self { client: WorkspaceServiceClient::new(link), shared: Arc::new(shared) }
    }

    /// The bytes of a blob, from what is held or the coordinator.
    pub async fn get(&self, digest: Digest) -> Result<Arc<[u8]>, InputError> {
        self.had(digest, None).await
    }

    /// The bytes of a stage's output: from what is held, the node that made it, or the coordinator.
    pub async fn made(
        &self,
        digest: Digest,
        makers: &BTreeMap<Digest, NodeId>,
    ) -> Result<Arc<[u8]>, InputError> {
        self.had(digest, makers.get(&digest)).await
    }

    /// How many outputs came from the peers that made them.
    pub fn by_peer(&self) -> u64 {
        self.shared.by_peer.load(Ordering::Relaxed)
    }

    /// Holds an output that this node made, for itself and for its peers.
    pub fn keep(&self, digest: Digest, bytes: Arc<[u8]>) {
        self.shared.held.put(digest, bytes);
    }

    async fn had(&self, digest: Digest, maker: Option<&NodeId>) -> Result<Arc<[u8]>, InputError> {
        let flight = {
            if let Some(bytes) = self.shared.held.get(&digest) {
                return Ok(bytes);
            }
            let mut flights = lock(&self.shared.flights);
            flights.retain(|_, flight| flight.strong_count() > 0);
            match flights.get(&digest).and_then(Weak::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight = Arc::new(OnceCell::new());
                    flights.insert(digest, Arc::downgrade(&flight));
                    flight
                }
            }
        };
        // If the task that fetches is revoked, the cell lets the next one that waits take over.
        let bytes = flight.get_or_try_init(|| self.download(digest, maker)).await?;
        self.shared.held.put(digest, Arc::clone(bytes));
        Ok(Arc::clone(bytes))
    }

    /// A blob that is JSON, parsed.
    pub async fn parsed<T: serde::de::DeserializeOwned>(
        &self,
        digest: Digest,
        what: &'static str,
    ) -> Result<T, InputError> {
        let bytes = self.get(digest).await?;
        serde_json::from_slice(&bytes).map_err(|error| InputError::Garbled {
            digest,
            what,
            reason: error.to_string(),
        })
    }

    async fn download(&self, digest: Digest, maker: Option<&NodeId>) -> Result<Arc<[u8]>, InputError> {
        let _turn = self.shared.downloads.acquire().await;
        if let Some(maker) = maker {
            if let Some(bytes) = self.shared.peers.fetch(maker, digest).await {
                let count = self.shared.by_peer.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::debug!(%digest, %maker, count, "output of a peer");
                return Ok(bytes);
            }
            tracing::debug!(%digest, %maker, "no output by its maker; asking the coordinator");
        }
        let mut budget = self.budget();
        loop {
            match self.download_once(digest).await {
                Err(error) => budget.spend(error).await?,
                bytes => return bytes,
            }
        }
    }

    async fn download_once(&self, digest: Digest) -> Result<Arc<[u8]>, InputError> {
        let mut bytes = Vec::new();
        self.stream(&[digest], |_, piece, _| {
            if bytes.len() + piece.len() > MAX_BLOB_BYTES {
                return Err(InputError::TooLarge(digest));
            }
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        if Digest::of(&bytes) == digest { Ok(bytes.into()) } else { Err(InputError::Mismatch(digest)) }
    }

    /// Brings the blobs into a store; those that are there are not fetched.
    pub async fn fetch_into(&self, store: &BlobStore, digests: &[Digest]) -> Result<(), InputError> {
        for part in store.missing(digests).chunks(DIGESTS_A_CALL) {
            let mut budget = self.budget();
            while let Err(error) = self.fetch_once(store, part).await {
                budget.spend(error).await?;
            }
        }
        Ok(())
    }

    async fn fetch_once(&self, store: &BlobStore, part: &[Digest]) -> Result<(), InputError> {
        // What an interrupted call has brought is not asked for again.
        let wanted = store.missing(part);
        let mut writer = None;
        self.stream(&wanted, |digest, piece, last| {
            let mut current = match writer.take() {
                Some(current) => current,
                None => store.writer(Some(digest))?,
            };
            current.write(piece)?;
            if last {
                current.finish()?;
            } else {
                writer = Some(current);
            }
            Ok(())
        })
        .await
    }

    /// Downloads blobs in order and hands over their pieces: digest, bytes, whether it is the blob's last.
    async fn stream(
        &self,
        digests: &[Digest],
        mut piece: impl FnMut(Digest, &[u8], bool) -> Result<(), InputError>,
    ) -> Result<(), InputError> {
        let mut wanted = digests.iter();
        let Some(mut current) = wanted.next() else { return Ok(()) };
        let failed = |digest: Digest| move |status| InputError::Call { digest, status: Box::new(status) };
        let request = DownloadBlobsRequest { digests: digests.iter().map(ToString::to_string).collect() };
        let mut answers =
            self.client.clone().download_blobs(request).await.map_err(failed(*current))?.into_inner();
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(failed(*current))?;
            if answer.digest != current.to_string() {
                return Err(InputError::Mismatch(*current));
            }
            piece(*current, &answer.data, answer.last)?;
            if answer.last {
                match wanted.next() {
                    Some(next) => current = next,
                    None => return Ok(()),
                }
            }
        }
        Err(failed(*current)(Status::unavailable("the download ended before the blob did")))
    }

    fn budget(&self) -> Budget<'_> {
        Budget::new(&self.shared.way, &self.shared.random)
    }

    /// Brings an output to the coordinator. If the coordinator is away it is given back, to be brought before its result
    /// is, or to be had by a peer that can reach the coordinator.
    pub(super) async fn bring(
        &self,
        digest: Digest,
        bytes: Arc<[u8]>,
    ) -> Result<Option<Arc<[u8]>>, InputError> {
        let away = async {
            loop {
                tokio::time::sleep(AWAY_LOOK).await;
                if !self.shared.way.is_open(Instant::now()) && self.shared.held.put_unsent(digest, &bytes) {
                    return;
                }
            }
        };
        tokio::select! {
            brought = self.upload(digest, Arc::clone(&bytes)) => brought.map(|()| None),
            () = away => Ok(Some(bytes.clone())),
        }
    }

    /// Brings a blob to the coordinator.
    pub async fn upload(&self, digest: Digest, bytes: Arc<[u8]>) -> Result<(), InputError> {
        let mut budget = self.budget();
        loop {
            match self.client.clone().upload_blobs(pieces(digest, Arc::clone(&bytes))).await {
                Ok(_) => return Ok(()),
                Err(status) => budget.spend(InputError::Call { digest, status: Box::new(status) }).await?,
            }
        }
    }
}

/// A blob cut into messages; an empty one is one empty piece.
fn pieces(
    digest: Digest,
    bytes: Arc<[u8]>,
) -> impl tokio_stream::Stream<Item = UploadBlobsRequest> + Send + 'static {
    let count = bytes.len().div_ceil(PIECE_BYTES).max(1);
    tokio_stream::iter((0..count).map(move |index| {
        let from = index * PIECE_BYTES;
        let to = bytes.len().min(from + PIECE_BYTES);
        let digest = if index == 0 { digest.to_string() } else { String::new() };
        UploadBlobsRequest { digest, data: bytes[from..to].to_vec() }
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds these; a poisoned lock is as good as a whole one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
