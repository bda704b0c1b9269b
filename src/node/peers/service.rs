//! PeerService: answers the peers that dial this node.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::conversation::{Conversation, Outlet};
use super::{Shared, lock};
use crate::middleware::refusals::{FLOOD, LINK_REFUSED, MALFORMED, SENDER_MISMATCH, WRONG_RECEIVER};
use crate::middleware::token_bucket::{MESSAGES, TokenBucket};
use crate::node::agent::PROTOCOL;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::proto::peer::v1::peer_service_server::PeerService;
use crate::status::ApiError;
use crate::types::Incarnation;

/// For the first message of a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers that wait to be sent.
const QUEUE: usize = 16;

type Answers = mpsc::Sender<Result<pb::ExchangeResponse, Status>>;

/// The service.
pub(super) struct Answering {
    shared: Arc<Shared>,
}

impl Answering {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Reads and checks the first message; answers until when the link may stand.
    async fn admit(
        &self,
        presented: &str,
        messages: &mut Streaming<pb::ExchangeRequest>,
    ) -> Result<(pb::PeerHello, CancellationToken), ApiError> {
        let expected = |text: &str| {
            protocol(Code::InvalidArgument, "HELLO_EXPECTED", format!("the first message {text}"))
        };
        let first = tokio::time::timeout(HELLO_TIMEOUT, messages.message())
            .await
            .map_err(|_| expected("did not arrive in time"))?
            .map_err(|_| expected("is not readable"))?;
        let Some(pb::exchange_request::Message::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(expected("must be PeerHello"));
        };
        // Before anything else is told: strangers learn nothing.
        let incarnation = Incarnation(hello.incarnation);
        let admitted = lock(&self.shared.admissions).check(&hello.node_id, incarnation, presented);
        let Some(until) = admitted else {
            let text = "this link is not on the roster here, or its secret is another";
            return Err(protocol(Code::Unauthenticated, LINK_REFUSED, text.to_owned()));
        };
        let own = &self.shared.own;
        if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL.1) {
            let text = format!("this node speaks {}; run nodes of one release", PROTOCOL.1);
            return Err(protocol(Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED", text));
        }
        if hello.mesh_id != own.mesh_id
            || hello.receiver_id != own.node.as_str()
            || hello.receiver_incarnation != own.incarnation.0
        {
            let text = format!("this is `{}`, process start {}", own.node, own.incarnation.0);
            return Err(protocol(Code::FailedPrecondition, WRONG_RECEIVER, text));
        }
        if hello.purpose() == pb::LinkPurpose::Unspecified {
            return Err(expected("must say what the connection is for"));
        }
        Ok((hello, until))
    }
}

#[tonic::async_trait]
impl PeerService for Answering {
    type ExchangeStream = ReceiverStream<Result<pb::ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let presented = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let presented =
            presented.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
        let mut messages = request.into_inner();
        let (hello, until) = self.admit(&presented, &mut messages).await.map_err(|error| {
            let count = self.shared.refusals.count(error.reason());
            tracing::debug!(reason = error.reason(), count, "a peer was refused: {error}");
            Status::from(error)
        })?;
        let (answers, receiver) = mpsc::channel(QUEUE);
        let welcome = pb::exchange_response::Message::Welcome(pb::PeerWelcome { protocol: PROTOCOL.1 });
        // The queue is empty, so this cannot wait.
        let _ = answers.try_send(Ok(pb::ExchangeResponse { message: Some(welcome) }));
        let purpose = hello.purpose();
        let line = Line { shared: self.shared.clone(), peer: hello.node_id };
        let stop = self.shared.own.stop.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                () = stop.cancelled() => None,
                () = until.cancelled() => {
                    let text = "this link is not on the roster any more";
                    Some(protocol(Code::Unauthenticated, LINK_REFUSED, text.to_owned()))
                }
                end = line.carry(purpose, messages, &answers) => end,
            };
            if let Some(error) = end {
                // One that reads nothing is not told; its connection ends all the same.
                let _ = answers.try_send(Err(error.into()));
            }
        });
        Ok(Response::new(receiver.into()))
    }
}

/// One connection of a peer.
struct Line {
    shared: Arc<Shared>,
    peer: String,
}

impl Line {
    /// Carries the connection until it ends; the error is for the peer.
    async fn carry(
        &self,
        purpose: pb::LinkPurpose,
        messages: Streaming<pb::ExchangeRequest>,
        answers: &Answers,
    ) -> Option<ApiError> {
        if purpose != pb::LinkPurpose::Bulk {
            return self.answer(messages, answers, None).await;
        }
        let outlet = Outlet::Answering(answers.clone());
        let (conversation, requests) = Conversation::new(self.shared.clone(), self.peer.clone(), outlet);
        lock(&self.shared.answering).insert(self.peer.clone(), Arc::downgrade(&conversation));
        let end = tokio::select! {
            end = self.answer(messages, answers, Some(&conversation)) => end,
            () = conversation.serve(requests) => None,
        };
        conversation.end();
        lock(&self.shared.answering).retain(|_, open| open.strong_count() > 0);
        end
    }

    /// Answers until the connection ends; the error is for the peer.
    async fn answer(
        &self,
        mut messages: Streaming<pb::ExchangeRequest>,
        answers: &Answers,
        conversation: Option<&Arc<Conversation>>,
    ) -> Option<ApiError> {
        let mut bucket = TokenBucket::new(MESSAGES, Instant::now());
        loop {
            let request = tokio::select! {
                () = answers.closed() => return None,
                request = messages.message() => match request {
                    Ok(Some(request)) => request,
                    Ok(None) | Err(_) => return None,
                },
            };
            let batch = match request.message {
                Some(pb::exchange_request::Message::Batch(batch)) => batch.messages,
                _ => vec![pb::MeshMessage::default()],
            };
            for _ in 0..batch.len().max(1) {
                if !bucket.take(Instant::now()) {
                    self.refuse(FLOOD);
                    let text = "the connection brought more messages than a node may send";
                    return Some(protocol(Code::ResourceExhausted, FLOOD, text.to_owned()));
                }
            }
            if let Some(conversation) = conversation {
                for message in batch {
                    conversation.receive(message).await;
                }
                continue;
            }
            let answered: Vec<_> = batch.into_iter().filter_map(|message| self.one(message)).collect();
            if !answered.is_empty() {
                let batch = pb::exchange_response::Message::Batch(pb::MessageBatch { messages: answered });
                let response = pb::ExchangeResponse { message: Some(batch) };
                if answers.send(Ok(response)).await.is_err() {
                    return None;
                }
            }
        }
    }

    fn one(&self, message: pb::MeshMessage) -> Option<pb::MeshMessage> {
        if message.sender_id != self.peer || !message.origin_id.is_empty() {
            return self.refuse(SENDER_MISMATCH);
        }
        if message.receiver_id != self.shared.own.node.as_str() {
            return self.refuse(WRONG_RECEIVER);
        }
        match message.payload {
            Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::Probe(probe)) })) => {
                let kind = Some(pb::heartbeat::Kind::ProbeAck(pb::ProbeAck { number: probe.number }));
                let payload = Payload::Heartbeat(pb::Heartbeat { kind });
                Some(self.shared.own.envelope.seal(&self.peer, payload))
            }
            _ => self.refuse(MALFORMED),
        }
    }

    fn refuse(&self, reason: &'static str) -> Option<pb::MeshMessage> {
        let count = self.shared.refusals.count(reason);
        tracing::warn!(peer = %self.peer.escape_debug(), reason, count, "a message of a peer was refused");
        None
    }
}

fn protocol(code: Code, reason: &'static str, message: String) -> ApiError {
    ApiError::Protocol { code, reason, message, metadata: Vec::new() }
}
