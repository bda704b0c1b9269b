//! Blobs on their way out.

use std::io::Read as _;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::proto::v1::DownloadBlobsResponse;
use crate::server::service::{Service, blob_error, blocking};
use crate::status::ApiError;
use crate::types::Digest;
use crate::workspace::blobs::{BlobReader, BlobStore};

/// Bytes of one piece. A reader takes one at a time, so it must be small for one that is slow to be seen to read at all.
const PIECE: usize = 128 * 1024;
/// Bytes that are read at a time, from one blob or from several small ones: each time another thread does it.
const AT_ONCE: usize = 512 * 1024;
/// Pieces that may wait for a slow client.
const QUEUE: usize = 4;

type Told = Result<DownloadBlobsResponse, Status>;

/// Streams blobs in the order asked for. No thread is held while a reader takes its time, and one that takes nothing for
/// the message timeout is ended.
pub(super) fn stream(service: &Arc<Service>, asked: Vec<Digest>) -> ReceiverStream<Told> {
    // One place is kept for the word that ends the stream.
    let (client, pieces) = mpsc::channel(QUEUE + 1);
    let Ok(last) = client.clone().try_reserve_owned() else { unreachable!("nothing is queued yet") };
    let (reading, service) = (Reading::new(service.blobs.clone(), asked), service.clone());
    tokio::spawn(async move {
        if let Err(error) = send_all(reading, &service, &client).await {
            last.send(Err(error.into()));
        }
    });
    pieces.into()
}

/// Until all is sent, or the client is gone.
async fn send_all(
    mut reading: Reading,
    service: &Service,
    client: &mpsc::Sender<Told>,
) -> Result<(), ApiError> {
    let patience = service.settings.mesh.message_timeout;
    loop {
        let (back, read) = blocking(move || {
            let read = reading.next();
            (reading, read)
        })
        .await?;
        reading = back;
        if read.pieces.is_empty() && read.error.is_none() {
            return Ok(());
        }
        for piece in read.pieces {
            match timeout(patience, client.send(Ok(piece))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    tracing::info!("a reader of DownloadBlobs is too slow; ended");
                    return Err(ApiError::Aborted {
                        reason: "SLOW_CONSUMER",
                        message: format!(
                            "nothing was read for {} s; ask again for the blobs whose last piece did not arrive",
                            patience.as_secs_f64()
                        ),
                        metadata: Vec::new(),
                    });
                }
            }
        }
        read.error.map_or(Ok(()), Err)?;
    }
}

/// Blobs that are read piece by piece.
struct Reading {
    blobs: BlobStore,
    asked: std::vec::IntoIter<Digest>,
    current: Option<Current>,
}

/// The blob that is being read.
struct Current {
    digest: Digest,
    reader: BlobReader,
    /// Bytes that are to come.
    left: u64,
}

/// What was read: pieces, then perhaps an error.
#[derive(Default)]
struct Pieces {
    pieces: Vec<DownloadBlobsResponse>,
    error: Option<ApiError>,
}

impl Reading {
    fn new(blobs: BlobStore, asked: Vec<Digest>) -> Self {
        Self { blobs, asked: asked.into_iter(), current: None }
    }

    /// The next pieces; none at the end. Blocks.
    fn next(&mut self) -> Pieces {
        let mut read = Pieces::default();
        let mut bytes = 0;
        while bytes < AT_ONCE {
            match self.piece() {
                Ok(Some(piece)) => {
                    // Many empty ones must not pass for few.
                    bytes += piece.data.len().max(PIECE / 64);
                    read.pieces.push(piece);
                }
                Ok(None) => break,
                Err(error) => {
                    read.error = Some(error);
                    break;
                }
            }
        }
        read
    }

    fn piece(&mut self) -> Result<Option<DownloadBlobsResponse>, ApiError> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                let Some(digest) = self.asked.next() else { return Ok(None) };
                let left = self.blobs.size(&digest).unwrap_or(0);
                Current { digest, reader: self.blobs.reader(&digest).map_err(blob_error)?, left }
            }
        };
        let Current { digest, reader, left } = &mut current;
        let digest = *digest;
        let mut data = vec![0; PIECE.min(usize::try_from(*left).unwrap_or(PIECE)).max(1)];
        let mut filled = 0;
        while filled < data.len() {
            match reader.read(&mut data[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => return Err(unreadable(digest, &error)),
            }
        }
        data.truncate(filled);
        *left = left.saturating_sub(filled as u64);
        let last = *left == 0 || filled == 0;
        if last {
            // The reader compares digests at the end, so a damaged blob is found, and removed, only there.
            std::io::copy(reader, &mut std::io::sink()).map_err(|error| unreadable(digest, &error))?;
        } else {
            self.current = Some(current);
        }
        Ok(Some(DownloadBlobsResponse { digest: digest.to_string(), data, last }))
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
        let read = Reading::new(blobs.clone(), vec![digest]).next();
        let [piece] = &read.pieces[..] else { panic!("one piece: {:?}", read.pieces) };
        assert!(piece.data == b"sound" && piece.last && read.error.is_none());

        let (folder, name) = (digest.to_string()[..2].to_owned(), digest.to_string()[2..].to_owned());
        let path = dir.path().join(folder).join(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("allows");
        std::fs::write(&path, "awful").expect("damages");
        let refused = Reading::new(blobs.clone(), vec![digest]).next();
        assert!(matches!(refused.error, Some(ApiError::NotFound { .. })), "{:?}", refused.error);
        assert!(refused.pieces.is_empty(), "no piece that says it is the last");
        assert!(!blobs.contains(&digest), "so that it can be sent anew");
    }

    #[test]
    fn pieces_come_in_order_and_what_was_read_before_a_missing_blob_is_sent() {
        let dir = tempfile::tempdir().expect("a folder");
        let limits = BlobLimits { max_blob_bytes: 4 << 20, max_total_bytes: 4 << 20 };
        let blobs = BlobStore::open(dir.path(), limits).expect("opens");
        let large: Vec<u8> = (0..AT_ONCE + PIECE + 1).map(|at| (at % 251) as u8).collect();
        let digests = [blobs.put(b"").expect("stores"), blobs.put(&large).expect("stores")];
        let asked = vec![digests[0], digests[1], Digest::of(b"missing"), digests[0]];
        let mut reading = Reading::new(blobs, asked);
        let (mut told, mut turns) = (Vec::new(), 0);
        let error = loop {
            let read = reading.next();
            turns += 1;
            told.extend(read.pieces);
            if let Some(error) = read.error {
                break error;
            }
        };
        assert!(matches!(error, ApiError::NotFound { .. }), "{error}");
        assert!(turns >= 2, "it is not read at once");
        assert!(told.iter().all(|piece| piece.data.len() <= PIECE));
        let lasts: Vec<_> =
            told.iter().filter(|piece| piece.last).map(|piece| piece.digest.clone()).collect();
        assert_eq!(lasts, digests.map(|digest| digest.to_string()));
        let bytes: Vec<u8> = told.into_iter().flat_map(|piece| piece.data).collect();
        assert_eq!(bytes, large);
    }
}
