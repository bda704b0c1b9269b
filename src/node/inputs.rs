//! Fetches the blobs that tasks read from the coordinator and brings it what they make, each checked by its digest.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

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
/// Tries while the coordinator is away: with the pauses between them they outlast a restart of it (20 to 41 seconds).
/// An attempt's own timeout bounds them too.
const TRIES_WHILE_AWAY: u32 = 13;
/// Tries when what arrived was damaged.
const TRIES_WHEN_DAMAGED: u32 = 3;
/// The pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
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
        Budget { spent: 1, random: &self.shared.random }
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

/// The tries of one transfer.
struct Budget<'a> {
    spent: u32,
    random: &'a Random,
}

impl Budget<'_> {
    /// Waits before the next try, or gives the error back if there is none left for its kind.
    async fn spend(&mut self, error: InputError) -> Result<(), InputError> {
        if self.spent >= tries(&error) {
            return Err(error);
        }
        tracing::debug!(%error, tries = self.spent, "trying again");
        let pause = pause(self.spent, (self.random)());
        self.spent += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The pause after so many tries: doubled up to the longest, at least half of it, so that the budget lasts.
fn pause(spent: u32, random: f64) -> Duration {
    let ceiling =
        FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(spent.saturating_sub(1))).min(LONGEST_PAUSE);
    ceiling.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// How often the same transfer may be tried when it ends like this.
fn tries(error: &InputError) -> u32 {
    match error {
        // The coordinator is away or busy: what a task made is worth waiting for it.
        InputError::Call { status, .. } => match status.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::Unknown | Code::Cancelled => {
                TRIES_WHILE_AWAY
            }
            _ => 1,
        },
        // Damaged on the way, or kept damaged: more tries will not tell.
        InputError::Mismatch(_) => TRIES_WHEN_DAMAGED,
        InputError::Store(error) if matches!(**error, BlobError::DigestMismatch { .. }) => TRIES_WHEN_DAMAGED,
        InputError::Store(_) | InputError::TooLarge(_) | InputError::Garbled { .. } => 1,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds these; a poisoned lock is as good as a whole one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(code: Code) -> InputError {
        InputError::Call { digest: Digest::of(b""), status: Box::new(Status::new(code, "no")) }
    }

    #[test]
    fn only_what_may_go_better_is_tried_again() {
        assert_eq!(tries(&call(Code::Unavailable)), TRIES_WHILE_AWAY);
        assert_eq!(tries(&InputError::Mismatch(Digest::of(b""))), TRIES_WHEN_DAMAGED);
        for code in [Code::NotFound, Code::InvalidArgument, Code::Unauthenticated, Code::DeadlineExceeded] {
            assert_eq!(tries(&call(code)), 1, "{code:?}");
        }
    }

    #[test]
    fn the_tries_outlast_a_restart_of_the_coordinator_but_not_for_ever() {
        let total = |random| (1..TRIES_WHILE_AWAY).map(|spent| pause(spent, random)).sum::<Duration>();
        assert!(total(0.0) >= Duration::from_secs(20), "{:?}", total(0.0));
        assert!(total(1.0) <= Duration::from_secs(60), "{:?}", total(1.0));
    }
}
