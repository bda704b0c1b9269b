//! Blobs on their way in, piece by piece.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status};

use super::Callers;
use crate::proto::v1::{UploadBlobsRequest, UploadBlobsResponse};
use crate::server::pins::Owner;
use crate::server::service::{Service, blob_error, blocking};
use crate::status::ApiError;
use crate::types::Digest;
use crate::workspace::blobs::BlobWriter;

/// Bytes of one piece.
const MAX_PIECE: usize = 1 << 20;
/// What has come of an upload takes room that others need, so it must not stand still: it brings at least so many bytes...
const LEAST: u64 = 64 << 10;
/// ...whenever the server has waited so long for them.
const WITHIN: Duration = Duration::from_secs(60);

/// Takes an upload to its end.
pub(super) async fn take(
    service: Arc<Service>,
    owner: Owner,
    mut pieces: impl Stream<Item = Result<UploadBlobsRequest, Status>> + Unpin,
) -> Result<UploadBlobsResponse, Status> {
    let mut upload = Upload { service, owner, current: None, done: UploadBlobsResponse::default() };
    let mut pace = Pace::default();
    loop {
        let mut since = Instant::now();
        let left = pace.left().ok_or_else(too_slow)?;
        let next = timeout(left, pieces.next()).await.map_err(|_| too_slow())?;
        let Some(piece) = next.transpose()? else { break };
        let bytes = piece.data.len();
        if bytes > 0 {
            // What the disk needs is not the client's time. That of pieces without bytes is: nothing else bounds them.
            pace.passed(since.elapsed());
        }
        upload = blocking(move || upload.take(piece)).await??;
        if bytes > 0 {
            since = Instant::now();
        }
        pace.passed(since.elapsed());
        pace.brought(bytes as u64);
    }
    Ok(blocking(move || upload.end()).await??)
}

/// How an upload gets on.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// How much longer may be waited; none if it was long enough.
    fn left(&self) -> Option<Duration> {
        WITHIN.checked_sub(self.waited).filter(|left| !left.is_zero())
    }

    fn passed(&mut self, time: Duration) {
        self.waited = self.waited.saturating_add(time);
    }

    fn brought(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= LEAST {
            *self = Self::default();
        }
    }
}

fn too_slow() -> ApiError {
    let seconds = WITHIN.as_secs();
    ApiError::Protocol {
        code: Code::DeadlineExceeded,
        reason: "UPLOAD_TOO_SLOW",
        message: format!(
            "an upload must bring at least {LEAST} bytes in each {seconds} s; blobs that were complete are stored, \
             upload the others again"
        ),
        metadata: vec![("least_bytes", LEAST.to_string()), ("within_seconds", seconds.to_string())],
    }
}

/// Blobs that arrive piece by piece.
struct Upload {
    service: Arc<Service>,
    owner: Owner,
    current: Option<(Digest, BlobWriter)>,
    done: UploadBlobsResponse,
}

impl Upload {
    fn take(mut self, piece: UploadBlobsRequest) -> Result<Self, ApiError> {
        if piece.data.len() > MAX_PIECE {
            let text = format!("has {} bytes; a piece may have at most {MAX_PIECE}", piece.data.len());
            return Err(ApiError::invalid("data", text));
        }
        let mut begins = None;
        if !piece.digest.is_empty() {
            let digest: Digest =
                piece.digest.parse().map_err(|error| ApiError::invalid("digest", format!("{error}")))?;
            if self.current.as_ref().is_none_or(|(current, _)| *current != digest) {
                // It stays, whatever becomes of the next.
                self.complete()?;
                begins = Some(digest);
            }
        }
        let blobs = match self.owner.0 {
            Callers::Clients => {
                // Before each piece: a blob that was begun while there was room may be larger than that.
                self.service.takes_bytes()?;
                &self.service.inputs
            }
            Callers::Nodes => &self.service.blobs,
        };
        if let Some(digest) = begins {
            self.current = Some((digest, blobs.writer(Some(digest)).map_err(blob_error)?));
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
            if self.owner.0 == Callers::Nodes {
                // Its result comes soon, or when the node is back. Clients have asked what is missing before.
                self.service.pins.promise(self.owner.clone(), &self.service.blobs, &[digest])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_in_so_long_are_enough_and_fewer_are_not() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            pace.passed(WITHIN - Duration::from_millis(1));
            assert_eq!(pace.left(), Some(Duration::from_millis(1)));
            pace.brought(LEAST);
        }
        for _ in 0..59 {
            pace.passed(Duration::from_secs(1));
            pace.brought(LEAST / 60);
        }
        assert_eq!(pace.left(), Some(Duration::from_secs(1)));
        pace.passed(Duration::from_secs(1));
        assert_eq!(pace.left(), None);
    }
}
