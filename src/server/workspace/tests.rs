//! Callers that are slow, or ask for too much.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_stream::{Stream, StreamExt as _};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::server::service::testing::Rig;

fn owner() -> Owner {
    (Callers::Clients, Caller::Unknown)
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("details").reason
}

fn piece(digest: &str, bytes: usize) -> UploadBlobsRequest {
    UploadBlobsRequest { digest: digest.to_owned(), data: vec![7; bytes] }
}

/// Pieces, each so long after the one before.
fn each_after(
    pause: Duration,
    pieces: impl IntoIterator<Item = UploadBlobsRequest>,
) -> impl Stream<Item = Result<UploadBlobsRequest, Status>> + Unpin {
    let pieces: Vec<_> = pieces.into_iter().collect();
    Box::pin(tokio_stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok(piece)
    }))
}

/// The digest of a blob of [`piece`]s.
fn digest(bytes: usize) -> String {
    Digest::of(&vec![7; bytes]).to_string()
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_brings_next_to_nothing_is_ended_and_a_slow_one_is_not() {
    let rig = Rig::start(1 << 24);
    let begun = tokio::time::Instant::now();
    for bytes in [0, 1] {
        let drip = std::iter::once(piece(&digest(1000), bytes)).chain((0..1000).map(|_| piece("", bytes)));
        let drip = each_after(Duration::from_secs(5), drip);
        let ended = upload::take(rig.service.clone(), owner(), drip).await.expect_err("too slow");
        assert_eq!((ended.code(), reason(&ended)), (Code::DeadlineExceeded, "UPLOAD_TOO_SLOW".to_owned()));
        assert!(ended.message().contains("65536 bytes in each 60 s"), "{}", ended.message());
    }
    assert!(begun.elapsed() <= Duration::from_secs(125), "{:?}", begun.elapsed());

    let (pieces, size) = (100, 64 << 10);
    let slow =
        std::iter::once(piece(&digest(pieces * size), size)).chain((1..pieces).map(|_| piece("", size)));
    let slow = each_after(Duration::from_secs(55), slow);
    let done = upload::take(rig.service.clone(), owner(), slow).await.expect("it brings something");
    assert_eq!((done.blobs, done.bytes), (1, (pieces * size) as u64));
}

#[tokio::test]
async fn room_is_looked_for_at_each_piece_and_the_room_of_a_piece_is_bounded() {
    let rig = Rig::start(1 << 24);
    let free = rig.free.clone();
    let pieces = vec![piece(&digest(3000), 1000), piece("", 1000), piece("", 1000)];
    let mut left = 3;
    let pieces = tokio_stream::iter(pieces).map(move |piece| {
        // The blob itself takes the room.
        left -= 1;
        free.store(left, Ordering::SeqCst);
        Ok(piece)
    });
    let refused = upload::take(rig.service.clone(), owner(), pieces).await.expect_err("no room");
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "DISK_FULL".to_owned()));
    assert_eq!(rig.service.blobs.total_bytes(), 0, "nothing is left of it");
    // Outputs of runs that were accepted have their room.
    let node = (Callers::Nodes, Caller::Unknown);
    let output = tokio_stream::iter([Ok(piece(&digest(10), 10))]);
    upload::take(rig.service.clone(), node, output).await.expect("taken");

    rig.free.store(u64::MAX, Ordering::SeqCst);
    for (bytes, fits) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let pieces = tokio_stream::iter([Ok(piece(&digest(bytes), bytes))]);
        let taken = upload::take(rig.service.clone(), owner(), pieces).await;
        assert_eq!(taken.is_ok(), fits, "{bytes}: {taken:?}");
        if let Err(refused) = taken {
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(
                refused.message().contains("1048577") && refused.message().contains("1048576"),
                "{refused}"
            );
        }
    }
}

/// More than may wait for a reader.
const LARGE: usize = 4 << 20;

async fn opened(rig: &Rig, digest: Digest) -> ReceiverStream<Result<DownloadBlobsResponse, Status>> {
    let request = DownloadBlobsRequest { digests: vec![digest.to_string()] };
    let service = Workspaces::new(rig.service.clone(), Callers::Clients);
    service.download_blobs(Request::new(request)).await.expect("a stream").into_inner()
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_ended_and_one_that_takes_its_time_is_not() {
    let rig = Rig::start(1 << 24);
    let digest = rig.service.blobs.put(&vec![7; LARGE]).expect("stored");
    let patience = rig.service.settings.mesh.message_timeout;
    let (mut stalled, mut slow) = (opened(&rig, digest).await, opened(&rig, digest).await);
    let (mut bytes, mut ended) = (0, false);
    while let Some(piece) = slow.next().await {
        let piece = piece.expect("it reads");
        bytes += piece.data.len();
        ended |= piece.last;
        tokio::time::sleep(patience - Duration::from_secs(1)).await;
    }
    assert_eq!((bytes, ended), (LARGE, true));
    let mut told = Vec::new();
    while let Some(piece) = stalled.next().await {
        told.push(piece);
    }
    let last = told.pop().expect("something").expect_err("it has read nothing for long");
    assert_eq!((last.code(), reason(&last)), (Code::Aborted, "SLOW_CONSUMER".to_owned()));
    assert!(
        told.iter().all(|piece| piece.as_ref().is_ok_and(|piece| !piece.last)),
        "what was queued is told"
    );
}

#[test]
fn readers_that_stall_hold_no_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let rig = Rig::start(1 << 24);
        let digest = rig.service.blobs.put(&vec![7; LARGE]).expect("stored");
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut stream = opened(&rig, digest).await;
            stream.next().await.expect("it has begun").expect("no error");
            stalled.push(stream);
        }
        let other = tokio::time::timeout(Duration::from_secs(30), blocking(|| "done")).await;
        assert_eq!(other.expect("there is a thread for it"), Ok("done"));
    });
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_about_stays_for_ten_minutes_whatever_others_bring() {
    let rig = Rig::start(100);
    let service = Workspaces::new(rig.service.clone(), Callers::Clients);
    let asked = rig.service.blobs.put(&[1; 60]).expect("stored");
    let request = FindMissingBlobsRequest { digests: vec![asked.to_string(), Digest::of(b"no").to_string()] };
    let answer = service.find_missing_blobs(Request::new(request)).await.expect("answered").into_inner();
    assert_eq!(answer.missing_digests, [Digest::of(b"no").to_string()]);

    let mut number = 0_u32;
    // Each needs the room of another.
    let mut bring = async || {
        number += 1;
        let bytes = number.to_le_bytes().repeat(10);
        let digest = Digest::of(&bytes).to_string();
        let pieces = tokio_stream::iter([Ok(UploadBlobsRequest { digest, data: bytes })]);
        upload::take(rig.service.clone(), owner(), pieces).await.expect("there is room");
        // As whenever anything happens in the mesh.
        rig.service.pins.release(&rig.service.engine, &rig.service.blobs).await;
    };
    for _ in 0..599 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bring().await;
        assert!(rig.service.blobs.contains(&asked), "promised");
    }
    tokio::time::sleep(Duration::from_millis(1001)).await;
    rig.service.pins.release(&rig.service.engine, &rig.service.blobs).await;
    // Twice 40 fit beside nothing else.
    bring().await;
    bring().await;
    assert!(!rig.service.blobs.contains(&asked), "the promise is over");
}
