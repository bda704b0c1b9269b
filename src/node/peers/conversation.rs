//! One bulk connection between two nodes, alike at both ends: stage outputs on request, and results that are passed on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{FromPeer, Shared, lock};
use crate::middleware::refusals::{FLOOD, MALFORMED, SENDER_MISMATCH, WRONG_RECEIVER};
use crate::node::envelope::COORDINATOR;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::Digest;
use crate::wire::peer::{AttemptResult, attempt_of};

/// Bytes of an output in one message.
const PIECE_BYTES: usize = 256 << 10;
/// The largest output that is taken from a peer.
const MAX_OUTPUT_BYTES: usize = 256 << 20;
/// After so long without a byte of an output, the coordinator's copy is asked for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// The longest that an output of a peer may take, however steadily it comes.
const PEER_DEADLINE: Duration = Duration::from_secs(30);
/// Requests for outputs that may wait; a piece of an output waits for whoever asked for it.
const REQUESTS: usize = 16;
const PIECES: usize = 4;

/// Where messages for the peer go: up the connection that this node dialled, or down the one that it answers.
pub(super) enum Outlet {
    Dialled(mpsc::Sender<pb::ExchangeRequest>),
    Answering(mpsc::Sender<Result<pb::ExchangeResponse, Status>>),
}

/// The connection as those see it who want something of the peer.
pub(in crate::node) struct Conversation {
    shared: Arc<Shared>,
    peer: String,
    outlet: Outlet,
    /// Outputs that somebody here waits for.
    wanted: Mutex<BTreeMap<Digest, mpsc::Sender<pb::StageOutputPiece>>>,
    requests: mpsc::Sender<Digest>,
    ended: CancellationToken,
}

/// What the peer wants of this node; served by [`Conversation::serve`].
pub(super) struct Requests(mpsc::Receiver<Digest>);

/// No longer waited for when it is dropped.
struct Wanted<'a> {
    conversation: &'a Conversation,
    digest: Digest,
    pieces: mpsc::Receiver<pb::StageOutputPiece>,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        lock(&self.conversation.wanted).remove(&self.digest);
    }
}

impl Conversation {
    pub(super) fn new(shared: Arc<Shared>, peer: String, outlet: Outlet) -> (Arc<Self>, Requests) {
        let (requests, asked) = mpsc::channel(REQUESTS);
        let conversation = Self {
            shared,
            peer,
            outlet,
            wanted: Mutex::default(),
            requests,
            ended: CancellationToken::new(),
        };
        (Arc::new(conversation), Requests(asked))
    }

    /// Nobody waits for anything on it any more.
    pub(super) fn end(&self) {
        self.ended.cancel();
        lock(&self.wanted).clear();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The node at the other end.
    pub(in crate::node) fn peer(&self) -> &str {
        &self.peer
    }

    /// Sends a message of this node if there is room for it at once; a peer that does not read is not waited for.
    pub(in crate::node) fn try_say(&self, payload: Payload) {
        let batch = self.batch("", payload);
        let bytes = batch.encoded_len();
        let has_left = !self.has_ended()
            && match &self.outlet {
                Outlet::Dialled(requests) => {
                    let message = Some(pb::exchange_request::Message::Batch(batch));
                    requests.try_send(pb::ExchangeRequest { message }).is_ok()
                }
                Outlet::Answering(answers) => {
                    let message = Some(pb::exchange_response::Message::Batch(batch));
                    answers.try_send(Ok(pb::ExchangeResponse { message })).is_ok()
                }
            };
        if has_left && self.is_dialled() {
            self.shared.moved(&self.peer, bytes, 0);
        }
    }

    fn batch(&self, origin: &str, payload: Payload) -> pb::MessageBatch {
        let message = self.shared.own.envelope.pass_on(origin, &self.peer, payload);
        pb::MessageBatch { messages: vec![message] }
    }

    /// Sends a message of this node; `origin` is whom it is from if this node passes it on. Answers whether it left.
    pub(in crate::node) async fn say(&self, origin: &str, payload: Payload) -> bool {
        let batch = self.batch(origin, payload);
        let bytes = batch.encoded_len();
        let sending = async {
            match &self.outlet {
                Outlet::Dialled(requests) => {
                    let message = Some(pb::exchange_request::Message::Batch(batch));
                    requests.send(pb::ExchangeRequest { message }).await.is_ok()
                }
                Outlet::Answering(answers) => {
                    let message = Some(pb::exchange_response::Message::Batch(batch));
                    answers.send(Ok(pb::ExchangeResponse { message })).await.is_ok()
                }
            }
        };
        let has_left = self.ended.run_until_cancelled(sending).await == Some(true);
        if has_left && self.is_dialled() {
            self.shared.moved(&self.peer, bytes, 0);
        }
        has_left
    }

    /// Asks for an output and checks it. Nothing: it is not there, or did not come in time, or other bytes came.
    pub(in crate::node) async fn fetch(&self, digest: Digest) -> Option<Arc<[u8]>> {
        timeout(PEER_DEADLINE, self.fetched(digest)).await.ok()?
    }

    async fn fetched(&self, digest: Digest) -> Option<Arc<[u8]>> {
        let (sender, pieces) = mpsc::channel(PIECES);
        if self.has_ended() || lock(&self.wanted).insert(digest, sender).is_some() {
            return None;
        }
        let mut wanted = Wanted { conversation: self, digest, pieces };
        let request = pb::StageOutputRequest { digest: digest.to_string() };
        let kind = Some(pb::result_share::Kind::OutputRequest(request));
        let asked = self.say("", Payload::ResultShare(pb::ResultShare { kind }));
        if !timeout(PATIENCE, asked).await.unwrap_or(false) {
            return None;
        }
        let mut bytes = Vec::new();
        loop {
            let piece = timeout(PATIENCE, wanted.pieces.recv()).await.ok()??;
            if piece.missing || bytes.len() + piece.data.len() > MAX_OUTPUT_BYTES {
                return None;
            }
            // One that brings nothing only keeps others waiting.
            if piece.data.is_empty() && !piece.last {
                self.refuse(MALFORMED);
                return None;
            }
            bytes.extend_from_slice(&piece.data);
            if piece.last {
                break;
            }
        }
        if Digest::of(&bytes) == digest {
            return Some(bytes.into());
        }
        self.refuse(MALFORMED);
        None
    }

    /// Sends what the peer asks for, beside whatever else is said, so that two nodes that ask each other never wait for
    /// each other to read.
    pub(super) async fn serve(&self, Requests(mut asked): Requests) {
        while let Some(digest) = asked.recv().await {
            let Some(bytes) = self.shared.own.held.get(&digest) else {
                if !self.piece(pb::StageOutputPiece { missing: true, ..head(&digest) }).await {
                    return;
                }
                continue;
            };
            let count = bytes.len().div_ceil(PIECE_BYTES).max(1);
            for index in 0..count {
                let from = index * PIECE_BYTES;
                let to = bytes.len().min(from + PIECE_BYTES);
                let data = bytes[from..to].to_vec();
                let piece = pb::StageOutputPiece { data, last: index + 1 == count, ..head(&digest) };
                if !self.piece(piece).await {
                    return;
                }
            }
        }
    }

    async fn piece(&self, piece: pb::StageOutputPiece) -> bool {
        let kind = Some(pb::result_share::Kind::OutputPiece(piece));
        self.say("", Payload::ResultShare(pb::ResultShare { kind })).await
    }

    /// Does what a message of the peer says.
    pub(super) async fn receive(self: &Arc<Self>, message: pb::MeshMessage) {
        if message.sender_id != self.peer {
            return self.refuse(SENDER_MISMATCH);
        }
        if message.receiver_id != self.shared.own.node.as_str() {
            return self.refuse(WRONG_RECEIVER);
        }
        let origin = message.origin_id;
        match message.payload {
            Some(Payload::ResultShare(pb::ResultShare { kind: Some(kind) })) => {
                self.result(origin, kind).await
            }
            Some(Payload::TaskAssignment(pb::TaskAssignment {
                kind: Some(pb::task_assignment::Kind::Reject(reject)),
            })) if origin.is_empty() && self.is_dialled() => match attempt_of(reject.attempt.as_ref()) {
                Ok(attempt) => self.tell(FromPeer::TurnedDown(self.peer.clone(), attempt)),
                Err(_) => self.refuse(MALFORMED),
            },
            _ => self.refuse(MALFORMED),
        }
    }

    async fn result(self: &Arc<Self>, origin: String, kind: pb::result_share::Kind) {
        match kind {
            pb::result_share::Kind::OutputRequest(request) if origin.is_empty() => {
                match request.digest.parse() {
                    Ok(digest) if self.requests.try_send(digest).is_ok() => {}
                    Ok(_) => self.refuse(FLOOD),
                    Err(_) => self.refuse(MALFORMED),
                }
            }
            pb::result_share::Kind::OutputPiece(piece) if origin.is_empty() => {
                let Ok(digest) = piece.digest.parse::<Digest>() else { return self.refuse(MALFORMED) };
                let wanted = lock(&self.wanted).get(&digest).cloned();
                if let Some(pieces) = wanted {
                    // Whoever waited may have given up meanwhile.
                    let _ = pieces.send(piece).await;
                }
            }
            // A node hands on its own results only, and takes only the coordinator's acknowledgements.
            pb::result_share::Kind::Result(result) if origin == self.peer && !self.is_dialled() => {
                match AttemptResult::from_proto(result) {
                    Ok(result) if result.executor.as_str() == self.peer => {
                        self.tell(FromPeer::Result(Box::new(result), Arc::clone(self)));
                    }
                    Ok(_) => self.refuse(SENDER_MISMATCH),
                    Err(_) => self.refuse(MALFORMED),
                }
            }
            pb::result_share::Kind::Ack(ack) if origin == COORDINATOR && self.is_dialled() => {
                match attempt_of(ack.attempt.as_ref()) {
                    Ok(attempt) => self.tell(FromPeer::Acknowledged(self.peer.clone(), attempt)),
                    Err(_) => self.refuse(MALFORMED),
                }
            }
            _ => self.refuse(SENDER_MISMATCH),
        }
    }

    /// Whether this node opened it: to have its results passed on, not to pass on those of the peer.
    const fn is_dialled(&self) -> bool {
        matches!(self.outlet, Outlet::Dialled(_))
    }

    /// The peer said more than a node may.
    pub(super) fn flooded(&self) {
        self.refuse(FLOOD);
    }

    /// Hands on what is for the rest of the node. If that has too much to do, the peer tries again.
    fn tell(&self, what: FromPeer) {
        if self.shared.own.from_peers.try_send(what).is_err() {
            tracing::debug!(peer = self.peer, "too much to pass on; dropped");
        }
    }

    fn refuse(&self, reason: &'static str) {
        let count = self.shared.refusals.count(reason);
        tracing::warn!(peer = %self.peer.escape_debug(), reason, count, "a message of a peer was refused");
    }
}

fn head(digest: &Digest) -> pb::StageOutputPiece {
    pb::StageOutputPiece { digest: digest.to_string(), ..Default::default() }
}

#[cfg(test)]
pub(super) mod tests;
