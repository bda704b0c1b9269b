//! NodeService: the coordinator's end of each node's session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::service::{Service, stopped};
use super::{orders, outputs};
use crate::coordinator::input::{Beat, Input, Message, Reply, SessionEnding};
use crate::middleware::enrolment::Enrolled;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::proto::peer::v1::node_service_server::NodeService;
use crate::status::{ApiError, Precondition};
use crate::types::{NodeId, SessionId};
use crate::wire;

/// The protocol version spoken here.
const PROTOCOL: u32 = 1;
/// The mesh that is coordinated here.
pub const MESH_ID: &str = "lintmesh";
/// For the first message of a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Batches that may wait for a slow node.
const QUEUE: usize = 64;

/// The service.
pub struct Sessions {
    service: Arc<Service>,
    refused: AtomicU64,
}

impl Sessions {
    /// On this server's coordinator.
    pub const fn new(service: Arc<Service>) -> Self {
        Self { service, refused: AtomicU64::new(0) }
    }

    fn refuse(&self, error: ApiError) -> Status {
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(reason = error.reason(), count, "a node was refused: {error}");
        error.into()
    }

    /// Reads and checks the first message.
    async fn hello(
        &self,
        enrolled: &Enrolled,
        messages: &mut Streaming<pb::SessionRequest>,
    ) -> Result<crate::coordinator::input::Hello, ApiError> {
        let expected = |text: &str| ApiError::invalid("hello", text);
        let first = tokio::time::timeout(HELLO_TIMEOUT, messages.message())
            .await
            .map_err(|_| expected("did not arrive in time"))?
            .map_err(|status| expected(&format!("is not readable: {}", status.message())))?;
        let Some(pb::session_request::Message::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(expected("must be the first message"));
        };
        if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
            return Err(ApiError::FailedPrecondition(vec![Precondition {
                kind: "PROTOCOL_UNSUPPORTED",
                subject: format!("protocol {} to {}", hello.protocol_min, hello.protocol_max),
                description: format!(
                    "this coordinator speaks {PROTOCOL}; run node and coordinator of one release"
                ),
            }]));
        }
        if hello.mesh_id != MESH_ID {
            let text = format!("is `{}`; this is mesh `{MESH_ID}`", hello.mesh_id);
            return Err(ApiError::invalid("hello.mesh_id", text));
        }
        let hello = wire::session::hello(hello).map_err(ApiError::InvalidArgument)?;
        if enrolled.node.as_ref().is_some_and(|node| *node != hello.spec.node_id) {
            return Err(ApiError::Unauthenticated("the enrolment secret belongs to another node"));
        }
        Ok(hello)
    }
}

#[tonic::async_trait]
impl NodeService for Sessions {
    type SessionStream = ReceiverStream<Result<pb::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let enrolled = request.extensions().get::<Enrolled>().cloned().unwrap_or(Enrolled { node: None });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut messages = request.into_inner();
        let hello = self.hello(&enrolled, &mut messages).await.map_err(|error| self.refuse(error))?;
        let node = hello.spec.node_id.clone();
        let (session, outgoing) = self.service.engine.sessions().open();
        let line = Line { service: self.service.clone(), session, node };
        // A task of its own: if the node goes away while its Hello is decided, this call is dropped, and what it opened
        // must be closed all the same.
        let (admitted, admission) = oneshot::channel();
        tokio::spawn(async move {
            match line.join(hello).await {
                Ok(welcome) => {
                    let message = Some(pb::session_response::Message::Welcome(welcome));
                    // The queue is empty, so this cannot wait.
                    let _ = sender.send(Ok(pb::SessionResponse { message })).await;
                    let _ = admitted.send(Ok(()));
                    line.run(messages, outgoing, sender).await;
                }
                Err(error) => {
                    line.service.engine.sessions().close(line.session);
                    let _ = admitted.send(Err(error));
                }
            }
        });
        let lost = |_| ApiError::Internal { request_id: String::new() };
        admission.await.map_err(lost)?.map_err(|error| self.refuse(error))?;
        Ok(Response::new(receiver.into()))
    }
}

/// One open session.
struct Line {
    service: Arc<Service>,
    session: SessionId,
    node: NodeId,
}

impl Line {
    /// Has the node's Hello decided.
    async fn join(&self, hello: crate::coordinator::input::Hello) -> Result<pb::Welcome, ApiError> {
        let joined = Input::Joined { session: self.session, hello: Box::new(hello) };
        match self.service.engine.decide(joined).await.map_err(stopped)? {
            Reply::Welcome { epoch, heartbeat_interval, probe_interval } => Ok(pb::Welcome {
                session: self.session.0,
                epoch: epoch.0,
                protocol: PROTOCOL,
                heartbeat_interval: Some(wire::time::duration(heartbeat_interval)),
                probe_interval: Some(wire::time::duration(probe_interval)),
            }),
            Reply::Refused(refusal) => Err(orders::refused(refusal)),
            Reply::Done | Reply::Run(_) | Reply::Fault(_) => {
                Err(ApiError::Internal { request_id: String::new() })
            }
        }
    }

    async fn run(
        self,
        mut incoming: Streaming<pb::SessionRequest>,
        mut outgoing: mpsc::Receiver<Message>,
        node: mpsc::Sender<Result<pb::SessionResponse, Status>>,
    ) {
        let (acks, mut beats) = mpsc::channel::<u64>(QUEUE);
        let most = usize::try_from(self.service.settings.mesh.batch_size).unwrap_or(1).max(1);
        let patience = self.service.settings.mesh.message_timeout;
        let write = async {
            let mut number = 0;
            loop {
                let mut payloads = Vec::new();
                tokio::select! {
                    message = outgoing.recv() => match message {
                        Some(message) => payloads.push(wire::session::payload(message)),
                        // Closed from this side: a newer connection took its place, or the node did not keep up.
                        None => return,
                    },
                    Some(beat) = beats.recv() => payloads.push(beat_ack(beat)),
                }
                // Whatever else is queued goes along, but nothing waits for company.
                while payloads.len() < most
                    && let Ok(more) = outgoing.try_recv()
                {
                    payloads.push(wire::session::payload(more));
                }
                let batch = self.batch(payloads, &mut number);
                // One that beats but reads nothing would keep work that it never learns of.
                match tokio::time::timeout(patience, node.send(Ok(batch))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => {
                        tracing::warn!(node = %self.node, "closing a connection that is not read");
                        return;
                    }
                }
            }
        };
        let read = async {
            loop {
                match incoming.message().await {
                    Ok(Some(message)) => self.receive(message, &acks).await,
                    Ok(None) => return,
                    Err(status) => {
                        tracing::debug!(node = %self.node, code = ?status.code(), "session ended");
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = write => {}
            () = read => {}
            () = node.closed() => {}
        }
        self.service.engine.sessions().close(self.session);
        let closed =
            Input::SessionClosed { session: self.session, node: self.node, ending: SessionEnding::Reset };
        // A stopped coordinator has no more use for it.
        let _ = self.service.engine.decide(closed).await;
    }

    fn batch(&self, payloads: Vec<Payload>, number: &mut u64) -> pb::SessionResponse {
        let at = wire::time::timestamp(self.service.engine.now().wall);
        let messages = payloads
            .into_iter()
            .map(|payload| {
                *number += 1;
                pb::MeshMessage {
                    sender_id: "coordinator".to_owned(),
                    receiver_id: self.node.to_string(),
                    message_id: *number,
                    timestamp: Some(at),
                    payload: Some(payload),
                    origin_id: String::new(),
                }
            })
            .collect();
        let batch = pb::MessageBatch { messages };
        pb::SessionResponse { message: Some(pb::session_response::Message::Batch(batch)) }
    }

    async fn receive(&self, message: pb::SessionRequest, acks: &mpsc::Sender<u64>) {
        let Some(pb::session_request::Message::Batch(batch)) = message.message else {
            tracing::warn!(node = %self.node, "dropped a message that is not a batch");
            return;
        };
        for message in batch.messages {
            let Some(input) = self.input(message.payload, acks).await else { continue };
            if self.service.engine.decide(input).await.is_err() {
                return;
            }
        }
    }

    /// What a message means to the core; nothing if it means nothing.
    async fn input(&self, payload: Option<Payload>, acks: &mpsc::Sender<u64>) -> Option<Input> {
        use pb::{heartbeat, result_share, task_assignment};
        match payload {
            Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(heartbeat::Kind::Beat(beat)) })) => {
                // A node that does not read its acks misses some.
                let _ = acks.try_send(beat.number);
                let load = wire::peer::load(&beat);
                Some(Input::Beat {
                    session: self.session,
                    node: self.node.clone(),
                    beat: Beat { load, ..Beat::default() },
                })
            }
            Some(Payload::TaskAssignment(pb::TaskAssignment {
                kind: Some(task_assignment::Kind::Reject(reject)),
            })) => match wire::peer::attempt_of(reject.attempt.as_ref()) {
                Ok(attempt) => {
                    let reason = reject.reason.chars().take(200).collect();
                    Some(Input::Rejected { node: self.node.clone(), attempt, reason })
                }
                Err(error) => self.garbage(&error.to_string()),
            },
            Some(Payload::ResultShare(pb::ResultShare {
                kind: Some(result_share::Kind::Result(result)),
            })) => match wire::peer::AttemptResult::from_proto(result) {
                // A result may travel by another node, so the executor is who the result says, fenced by its attempt.
                Ok(result) => Some(outputs::ended(&self.service, result).await),
                Err(error) => self.garbage(&error.to_string()),
            },
            Some(Payload::FaultTolerance(pb::FaultTolerance {
                kind: Some(pb::fault_tolerance::Kind::Drain(drain)),
            })) => {
                let reason = drain.reason.chars().take(200).collect();
                Some(Input::NodeDraining { session: self.session, node: self.node.clone(), reason })
            }
            _ => self.garbage("a node does not send this kind of message"),
        }
    }

    fn garbage(&self, reason: &str) -> Option<Input> {
        tracing::warn!(node = %self.node, reason, "dropped a message that breaks the protocol");
        None
    }
}

fn beat_ack(number: u64) -> Payload {
    let kind = Some(pb::heartbeat::Kind::BeatAck(pb::BeatAck { number }));
    Payload::Heartbeat(pb::Heartbeat { kind })
}
