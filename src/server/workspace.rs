//! WorkspaceService: the bytes of trees, for clients and for nodes.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::service::{Service, blob_error, blocking};
use crate::proto::v1::workspace_service_server::WorkspaceService;
use crate::proto::v1::{
    DownloadBlobsRequest, DownloadBlobsResponse, FindMissingBlobsRequest, FindMissingBlobsResponse,
    UploadBlobsRequest, UploadBlobsResponse,
};
use crate::status::{ApiError, FieldViolation};
use crate::types::Digest;
use crate::workspace::blobs::{BlobStore, BlobWriter};

/// Digests in one request: with 66 bytes each on the wire, an answer that names them all stays below 1 MiB.
const MAX_DIGESTS: usize = 15_000;
/// Bytes of one downloaded piece.
const PIECE: usize = 512 * 1024;
/// For each piece of an upload to arrive.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pieces that may wait for a slow client.
const QUEUE: usize = 4;

/// The service.
pub struct Workspaces {
    service: Arc<Service>,
    callers: Callers,
}

/// Whose bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Trees of runs that are not accepted yet: refused while there is little room.
    Clients,
    /// Outputs of runs that were accepted: the room is kept for them.
    Nodes,
}

impl Workspaces {
    /// On this server's blob store.
    pub const fn new(service: Arc<Service>, callers: Callers) -> Self {
        Self { service, callers }
    }
}

/// Reads all digests, or names all that are none.
fn digests(field: &str, texts: &[String]) -> Result<Vec<Digest>, ApiError> {
    if texts.len() > MAX_DIGESTS {
        let text = format!("has {} digests; at most {MAX_DIGESTS} are allowed", texts.len());
        return Err(ApiError::invalid(field, text));
    }
    let (mut good, mut bad) = (Vec::with_capacity(texts.len()), Vec::new());
    for (index, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(digest) => good.push(digest),
            Err(error) => bad.push(FieldViolation::new(format!("{field}[{index}]"), format!("{error}"))),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(ApiError::InvalidArgument(bad)) }
}

#[tonic::async_trait]
impl WorkspaceService for Workspaces {
    type DownloadBlobsStream = ReceiverStream<Result<DownloadBlobsResponse, Status>>;

    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let asked = digests("digests", &request.into_inner().digests)?;
        // Promised before it is looked, so that nothing found can vanish in between.
        self.service.pins.promise(&self.service.blobs, &asked);
        let blobs = self.service.blobs.clone();
        let missing_digests = blocking(move || {
            let mut told = BTreeSet::new();
            blobs
                .missing(&asked)
                .into_iter()
                .filter(|digest| told.insert(*digest))
                .map(|digest| digest.to_string())
                .collect()
        })
        .await?;
        Ok(Response::new(FindMissingBlobsResponse { missing_digests }))
    }

    async fn upload_blobs(
        &self,
        request: Request<Streaming<UploadBlobsRequest>>,
    ) -> Result<Response<UploadBlobsResponse>, Status> {
        let mut pieces = request.into_inner();
        let done = UploadBlobsResponse::default();
        let mut upload = Upload { service: self.service.clone(), callers: self.callers, current: None, done };
        while let Some(piece) = next_piece(&mut pieces).await? {
            upload = blocking(move || upload.take(piece)).await??;
        }
        let done = blocking(move || upload.end()).await??;
        Ok(Response::new(done))
    }

    async fn download_blobs(
        &self,
        request: Request<DownloadBlobsRequest>,
    ) -> Result<Response<Self::DownloadBlobsStream>, Status> {
        let asked = digests("digests", &request.into_inner().digests)?;
        let blobs = self.service.blobs.clone();
        let (client, pieces) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            for digest in asked {
                if let Err(error) = send_blob(&blobs, digest, &client) {
                    // The client may have gone away; then there is nobody to tell.
                    let _ = client.blocking_send(Err(error.into()));
                    return;
                }
            }
        });
        Ok(Response::new(pieces.into()))
    }
}

/// The next piece. What has come of an upload takes room that others need, so it must not stand still.
async fn next_piece(
    pieces: &mut Streaming<UploadBlobsRequest>,
) -> Result<Option<UploadBlobsRequest>, Status> {
    let late = |_| ApiError::DeadlineExceeded { allowed: PIECE_TIMEOUT };
    tokio::time::timeout(PIECE_TIMEOUT, pieces.message()).await.map_err(late)?
}

/// Blobs that arrive piece by piece.
struct Upload {
    service: Arc<Service>,
    callers: Callers,
    current: Option<(Digest, BlobWriter)>,
    done: UploadBlobsResponse,
}

impl Upload {
    fn take(mut self, piece: UploadBlobsRequest) -> Result<Self, ApiError> {
        if !piece.digest.is_empty() {
            let digest: Digest =
                piece.digest.parse().map_err(|error| ApiError::invalid("digest", format!("{error}")))?;
            if self.current.as_ref().is_none_or(|(current, _)| *current != digest) {
                self.complete()?;
                let blobs = match self.callers {
                    Callers::Clients => {
                        self.service.takes_bytes()?;
                        &self.service.inputs
                    }
                    Callers::Nodes => &self.service.blobs,
                };
                let writer = blobs.writer(Some(digest)).map_err(blob_error)?;
                self.current = Some((digest, writer));
            }
        }
        let Some((_, writer)) = &mut self.current else {
            return Err(ApiError::invalid("digest", "is needed on the first piece of a blob"));
        };
        writer.write(&piece.data).map_err(blob_error)?;
        Ok(self)
    }

    fn complete(&mut self) -> Result<(), ApiError> {
        if let Some((digest, writer)) = self.current.take() {
            let size = writer.written();
            if self.callers == Callers::Nodes {
                // Its result comes soon, or when the node is back. Clients have asked what is missing before.
                self.service.pins.promise(&self.service.blobs, &[digest]);
            }
            writer.finish().map_err(blob_error)?;
            self.done.blobs += 1;
            self.done.bytes += size;
        }
        Ok(())
    }

    fn end(mut self) -> Result<UploadBlobsResponse, ApiError> {
        self.complete()?;
        Ok(self.done)
    }
}

fn send_blob(
    blobs: &BlobStore,
    digest: Digest,
    client: &mpsc::Sender<Result<DownloadBlobsResponse, Status>>,
) -> Result<(), ApiError> {
    let size = blobs.size(&digest).unwrap_or(0);
    let mut reader = blobs.reader(&digest).map_err(blob_error)?;
    let mut left = size;
    loop {
        let mut data = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE)).max(1)];
        let mut filled = 0;
        while filled < data.len() {
            match reader.read(&mut data[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => return Err(unreadable(digest, &error)),
            }
        }
        data.truncate(filled);
        left = left.saturating_sub(filled as u64);
        let last = left == 0 || filled == 0;
        if last {
            // The reader compares digests at the end, so a damaged blob is found, and removed, only there.
            std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| unreadable(digest, &error))?;
        }
        let piece = DownloadBlobsResponse { digest: digest.to_string(), data, last };
        if client.blocking_send(Ok(piece)).is_err() || last {
            return Ok(());
        }
    }
}

fn unreadable(digest: Digest, error: &std::io::Error) -> ApiError {
    tracing::error!(%digest, %error, "a blob cannot be read");
    ApiError::NotFound { resource_type: "blob", name: digest.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::workspace::blobs::BlobLimits;

    #[test]
    fn a_damaged_blob_is_not_sent_to_its_end_and_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let limits = BlobLimits { max_blob_bytes: 100, max_total_bytes: 100 };
        let blobs = BlobStore::open(dir.path(), limits).expect("opens");
        let digest = blobs.put(b"sound").expect("stores");
        let (client, mut pieces) = mpsc::channel(QUEUE);
        send_blob(&blobs, digest, &client).expect("sends");
        let sent = pieces.try_recv().expect("a piece").expect("no error");
        assert!(sent.data == b"sound" && sent.last);

        let (folder, name) = (digest.to_string()[..2].to_owned(), digest.to_string()[2..].to_owned());
        let path = dir.path().join(folder).join(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("allows");
        std::fs::write(&path, "awful").expect("damages");
        let refused = send_blob(&blobs, digest, &client).expect_err("damaged");
        assert!(matches!(refused, ApiError::NotFound { .. }), "{refused}");
        assert!(pieces.try_recv().is_err(), "no piece that says it is the last");
        assert!(!blobs.contains(&digest), "so that it can be sent anew");
    }
}
