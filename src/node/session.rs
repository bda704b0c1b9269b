//! One connection of a node: Hello and Welcome, then batches both ways until it ends.

mod beats;
mod results;
mod silence;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use self::beats::{heartbeats, link_changes};
use self::results::share_results;
use self::silence::until_silent;
use self::writer::write;
use super::agent::Identity;
use super::envelope::Said;
use super::executor::{Admission, Executor};
use super::idle::IdleClock;
use super::inputs::Inputs;
use super::link::{Link, MakeLink};
use super::peers::Peers;
use super::resources::Meter;
use super::way::Way;
use crate::middleware::breaker::PeerBreaker;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::proto::peer::v1::node_service_client::NodeServiceClient;
use crate::types::Epoch;
use crate::wire::peer::{Assignment, attempt_of, duration};

/// How long the coordinator may take to answer Hello with Welcome.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// Messages that wait for the writer. A node says little: beats, and an answer or a result per attempt.
const QUEUE: usize = 64;
/// The largest message of a coordinator: an assignment of a run with many tasks names many blobs.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The range of cadences that are taken from a Welcome.
const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// How often links are probed, and how long a silent coordinator is kept, if it does not say.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// The least silence that ends a session.
const LEAST_SILENCE: Duration = Duration::from_secs(1);
/// Looks at peers, and acknowledgements for them, under way for the coordinator.
const ASIDE: usize = 64;

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The coordinator wants this node to end.
    Shutdown(String),
    /// The coordinator does not want this node; coming back changes nothing.
    Refused(Status),
    /// The connection was lost; come back later.
    Lost(String),
    /// This process is ending.
    Stopped,
}

/// What lasts longer than a session.
pub(super) struct Lasting {
    pub(super) identity: Identity,
    pub(super) link: MakeLink,
    pub(super) breaker: Arc<PeerBreaker>,
    pub(super) executor: Executor,
    pub(super) inputs: Inputs,
    /// Taken by the heartbeats of the session that lives; always there between sessions.
    pub(super) meter: Arc<std::sync::Mutex<Meter>>,
    pub(super) idle: Arc<std::sync::Mutex<IdleClock>>,
    pub(super) peers: Peers,
    pub(super) way: Way,
    /// The newest that welcomed this process.
    pub(super) last_epoch: Epoch,
    /// Counts the connections of this process.
    pub(super) connections: u64,
    /// Cancelled when this process should finish what it has and then end.
    pub(super) drain: CancellationToken,
}

/// Runs a session to its end.
pub(super) async fn run(lasting: &mut Lasting, stop: &CancellationToken) -> SessionEnd {
    let (outbound, requests) = mpsc::channel(1);
    let mut hello = lasting.identity.hello(lasting.last_epoch, lasting.executor.inventory());
    hello.draining = lasting.executor.is_draining();
    let hello = pb::SessionRequest { message: Some(pb::session_request::Message::Hello(hello)) };
    if outbound.try_send(hello).is_err() {
        return SessionEnd::Lost("the session's queue is closed".to_owned());
    }
    let opened = tokio::select! {
        () = stop.cancelled() => return SessionEnd::Stopped,
        opened = tokio::time::timeout(WELCOME_DEADLINE, open((lasting.link)(), requests)) => opened,
    };
    let (welcome, inbound) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return ended(status),
        Err(_) => return SessionEnd::Lost(format!("no Welcome within {WELCOME_DEADLINE:?}")),
    };
    lasting.connections += 1;
    lasting.last_epoch = lasting.last_epoch.max(Epoch(welcome.epoch));
    let lasting = &*lasting;
    // The coordinator has just proved that it is there.
    lasting.breaker.half_open_now();
    tracing::info!(node = %lasting.identity.spec.node_id, session = welcome.session, epoch = welcome.epoch, "joined");

    let (queue, queued) = mpsc::channel(QUEUE);
    let every = duration("heartbeat_interval", welcome.heartbeat_interval.as_ref())
        .unwrap_or(HEARTBEAT_RANGE.1)
        .clamp(HEARTBEAT_RANGE.0, HEARTBEAT_RANGE.1);
    let span = |field, span: Option<&_>, default| duration(field, span).unwrap_or(default);
    let silence_limit =
        span("silence_limit", welcome.silence_limit.as_ref(), SILENCE_LIMIT).max(LEAST_SILENCE);
    let probe_interval = span("probe_interval", welcome.probe_interval.as_ref(), PROBE_INTERVAL);
    let listening =
        Listening { lasting, queue: &queue, probe_interval, aside: Arc::new(Semaphore::new(ASIDE)) };
    lasting.way.opened(Instant::now(), queue.clone());
    // Several tasks' worth of work in one future each: whichever ends first ends the session and drops the others.
    tokio::select! {
        () = stop.cancelled() => SessionEnd::Stopped,
        end = listening.listen(inbound) => end,
        () = announce_drain(&lasting.drain, &queue) => lost_writer(),
        () = until_silent(&lasting.way, silence_limit, every, queue.clone()) => {
            SessionEnd::Lost(format!("the coordinator said or answered nothing for {silence_limit:?}"))
        }
        reason = share_results(&lasting.executor, &lasting.inputs, lasting.connections, &queue) => {
            SessionEnd::Lost(reason)
        }
        () = link_changes(lasting, &queue) => lost_writer(),
        () = write(queued, outbound, lasting.identity.envelope.clone()) => lost_writer(),
        () = heartbeats(lasting, every, queue.clone()) => lost_writer(),
    }
}

fn lost_writer() -> SessionEnd {
    SessionEnd::Lost("the coordinator reads no more".to_owned())
}

async fn open(
    link: Link,
    requests: mpsc::Receiver<pb::SessionRequest>,
) -> Result<(pb::Welcome, Streaming<pb::SessionResponse>), Status> {
    let mut client = NodeServiceClient::new(link).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut inbound = client.session(ReceiverStream::new(requests)).await?.into_inner();
    match inbound.message().await?.and_then(|first| first.message) {
        Some(pb::session_response::Message::Welcome(welcome)) => Ok((welcome, inbound)),
        _ => Err(Status::unavailable("the coordinator's first answer is not a Welcome")),
    }
}

/// What a status means for the node: only the coordinator's own words for "never" are final.
fn ended(status: Status) -> SessionEnd {
    if is_final(&status) {
        SessionEnd::Refused(status)
    } else {
        SessionEnd::Lost(format!("{} ({:?})", status.message(), status.code()))
    }
}

fn is_final(status: &Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason);
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => true,
        Code::FailedPrecondition => reason.as_deref() == Some("PROTOCOL_UNSUPPORTED"),
        Code::AlreadyExists => reason.as_deref() == Some("STALE_INCARNATION"),
        // Raised against this node's Hello, which the next session would only repeat.
        Code::InvalidArgument => true,
        _ => false,
    }
}

/// Says that this process takes no more work, once it is so. The coordinator answers with Shutdown when it misses nothing.
async fn announce_drain(drain: &CancellationToken, queue: &mpsc::Sender<Said>) {
    drain.cancelled().await;
    let kind =
        pb::fault_tolerance::Kind::Drain(pb::Drain { reason: "its process was asked to end".to_owned() });
    let said = Payload::FaultTolerance(pb::FaultTolerance { kind: Some(kind) });
    if queue.send(said.into()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// The reading side of a session.
struct Listening<'a> {
    lasting: &'a Lasting,
    queue: &'a mpsc::Sender<Said>,
    probe_interval: Duration,
    /// Bounds what is done beside reading.
    aside: Arc<Semaphore>,
}

impl Listening<'_> {
    /// Does what the coordinator says. Nothing it can say panics or stops the node but Shutdown.
    async fn listen(&self, mut inbound: Streaming<pb::SessionResponse>) -> SessionEnd {
        let own = &self.lasting.identity.spec.node_id;
        loop {
            let batch = match inbound.message().await {
                Ok(Some(pb::SessionResponse {
                    message: Some(pb::session_response::Message::Batch(batch)),
                })) => batch,
                Ok(Some(_)) => {
                    tracing::warn!("a message that is no batch was dropped");
                    continue;
                }
                Ok(None) => return SessionEnd::Lost("the coordinator closed the session".to_owned()),
                Err(status) => return ended(status),
            };
            self.lasting.way.heard(Instant::now());
            for message in batch.messages {
                if message.receiver_id != own.as_str() {
                    self.for_another(message);
                    continue;
                }
                let Some(payload) = self.about_links(message.payload) else { continue };
                match answer(Some(payload), &self.lasting.executor) {
                    Reaction::Nothing => {}
                    Reaction::Say(payload) => {
                        if self.queue.send((*payload).into()).await.is_err() {
                            return lost_writer();
                        }
                    }
                    Reaction::End(reason) => return SessionEnd::Shutdown(reason),
                }
            }
        }
    }

    /// Passes on what is for a peer whose result came by this node: acknowledgements only.
    fn for_another(&self, message: pb::MeshMessage) {
        let receiver = message.receiver_id;
        if let Some(Payload::ResultShare(pb::ResultShare { kind: Some(pb::result_share::Kind::Ack(ack)) })) =
            message.payload
            && let Ok(attempt) = attempt_of(ack.attempt.as_ref())
            && let Ok(turn) = Arc::clone(&self.aside).try_acquire_owned()
        {
            let peers = self.lasting.peers.clone();
            tokio::spawn(async move {
                peers.acknowledge(&receiver, &attempt).await;
                drop(turn);
            });
        } else {
            tracing::warn!(receiver = %receiver.escape_debug(), "a message for another was dropped");
        }
    }

    /// Does what concerns links and liveness; gives back all other messages.
    fn about_links(&self, payload: Option<Payload>) -> Option<Payload> {
        match payload? {
            Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::Probe(probe)) }) => {
                let kind = Some(pb::heartbeat::Kind::ProbeAck(pb::ProbeAck { number: probe.number }));
                // Whoever fills the queue shows by that that the node is there.
                let _ = self.queue.try_send(Payload::Heartbeat(pb::Heartbeat { kind }).into());
                None
            }
            Payload::Heartbeat(pb::Heartbeat {
                kind: Some(pb::heartbeat::Kind::ProbeAck(_) | pb::heartbeat::Kind::BeatAck(_)),
            }) => {
                self.lasting.way.answered(Instant::now());
                None
            }
            Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::ProbeRequest(request)) }) => {
                self.look(request);
                None
            }
            Payload::FaultTolerance(pb::FaultTolerance {
                kind: Some(pb::fault_tolerance::Kind::Roster(roster)),
            }) => {
                self.lasting.peers.apply(roster, self.probe_interval);
                None
            }
            other => Some(other),
        }
    }

    fn look(&self, request: pb::ProbeRequest) {
        let Ok(turn) = Arc::clone(&self.aside).try_acquire_owned() else {
            return tracing::warn!("too many looks at peers at a time; one was dropped");
        };
        let (peers, queue) = (self.lasting.peers.clone(), self.queue.clone());
        tokio::spawn(async move {
            let round_trip = peers.look_at(&request.subject_id).await;
            let report = pb::ProbeReport {
                subject_id: request.subject_id,
                number: request.number,
                reached: round_trip.is_some(),
                round_trip: round_trip.map(crate::wire::time::duration),
            };
            let kind = Some(pb::heartbeat::Kind::ProbeReport(report));
            // The session may have ended meanwhile.
            let _ = queue.send(Payload::Heartbeat(pb::Heartbeat { kind }).into()).await;
            drop(turn);
        });
    }
}

#[derive(Debug, PartialEq)]
enum Reaction {
    Nothing,
    Say(Box<Payload>),
    End(String),
}

/// Applies one message to the executor.
fn answer(payload: Option<Payload>, executor: &Executor) -> Reaction {
    let dropped = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "a message that breaks the protocol was dropped");
        Reaction::Nothing
    };
    match payload {
        Some(Payload::TaskAssignment(pb::TaskAssignment { kind: Some(kind) })) => match kind {
            pb::task_assignment::Kind::Assign(assign) => {
                let attempt = assign.attempt.clone();
                match Assignment::from_proto(assign).map(|assignment| executor.assign(assignment)) {
                    Ok(Admission::Started | Admission::Known) => Reaction::Nothing,
                    Ok(Admission::Rejected(reason)) => reject(attempt, reason.to_owned()),
                    // An attempt without a name cannot even be rejected.
                    Err(error) if attempt.is_none() => dropped(&error),
                    Err(error) => reject(attempt, format!("INVALID: {error}")),
                }
            }
            pb::task_assignment::Kind::Revoke(revoke) => match attempt_of(revoke.attempt.as_ref()) {
                Ok(key) => {
                    tracing::debug!(attempt = %key, reason = %revoke.reason.escape_debug(), "revoked");
                    executor.revoke(&key);
                    Reaction::Nothing
                }
                Err(error) => dropped(&error),
            },
            pb::task_assignment::Kind::Reject(_) => dropped(&"only nodes reject"),
        },
        Some(Payload::ResultShare(pb::ResultShare { kind: Some(pb::result_share::Kind::Ack(ack)) })) => {
            match attempt_of(ack.attempt.as_ref()) {
                Ok(key) => {
                    executor.acknowledge(&key);
                    Reaction::Nothing
                }
                Err(error) => dropped(&error),
            }
        }
        Some(Payload::FaultTolerance(pb::FaultTolerance {
            kind: Some(pb::fault_tolerance::Kind::Shutdown(shutdown)),
        })) => Reaction::End(shutdown.reason),
        _ => dropped(&"unknown kind"),
    }
}

fn reject(attempt: Option<pb::AttemptRef>, reason: String) -> Reaction {
    let kind = pb::task_assignment::Kind::Reject(pb::Reject { attempt, reason });
    Reaction::Say(Box::new(Payload::TaskAssignment(pb::TaskAssignment { kind: Some(kind) })))
}

#[cfg(test)]
mod tests;
