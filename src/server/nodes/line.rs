//! One open session: what is queued for the node goes out in batches, until either side ends it.

use prost::Message as _;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;
use tonic::{Status, Streaming};

use super::clock::ProbeClock;
use super::results::{self, Held};
use super::{LinkSecrets, PROTOCOL, QUEUE};
use crate::coordinator::decision::Reply;
use crate::coordinator::input::{Hello, Input, SessionEnding};
use crate::coordinator::message::Message;
use crate::middleware::refusals::{FLOOD, MALFORMED};
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::server::orders;
use crate::server::refusals::COORDINATOR;
use crate::server::service::{Service, stopped};
use crate::status::ApiError;
use crate::types::{Incarnation, NodeId, SessionId};
use crate::wire;

/// A session's patience with a silent node is looked at so often. A process that was stopped for long finds one tick
/// waiting, not all that it missed, and hears what arrived meanwhile before the next.
const LOOKS: u32 = 6;
/// The least time after which a node gives up a silent coordinator.
const LEAST_SILENCE: Duration = Duration::from_secs(5);
/// How long a node that is sent away may take to read why.
const GOODBYE: Duration = Duration::from_secs(5);

/// One open session.
pub(super) struct Line {
    pub(super) service: Arc<Service>,
    secrets: Arc<LinkSecrets>,
    pub(super) session: SessionId,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) clock: Mutex<ProbeClock>,
    /// Tasks that the node was given on this session, less the results it brought.
    given: AtomicU64,
    /// Attempts whose results are here, and are not decided yet.
    pub(super) held: Held,
}

/// What the reading side has come to.
#[derive(Default)]
struct Heard {
    /// Messages so far.
    messages: AtomicU64,
    /// Whether it is busy with one of them.
    listens_not: AtomicBool,
}

/// Why the reading side ended.
pub(super) enum ReadEnd {
    /// The node or its machine said so.
    Reset,
    /// This side has had enough, and says why.
    Given(Option<Status>),
}

impl Line {
    pub(super) fn new(
        service: Arc<Service>,
        secrets: Arc<LinkSecrets>,
        session: SessionId,
        hello: &Hello,
        sent_ms: Option<i64>,
    ) -> Self {
        let clock = Mutex::new(ProbeClock::new(sent_ms, service.engine.now()));
        let (node, incarnation) = (hello.spec.node_id.clone(), hello.incarnation);
        Self {
            service,
            secrets,
            session,
            node,
            incarnation,
            clock,
            given: AtomicU64::new(0),
            held: Held::default(),
        }
    }

    /// Has the node's Hello decided.
    pub(super) async fn join(&self, hello: Hello) -> Result<pb::Welcome, ApiError> {
        let joined = Input::Joined { session: self.session, hello: Box::new(hello) };
        match self.service.engine.decide_while_awaited(joined).await.map_err(stopped)? {
            Reply::Welcome { epoch, heartbeat_interval, probe_interval } => Ok(pb::Welcome {
                session: self.session.0,
                epoch: epoch.0,
                protocol: PROTOCOL,
                heartbeat_interval: Some(wire::time::duration(heartbeat_interval)),
                probe_interval: Some(wire::time::duration(probe_interval)),
                silence_limit: Some(wire::time::duration(self.silence_limit())),
            }),
            Reply::Refused(refusal) => Err(orders::refused(refusal)),
            Reply::Done | Reply::Run(_) | Reply::Fault(_) => {
                Err(ApiError::Internal { request_id: String::new() })
            }
        }
    }

    /// The node went away before its Hello was decided. If it has been meanwhile, the end of the session must follow at
    /// once: what it was given is lost. Its place among those that join is kept until then.
    pub(super) async fn leave(&self, _place: OwnedSemaphorePermit) {
        self.close();
        self.end(SessionEnding::Reset).await;
    }

    async fn end(&self, ending: SessionEnding) {
        let closed = Input::SessionClosed { session: self.session, node: self.node.clone(), ending };
        // A stopped coordinator has no more use for it.
        let _ = self.service.engine.decide(closed).await;
    }

    /// Takes no more messages for the node.
    pub(super) fn close(&self) {
        self.service.engine.sessions().close(self.session);
    }

    /// Carries messages both ways until the session ends, and tells the core how it did.
    pub(super) async fn run(
        self,
        incoming: Streaming<pb::SessionRequest>,
        outgoing: mpsc::Receiver<Message>,
        node: mpsc::Sender<Result<pb::SessionResponse, Status>>,
    ) {
        let (answers, answered) = mpsc::channel::<Payload>(QUEUE);
        let (results, brought) = results::queue();
        let heard = Heard::default();
        let mut goodbye = None;
        let carried = async {
            let ending = tokio::select! {
                ending = self.write(outgoing, answered, &node) => ending,
                end = self.read(incoming, &answers, results, &heard) => match end {
                    ReadEnd::Reset => SessionEnding::Reset,
                    ReadEnd::Given(status) => {
                        goodbye = status;
                        SessionEnding::Given
                    }
                },
                () = node.closed() => SessionEnding::Reset,
                () = self.until_silent(&heard) => {
                    tracing::warn!(node = %self.node, "closing a connection that stays silent");
                    SessionEnding::Given
                }
            };
            self.close();
            ending
        };
        // Beside what is heard otherwise: a disk that is slow to take a result must not make its node look silent.
        let ending = results::beside(carried, self.take_results(brought)).await;
        self.end(ending).await;
        if let Some(status) = goodbye {
            // Behind what is queued. One that reads nothing is not told; its connection ends all the same.
            let _ = tokio::time::timeout(GOODBYE, node.send(Err(status))).await;
        }
    }

    async fn write(
        &self,
        mut outgoing: mpsc::Receiver<Message>,
        mut answers: mpsc::Receiver<Payload>,
        node: &mpsc::Sender<Result<pb::SessionResponse, Status>>,
    ) -> SessionEnding {
        let most = usize::try_from(self.service.settings.mesh.batch_size).unwrap_or(1).max(1);
        let patience = self.service.settings.mesh.message_timeout;
        let mut number = 0;
        loop {
            let mut messages = Vec::new();
            tokio::select! {
                message = outgoing.recv() => match message {
                    Some(message) => messages.push(self.seal(message, &mut number)),
                    // Closed from this side: a newer connection took its place, or the node did not keep up.
                    None => return SessionEnding::Given,
                },
                Some(answer) = answers.recv() => {
                    messages.push(self.envelope(self.node.to_string(), answer, &mut number));
                }
            }
            // Whatever else is queued goes along, but nothing waits for company.
            while messages.len() < most
                && let Ok(more) = outgoing.try_recv()
            {
                messages.push(self.seal(more, &mut number));
            }
            let batch = pb::MessageBatch { messages };
            self.service.counts.traffic.passed(batch.messages.len(), batch.encoded_len());
            let batch = pb::session_response::Message::Batch(batch);
            // One that beats but reads nothing would keep work that it never learns of.
            match tokio::time::timeout(patience, node.send(Ok(pb::SessionResponse { message: Some(batch) })))
                .await
            {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return SessionEnding::Reset,
                Err(_) => {
                    tracing::warn!(node = %self.node, "closing a connection that is not read");
                    return SessionEnding::Given;
                }
            }
        }
    }

    async fn read(
        &self,
        mut incoming: Streaming<pb::SessionRequest>,
        answers: &mpsc::Sender<Payload>,
        results: results::Sender,
        heard: &Heard,
    ) -> ReadEnd {
        let mut inbox = self.inbox(answers, results);
        loop {
            match incoming.message().await {
                Ok(Some(message)) => {
                    heard.messages.fetch_add(1, Ordering::Relaxed);
                    heard.listens_not.store(true, Ordering::Relaxed);
                    let received = inbox.receive(message).await;
                    heard.listens_not.store(false, Ordering::Relaxed);
                    if let Err(end) = received {
                        return end;
                    }
                }
                Ok(None) => return ReadEnd::Reset,
                // What the connection itself says has a source; without one it is this side that cannot read on.
                Err(status) if status.source().is_none() => {
                    let count = self.service.counts.refused_messages.count(MALFORMED);
                    let code = status.code();
                    tracing::warn!(node = %self.node, ?code, count, reason = MALFORMED, "closing a session");
                    return ReadEnd::Given(None);
                }
                Err(status) => {
                    tracing::debug!(node = %self.node, code = ?status.code(), "session ended");
                    return ReadEnd::Reset;
                }
            }
        }
    }

    /// Completes when the node has said nothing for the message timeout, by this side's own patience and not by the
    /// connection's, so that nobody takes it for the end of the node.
    async fn until_silent(&self, heard: &Heard) {
        let every = (self.service.settings.mesh.message_timeout / LOOKS).max(Duration::from_millis(1));
        let mut looks = tokio::time::interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut quiet, mut last) = (0, 0);
        while quiet <= LOOKS {
            looks.tick().await;
            let now = heard.messages.load(Ordering::Relaxed);
            // While what it said waits to be decided, nobody listens to what it says next.
            let is_quiet = now == last && !heard.listens_not.load(Ordering::Relaxed);
            quiet = if is_quiet { quiet + 1 } else { 0 };
            last = now;
        }
    }

    /// Until when a node waits for a word of this coordinator.
    fn silence_limit(&self) -> Duration {
        (self.service.settings.mesh.message_timeout / LOOKS).max(LEAST_SILENCE)
    }

    /// A message of the core, ready to be sent.
    fn seal(&self, message: Message, number: &mut u64) -> pb::MeshMessage {
        match &message {
            Message::Probe { number } => self.clock().sent(*number, self.service.engine.now()),
            Message::Assign(_) => {
                self.given.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        let receiver = match &message {
            Message::Forward { to, .. } => to.to_string(),
            _ => self.node.to_string(),
        };
        let mut payload = wire::session::payload(message);
        if let Payload::FaultTolerance(pb::FaultTolerance {
            kind: Some(pb::fault_tolerance::Kind::Roster(roster)),
        }) = &mut payload
        {
            self.secrets.fill(roster, (&self.node, self.incarnation));
        }
        self.envelope(receiver, payload, number)
    }

    fn envelope(&self, receiver_id: String, payload: Payload, number: &mut u64) -> pb::MeshMessage {
        *number += 1;
        pb::MeshMessage {
            sender_id: COORDINATOR.to_owned(),
            receiver_id,
            message_id: *number,
            timestamp: Some(wire::time::timestamp(self.service.engine.now().wall)),
            payload: Some(payload),
            origin_id: String::new(),
        }
    }

    /// Takes note of a result; answers whether the node was given a task on this session of which it is the first.
    pub(super) fn collect_result(&self) -> bool {
        let less = |given: u64| given.checked_sub(1);
        self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    pub(super) fn clock(&self) -> MutexGuard<'_, ProbeClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a node is told that sends more than it may.
pub(super) fn flooded() -> Status {
    ApiError::Protocol {
        code: tonic::Code::ResourceExhausted,
        reason: FLOOD,
        message: "the session sent more messages than a node may; open a new one and send fewer".into(),
        metadata: Vec::new(),
    }
    .into()
}
