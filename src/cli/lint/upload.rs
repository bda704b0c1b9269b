//! Ships a tree to a server: asks what it misses and streams that, in bounded memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::cli::connect::Connection;
use crate::cli::reconnect::{self, Outage};
use crate::proto::v1::{FindMissingBlobsRequest, UploadBlobsRequest};
use crate::types::{Digest, Manifest};

/// Bytes in a piece; the protocol allows 1 MiB for a whole message.
const PIECE: usize = 512 * 1024;

/// Pieces read ahead of the network.
const PIECES_AHEAD: usize = 4;

/// Digests in one question: with 66 bytes each on the wire, 10,000 stay below 1 MiB.
const DIGESTS_IN_A_QUESTION: usize = 10_000;

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Blobs the server did not have.
    pub(super) blobs: usize,
    /// How often the upload had to be taken up again.
    pub(super) retries: u32,
}

/// Makes the server hold the manifest and all files of the tree at `root`. An upload that broke is taken up again; what
/// arrived before is not sent again.
pub(super) async fn upload(
    connection: &Connection,
    root: &Path,
    manifest: &Manifest,
    patience: Duration,
    mut notice: impl FnMut(&str),
) -> anyhow::Result<Sent> {
    let mut sources: BTreeMap<Digest, Source> =
        manifest.files().iter().map(|file| (file.digest, Source::File(file.path.under(root)))).collect();
    let bytes = manifest.canonical_bytes();
    sources.insert(Digest::of(&bytes), Source::Bytes(bytes));
    let mut sent = Sent::default();
    let mut outage = Outage::new(Some(patience));
    // Blobs that were missing when the server was last asked.
    let mut missing = usize::MAX;
    loop {
        let before = missing;
        let outcome = attempt(connection, &sources, &mut missing, &mut sent).await?;
        // A server that has more than before was not away all the time.
        if (outcome.is_ok() || missing < before)
            && let Some(lasted) = outage.holds(Instant::now())
        {
            notice(&reconnect::connected_again(lasted));
        }
        let Err(status) = outcome else { return Ok(sent) };
        let trouble = reconnect::trouble(&status);
        let retry = reconnect::may_pass(&status)
            .then(|| outage.broke(Instant::now(), reconnect::BROKE, &trouble, reconnect::random()));
        let Some(retry) = retry.flatten() else {
            return Err(anyhow::Error::new(status).context("uploading the tree"));
        };
        if let Some(text) = retry.notice {
            notice(&text);
        }
        tokio::time::sleep(retry.pause).await;
        sent.retries += 1;
    }
}

/// One pass. The outer error is local (a file cannot be read), the inner one is the server's answer.
async fn attempt(
    connection: &Connection,
    sources: &BTreeMap<Digest, Source>,
    count: &mut usize,
    sent: &mut Sent,
) -> anyhow::Result<Result<(), Status>> {
    let missing = match missing(connection, sources).await {
        Ok(missing) if missing.is_empty() => return Ok(Ok(())),
        Ok(missing) => missing,
        Err(status) => return Ok(Err(status)),
    };
    *count = missing.len();
    let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
    let reader = tokio::spawn(send_all(missing, pieces));
    let answer = connection.workspace().upload_blobs(ReceiverStream::new(stream)).await;
    // The reader ends as soon as the call does: its channel is closed then.
    let read = reader.await.context("reading the tree")?;
    match answer {
        Ok(_) => {
            read?;
            sent.blobs += *count;
            Ok(Ok(()))
        }
        // A file that cannot be read any more ends the stream early; that, not the answer, is the cause.
        Err(status) => read.map(|()| Err(status)),
    }
}

async fn missing(
    connection: &Connection,
    sources: &BTreeMap<Digest, Source>,
) -> Result<Vec<(Digest, Source)>, Status> {
    let mut client = connection.workspace();
    let mut missing = Vec::new();
    let digests: Vec<&Digest> = sources.keys().collect();
    for some in digests.chunks(DIGESTS_IN_A_QUESTION) {
        let digests = some.iter().map(ToString::to_string).collect();
        let answer = client.find_missing_blobs(FindMissingBlobsRequest { digests }).await?.into_inner();
        for text in answer.missing_digests {
            let known = text.parse::<Digest>().ok().and_then(|digest| sources.get_key_value(&digest));
            let Some((digest, source)) = known else {
                return Err(Status::data_loss(format!(
                    "the server misses `{text}`, which was not asked for"
                )));
            };
            missing.push((*digest, source.clone()));
        }
    }
    Ok(missing)
}

/// Sends the blobs one after the other. A closed channel is no error: the call has ended and says why itself.
async fn send_all(
    blobs: Vec<(Digest, Source)>,
    pieces: mpsc::Sender<UploadBlobsRequest>,
) -> anyhow::Result<()> {
    for (digest, source) in blobs {
        let sent = match source {
            Source::Bytes(bytes) => send(digest, bytes.as_slice(), &pieces).await,
            Source::File(path) => {
                let changed = || format!("{} changed while it was being uploaded", path.display());
                let file = tokio::fs::File::open(&path).await.with_context(changed)?;
                send(digest, file, &pieces).await.with_context(changed)
            }
        };
        if !sent? {
            break;
        }
    }
    Ok(())
}

/// Whether there is still someone to send to.
async fn send(
    digest: Digest,
    mut source: impl tokio::io::AsyncRead + Unpin,
    pieces: &mpsc::Sender<UploadBlobsRequest>,
) -> anyhow::Result<bool> {
    let mut first = true;
    loop {
        let mut data = Vec::with_capacity(PIECE);
        (&mut source).take(PIECE as u64).read_to_end(&mut data).await?;
        if data.is_empty() && !first {
            return Ok(true);
        }
        let last = data.len() < PIECE;
        let digest = if first { digest.to_string() } else { String::new() };
        if pieces.send(UploadBlobsRequest { digest, data }).await.is_err() {
            return Ok(false);
        }
        if last {
            return Ok(true);
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pieces_of(bytes: &[u8]) -> Vec<UploadBlobsRequest> {
        let (sender, mut receiver) = mpsc::channel(64);
        assert!(send(Digest::of(bytes), bytes, &sender).await.expect("memory can be read"));
        drop(sender);
        let mut pieces = Vec::new();
        while let Some(piece) = receiver.recv().await {
            pieces.push(piece);
        }
        pieces
    }

    #[tokio::test]
    async fn a_blob_travels_in_bounded_pieces_and_an_empty_one_in_one() {
        for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let bytes = vec![7_u8; size];
            let pieces = pieces_of(&bytes).await;
            assert_eq!(pieces.len(), size.div_ceil(PIECE).max(1), "{size} bytes");
            assert_eq!(pieces[0].digest, Digest::of(&bytes).to_string());
            assert!(pieces[1..].iter().all(|piece| piece.digest.is_empty()));
            assert_eq!(pieces.concat_data(), bytes);
        }
    }

    #[tokio::test]
    async fn a_file_that_vanished_is_named() {
        let (sender, _receiver) = mpsc::channel(1);
        let gone = Source::File("/nonexistent/a.py".into());
        let error = send_all(vec![(Digest::of(b""), gone)], sender).await.expect_err("no such file");
        assert!(error.to_string().contains("/nonexistent/a.py changed"), "{error}");
    }

    trait ConcatData {
        fn concat_data(&self) -> Vec<u8>;
    }

    impl ConcatData for Vec<UploadBlobsRequest> {
        fn concat_data(&self) -> Vec<u8> {
            self.iter().flat_map(|piece| piece.data.clone()).collect()
        }
    }
}
