//! One connection of a node: Hello and Welcome, then batches both ways until it ends.

mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use self::writer::{Envelope, write};
use super::agent::Identity;
use super::executor::{Admission, Executor};
use super::link::Link;
use super::resources::Meter;
use crate::middleware::breaker::PeerBreaker;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::proto::peer::v1::node_service_client::NodeServiceClient;
use crate::types::{Epoch, Load};
use crate::wire::peer::{Assignment, attempt_of, beat, duration};

/// How long the coordinator may take to answer Hello with Welcome.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// Messages that wait for the writer. A node says little: beats, and an answer or a result per attempt.
const QUEUE: usize = 64;
/// The largest message of a coordinator: an assignment of a run with many tasks names many blobs.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The range of cadences that are taken from a Welcome.
const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

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
    pub(super) link: Link,
    pub(super) breaker: Arc<PeerBreaker>,
    pub(super) executor: Executor,
    /// Taken by the heartbeats of the session that lives; always there between sessions.
    pub(super) meter: Arc<std::sync::Mutex<Meter>>,
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
        opened = tokio::time::timeout(WELCOME_DEADLINE, open(lasting.link.clone(), requests)) => opened,
    };
    let (welcome, inbound) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return ended(status),
        Err(_) => return SessionEnd::Lost(format!("no Welcome within {WELCOME_DEADLINE:?}")),
    };
    lasting.connections += 1;
    lasting.last_epoch = Epoch(welcome.epoch);
    let lasting = &*lasting;
    // The coordinator has just proved that it is there.
    lasting.breaker.half_open_now();
    tracing::info!(node = %lasting.identity.spec.node_id, session = welcome.session, epoch = welcome.epoch, "joined");

    let (queue, queued) = mpsc::channel(QUEUE);
    let every = duration("heartbeat_interval", welcome.heartbeat_interval.as_ref())
        .unwrap_or(HEARTBEAT_RANGE.1)
        .clamp(HEARTBEAT_RANGE.0, HEARTBEAT_RANGE.1);
    let envelope = Envelope::new(&lasting.identity);
    // Three tasks' worth of work in one future each: whichever ends first ends the session and drops the others.
    tokio::select! {
        () = stop.cancelled() => SessionEnd::Stopped,
        end = listen(inbound, lasting, &queue) => end,
        () = announce_drain(&lasting.drain, &queue) => lost_writer(),
        () = share_results(&lasting.executor, lasting.connections, &queue) => lost_writer(),
        () = write(queued, outbound, envelope) => lost_writer(),
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
async fn announce_drain(drain: &CancellationToken, queue: &mpsc::Sender<Payload>) {
    drain.cancelled().await;
    let kind =
        pb::fault_tolerance::Kind::Drain(pb::Drain { reason: "its process was asked to end".to_owned() });
    let said = Payload::FaultTolerance(pb::FaultTolerance { kind: Some(kind) });
    if queue.send(said).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Sends a beat at once and then at the cadence; a beat that finds the queue full is left out, since the next one
/// says more.
async fn heartbeats(lasting: &Lasting, every: Duration, queue: mpsc::Sender<Payload>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        ticks.tick().await;
        let meter = Arc::clone(&lasting.meter);
        // Reading /proc blocks for milliseconds.
        let usage = tokio::task::spawn_blocking(move || {
            let mut meter = meter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            meter.sample(tokio::time::Instant::now())
        })
        .await
        .unwrap_or_default();
        let (running_tasks, capabilities_in_use) = lasting.executor.in_use();
        let load = Load { running_tasks, capabilities_in_use, cpu: usage.cpu, memory: usage.memory };
        number += 1;
        let kind = pb::heartbeat::Kind::Beat(beat(number, &load));
        match queue.try_send(Payload::Heartbeat(pb::Heartbeat { kind: Some(kind) })) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => tracing::debug!(number, "a beat was left out"),
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}

/// Sends each result once on this connection.
async fn share_results(executor: &Executor, connection: u64, queue: &mpsc::Sender<Payload>) {
    // A place in the queue first: a result that was taken out is surely queued.
    while let Ok(place) = queue.reserve().await {
        let result = executor.next_result(connection).await;
        let kind = pb::result_share::Kind::Result(result.to_proto());
        place.send(Payload::ResultShare(pb::ResultShare { kind: Some(kind) }));
    }
}

/// Does what the coordinator says. Nothing it can say panics or stops the node but Shutdown.
async fn listen(
    mut inbound: Streaming<pb::SessionResponse>,
    lasting: &Lasting,
    queue: &mpsc::Sender<Payload>,
) -> SessionEnd {
    loop {
        let batch = match inbound.message().await {
            Ok(Some(pb::SessionResponse { message: Some(pb::session_response::Message::Batch(batch)) })) => {
                batch
            }
            Ok(Some(_)) => {
                tracing::warn!("a message that is no batch was dropped");
                continue;
            }
            Ok(None) => return SessionEnd::Lost("the coordinator closed the session".to_owned()),
            Err(status) => return ended(status),
        };
        for message in batch.messages {
            if message.receiver_id != lasting.identity.spec.node_id.as_str() {
                tracing::warn!(receiver = %message.receiver_id.escape_debug(), "a message for another was dropped");
                continue;
            }
            match answer(message.payload, &lasting.executor) {
                Reaction::Nothing => {}
                Reaction::Say(payload) => {
                    if queue.send(*payload).await.is_err() {
                        return lost_writer();
                    }
                }
                Reaction::End(reason) => return SessionEnd::Shutdown(reason),
            }
        }
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
        Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::BeatAck(_)) })) => {
            Reaction::Nothing
        }
        _ => dropped(&"unknown kind"),
    }
}

fn reject(attempt: Option<pb::AttemptRef>, reason: String) -> Reaction {
    let kind = pb::task_assignment::Kind::Reject(pb::Reject { attempt, reason });
    Reaction::Say(Box::new(Payload::TaskAssignment(pb::TaskAssignment { kind: Some(kind) })))
}

#[cfg(test)]
mod tests;
