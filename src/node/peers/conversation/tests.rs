use tokio::time::Instant;

use super::super::Peers;
use super::*;
use crate::node::testing::{node_id, peers};

const PEER: &str = "api-docs";

/// A conversation that a peer opened, and that sends to `answers`.
pub(in crate::node) fn answering(
    peers: &Peers,
    peer: &str,
    answers: mpsc::Sender<Result<pb::ExchangeResponse, Status>>,
) -> Arc<Conversation> {
    Conversation::new(Arc::clone(&peers.shared), peer.to_owned(), Outlet::Answering(answers)).0
}

fn piece(digest: Digest, data: &[u8], last: bool) -> pb::MeshMessage {
    let piece = pb::StageOutputPiece { data: data.to_vec(), last, ..head(&digest) };
    let kind = Some(pb::result_share::Kind::OutputPiece(piece));
    pb::MeshMessage {
        sender_id: PEER.into(),
        receiver_id: node_id().to_string(),
        payload: Some(Payload::ResultShare(pb::ResultShare { kind })),
        ..Default::default()
    }
}

/// Fetches an output of which a byte or nothing comes just before patience ends, so many times and then the last one.
async fn fetched(data: &[u8], count: usize) -> (Option<Arc<[u8]>>, Duration) {
    let (answers, _said) = mpsc::channel(8);
    let conversation = answering(&peers(), PEER, answers);
    let digest = Digest::of(&data.repeat(count));
    let peer = async {
        for number in 1..=count {
            tokio::time::sleep(PATIENCE * 9 / 10).await;
            conversation.receive(piece(digest, data, number == count)).await;
        }
        std::future::pending::<()>().await;
    };
    let started = Instant::now();
    tokio::select! {
        bytes = conversation.fetch(digest) => (bytes, started.elapsed()),
        () = peer => unreachable!("it waits for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_keeps_an_output_coming_without_end_is_given_up() {
    let (bytes, took) = fetched(b"x", 10).await;
    assert_eq!((bytes.as_deref(), took), (Some([b'x'; 10].as_slice()), PATIENCE * 9));
    let (bytes, took) = fetched(b"x", 1_000).await;
    assert_eq!((bytes, took), (None, PEER_DEADLINE));
    let (bytes, took) = fetched(b"", 10).await;
    assert_eq!((bytes, took), (None, PATIENCE * 9 / 10), "a piece of nothing is no progress");
    let (bytes, _) = fetched(b"", 1).await;
    assert_eq!(bytes.as_deref(), Some([].as_slice()), "but an empty output is one");
}
