//! One link's task: keeps a connection, probes it at the cadence, and notes what comes back.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::dial::{Connection, DialError, dial, judge};
use super::{LOOKS, Link, Look, Shared};
use crate::middleware::refusals::{MALFORMED, SENDER_MISMATCH, WRONG_RECEIVER};
use crate::node::backoff::Backoff;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::LinkState;

/// Pauses before a lost link is dialled again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A timer of this node that comes so much later than it should says that the node itself was not running.
const LATE: Duration = Duration::from_millis(500);
/// A connection on which nothing came back for so long is given up for a new one: after a cut, TCP tries the old one at
/// ever longer intervals.
const GIVE_UP: Duration = Duration::from_secs(5);
/// The range of cadences that are taken from a coordinator.
const RANGE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

/// Runs until it is dropped.
pub(super) async fn run(
    shared: Arc<Shared>,
    link: Arc<Link>,
    looks: mpsc::Receiver<Look>,
    probe_interval: Duration,
) {
    let mut ticks = tokio::time::interval(probe_interval.clamp(RANGE.0, RANGE.1));
    // After a pause of the whole process one tick comes late, and the next a whole interval after it.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut prober = Prober { shared, link, ticks, looks, asked: Vec::new(), number: 0 };
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        prober.note(|view| view.dialling());
        let (shared, link) = (prober.shared.clone(), prober.link.clone());
        let dialled = prober.meanwhile(dial(&shared, &link.peer, pb::LinkPurpose::Probes)).await;
        let end = match dialled {
            Ok(connection) => {
                let answered = prober.number;
                let end = prober.probe(connection).await;
                if prober.number > answered && link_was_up(&prober.link) {
                    backoff.reset();
                }
                end
            }
            Err(error) => error,
        };
        match end {
            DialError::Reset => prober.note(|view| view.reset()),
            DialError::TurnedAway(status) => {
                tracing::debug!(peer = %link.peer.node, code = ?status.code(), reason = status.message(), "link");
                prober.note(|view| view.turned_away());
            }
            DialError::Silent => {}
            DialError::Unusable(reason) => {
                tracing::warn!(peer = %link.peer.node, endpoint = link.peer.endpoint, reason, "not dialled");
            }
        }
        prober.pause(backoff.next((shared.own.random)())).await;
    }
}

fn link_was_up(link: &Link) -> bool {
    super::lock(&link.view).state() == LinkState::Up
}

struct Prober {
    shared: Arc<Shared>,
    link: Arc<Link>,
    ticks: Interval,
    looks: mpsc::Receiver<Look>,
    /// Those who wait for an answer, each to this probe or a later one.
    asked: Vec<(u64, Look)>,
    number: u64,
}

impl Prober {
    fn note<T>(&self, change: impl FnOnce(&mut super::View) -> T) -> T {
        self.shared.observe(&self.link, change)
    }

    /// Waits for something while time passes for the link.
    async fn meanwhile<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        let mut awaited = std::pin::pin!(awaited);
        loop {
            tokio::select! {
                done = awaited.as_mut() => return done,
                due = self.ticks.tick() => self.tick(due),
            }
        }
    }

    /// Waits before the next dial, but not while somebody wants to know.
    async fn pause(&mut self, pause: Duration) {
        let mut over = std::pin::pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                () = over.as_mut() => return,
                due = self.ticks.tick() => self.tick(due),
                Some(look) = self.looks.recv() => return self.ask(look),
            }
        }
    }

    fn ask(&mut self, look: Look) {
        self.asked.retain(|(_, look)| !look.is_closed());
        if self.asked.len() < LOOKS {
            self.asked.push((self.number + 1, look));
        }
    }

    fn tick(&mut self, due: Instant) {
        let now = Instant::now();
        let punctual = now.saturating_duration_since(due) <= LATE;
        if !punctual {
            self.shared.abstaining.store(true, Ordering::Relaxed);
        }
        self.note(|view| view.tick(now, punctual));
    }

    /// Probes a connection until it ends or is given up.
    async fn probe(&mut self, mut connection: Connection) -> DialError {
        self.send(&connection);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = connection.inbound.message() => match message {
                    Ok(Some(response)) => {
                        heard = Instant::now();
                        self.receive(response);
                    }
                    Ok(None) => return DialError::Reset,
                    Err(status) => return judge(status),
                },
                due = self.ticks.tick() => {
                    self.tick(due);
                    if due.saturating_duration_since(heard) >= GIVE_UP {
                        return DialError::Silent;
                    }
                    self.send(&connection);
                }
                Some(look) = self.looks.recv() => {
                    self.ask(look);
                    self.send(&connection);
                }
            }
        }
    }

    fn send(&mut self, connection: &Connection) {
        self.number += 1;
        let number = self.number;
        let kind = Some(pb::heartbeat::Kind::Probe(pb::Probe { number }));
        let payload = Payload::Heartbeat(pb::Heartbeat { kind });
        let message = self.shared.own.envelope.seal(self.link.peer.node.as_str(), payload);
        let batch = pb::exchange_request::Message::Batch(pb::MessageBatch { messages: vec![message] });
        let request = pb::ExchangeRequest { message: Some(batch) };
        let bytes = request.encoded_len();
        // A queue that is full belongs to a connection that takes nothing; what is due on it is noted already.
        if connection.outbound.try_send(request).is_ok() {
            let (now, wall_ms) = (Instant::now(), wall_ms());
            self.note(|view| {
                view.sent(number, now, wall_ms);
                view.moved(bytes, 0);
            });
        }
    }

    fn receive(&mut self, response: pb::ExchangeResponse) {
        let bytes = response.encoded_len();
        self.note(|view| view.moved(0, bytes));
        let Some(pb::exchange_response::Message::Batch(batch)) = response.message else {
            return self.refuse(MALFORMED);
        };
        for message in batch.messages {
            if message.sender_id != self.link.peer.node.as_str() || !message.origin_id.is_empty() {
                self.refuse(SENDER_MISMATCH);
                continue;
            }
            if message.receiver_id != self.shared.own.node.as_str() {
                self.refuse(WRONG_RECEIVER);
                continue;
            }
            let Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::ProbeAck(ack)) })) =
                message.payload
            else {
                self.refuse(MALFORMED);
                continue;
            };
            let peer_ms = message.timestamp.as_ref().map(millis);
            if let Some(round_trip) = self.note(|view| view.answered(ack.number, Instant::now(), peer_ms)) {
                let answered = |(number, _): &mut (u64, Look)| *number <= ack.number;
                for (_, look) in self.asked.extract_if(.., answered) {
                    // Whoever asked may have stopped waiting.
                    let _ = look.send(round_trip);
                }
            }
        }
    }

    fn refuse(&self, reason: &'static str) {
        let count = self.shared.refusals.count(reason);
        tracing::warn!(peer = %self.link.peer.node, reason, count, "a message of a peer was refused");
    }
}

/// Milliseconds since 1970 by this node's clock.
fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn millis(at: &prost_types::Timestamp) -> i64 {
    at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos) / 1_000_000)
}
