//! What a node says, checked, as inputs of the core.

use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock::wall_ms;
use super::line::{Line, ReadEnd, flooded};
use crate::coordinator::input::{Beat, Input};
use crate::middleware::refusals::{FLOOD, MALFORMED, SENDER_MISMATCH};
use crate::middleware::token_bucket::{MESSAGES, TokenBucket};
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::server::outputs;
use crate::server::refusals::{check, millis};
use crate::wire::peer::{AttemptResult, PeerMessageError, attempt_of, links, load};

/// The most of a reason that is kept.
const REASON_CHARS: usize = 200;

/// The reading side of a session.
pub(super) struct Inbox<'a> {
    line: &'a Line,
    answers: &'a mpsc::Sender<Payload>,
    bucket: TokenBucket,
}

/// What a message means.
enum Heard {
    /// This, to the core.
    Input(Input),
    /// What an attempt came to; its output has to be taken first.
    Result(outputs::Brought),
}

/// Why a message is refused: the reason that is counted, and the words.
struct Refused(&'static str, String);

impl From<PeerMessageError> for Refused {
    fn from(error: PeerMessageError) -> Self {
        Self(MALFORMED, error.to_string())
    }
}

impl Line {
    pub(super) fn inbox<'a>(&'a self, answers: &'a mpsc::Sender<Payload>) -> Inbox<'a> {
        Inbox { line: self, answers, bucket: TokenBucket::new(MESSAGES, Instant::now()) }
    }
}

impl Inbox<'_> {
    /// Has every message of a batch decided. What is refused is counted and dropped; only a flood ends the session.
    pub(super) async fn receive(&mut self, message: pb::SessionRequest) -> Result<(), ReadEnd> {
        let Some(pb::session_request::Message::Batch(batch)) = message.message else {
            self.pay()?;
            self.refused(&Refused(MALFORMED, "a message that is no batch".to_owned()));
            return Ok(());
        };
        if batch.messages.is_empty() {
            self.pay()?;
        }
        let traffic = &self.line.service.counts.traffic;
        traffic.passed(batch.messages.len(), batch.encoded_len());
        let arrived = Instant::now();
        let (now, offset_ms) = (self.line.service.engine.now(), self.line.clock().offset_ms());
        let (mut heard, mut results, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = Ok(());
        for message in batch.messages {
            end = self.pay_for(&message);
            if end.is_err() {
                break;
            }
            // What a peer passed on was stamped by another clock.
            let sent_ms = message.timestamp.as_ref().map(millis).filter(|_| message.origin_id.is_empty());
            let checked = check(&message, &self.line.node, wall_ms(now), offset_ms);
            let read = match checked {
                Ok(()) => self.read(message),
                Err(reason) => Err(Refused(reason, "its envelope is not right".to_owned())),
            };
            match read {
                Ok(Some(read)) => {
                    sent.extend(sent_ms);
                    heard.push(match read {
                        Heard::Input(input) => Some(input),
                        Heard::Result(result) => {
                            results.push(result);
                            None
                        }
                    });
                }
                Ok(None) => {}
                Err(refused) => self.refused(&refused),
            }
        }
        // Together, and still in the order in which they were said.
        let mut results = outputs::ended(&self.line.service, results).await.into_iter();
        let inputs = heard.into_iter().filter_map(|input| input.or_else(|| results.next()));
        let inputs: Vec<Input> = inputs.collect();
        // A stopped coordinator closes all sessions itself.
        if !inputs.is_empty() && self.line.service.engine.decide_all(inputs).await.is_err() {
            return Err(ReadEnd::Given(None));
        }
        let now_ms = wall_ms(self.line.service.engine.now()).saturating_add(offset_ms);
        for sent_ms in sent {
            let passed = Duration::from_millis(u64::try_from(now_ms.saturating_sub(sent_ms)).unwrap_or(0));
            // Clocks are compared to a few milliseconds; here it took this long at least.
            traffic.took(passed.max(arrived.elapsed()));
        }
        end
    }

    /// What was asked for costs nothing: each task that the node was given allows it one result. All else is limited.
    fn pay_for(&mut self, message: &pb::MeshMessage) -> Result<(), ReadEnd> {
        let is_result = matches!(
            &message.payload,
            Some(Payload::ResultShare(pb::ResultShare { kind: Some(pb::result_share::Kind::Result(_)) }))
        );
        if is_result && self.line.collect_result() { Ok(()) } else { self.pay() }
    }

    fn pay(&mut self) -> Result<(), ReadEnd> {
        if self.bucket.take(Instant::now()) {
            return Ok(());
        }
        self.refused(&Refused(FLOOD, "too many messages".to_owned()));
        Err(ReadEnd::Given(Some(flooded())))
    }

    fn refused(&self, Refused(reason, words): &Refused) {
        let count = self.line.service.counts.refused_messages.count(reason);
        tracing::warn!(node = %self.line.node, reason, count, "a message of a node was refused: {words}");
    }

    /// What a message means to the core; nothing if it concerns only this end of the session.
    fn read(&self, message: pb::MeshMessage) -> Result<Option<Heard>, Refused> {
        let (session, node) = (self.line.session, self.line.node.clone());
        let unknown = || Refused(MALFORMED, "a node does not send this kind of message".to_owned());
        let input = match message.payload.ok_or_else(unknown)? {
            Payload::Heartbeat(heartbeat) => {
                let at = message.timestamp.as_ref().map(millis);
                return Ok(self.heartbeat(heartbeat.kind.ok_or_else(unknown)?, at)?.map(Heard::Input));
            }
            Payload::TaskAssignment(pb::TaskAssignment {
                kind: Some(pb::task_assignment::Kind::Reject(reject)),
            }) => {
                let attempt = attempt_of(reject.attempt.as_ref())?;
                Input::Rejected { node, attempt, reason: short(&reject.reason) }
            }
            Payload::ResultShare(pb::ResultShare { kind: Some(pb::result_share::Kind::Result(result)) }) => {
                let result = AttemptResult::from_proto(result)?;
                let origin = if message.origin_id.is_empty() { node.as_str() } else { &message.origin_id };
                if result.executor.as_str() != origin {
                    return Err(Refused(SENDER_MISMATCH, "the result is of another node".to_owned()));
                }
                let via = (result.executor != node).then_some(node);
                return Ok(Some(Heard::Result((result, via))));
            }
            Payload::FaultTolerance(pb::FaultTolerance { kind: Some(kind) }) => match kind {
                pb::fault_tolerance::Kind::LinkChange(change) => {
                    let (subject, state) = links::changed(&change)?;
                    Input::LinkChanged { session, node, subject, state }
                }
                pb::fault_tolerance::Kind::Drain(drain) => {
                    Input::NodeDraining { session, node, reason: short(&drain.reason) }
                }
                pb::fault_tolerance::Kind::Shutdown(_) | pb::fault_tolerance::Kind::Roster(_) => {
                    return Err(unknown());
                }
            },
            Payload::TaskAssignment(_) | Payload::ResultShare(_) | Payload::FaultTolerance(_) => {
                return Err(unknown());
            }
        };
        Ok(Some(Heard::Input(input)))
    }

    /// `at`: when it was sent, in milliseconds since 1970 by the node's clock.
    fn heartbeat(&self, kind: pb::heartbeat::Kind, at: Option<i64>) -> Result<Option<Input>, Refused> {
        let (session, node) = (self.line.session, self.line.node.clone());
        match kind {
            pb::heartbeat::Kind::Beat(beat) => {
                self.answer(pb::heartbeat::Kind::BeatAck(pb::BeatAck { number: beat.number }));
                let told = &self.line.service.counts.told_by_nodes;
                told.tell(&node, &beat.refused_messages, beat.outputs_by_peers);
                let beat = Beat {
                    load: load(&beat),
                    links: links::reports(&beat)?,
                    attempts: links::progress(&beat)?,
                    abstaining: beat.abstaining,
                };
                Ok(Some(Input::Beat { session, node, beat }))
            }
            pb::heartbeat::Kind::Probe(probe) => {
                self.answer(pb::heartbeat::Kind::ProbeAck(pb::ProbeAck { number: probe.number }));
                Ok(None)
            }
            pb::heartbeat::Kind::ProbeAck(ack) => {
                let answer = self.line.clock().answered(ack.number, at, self.line.service.engine.now());
                // One that is answered twice, or was never asked, says nothing.
                Ok(answer.map(|answer| Input::ProbeAnswered {
                    session,
                    node,
                    number: ack.number,
                    round_trip: answer.round_trip,
                    clock_offset_ms: answer.offset_ms,
                }))
            }
            pb::heartbeat::Kind::ProbeReport(report) => {
                let (subject, number, round_trip) = links::report(&report)?;
                Ok(Some(Input::ProbeReported { session, node, subject, number, round_trip }))
            }
            pb::heartbeat::Kind::BeatAck(_) | pb::heartbeat::Kind::ProbeRequest(_) => {
                Err(Refused(MALFORMED, "a node does not send this kind of message".to_owned()))
            }
        }
    }

    fn answer(&self, kind: pb::heartbeat::Kind) {
        // A node that does not read its answers misses some.
        let _ = self.answers.try_send(Payload::Heartbeat(pb::Heartbeat { kind: Some(kind) }));
    }
}

fn short(reason: &str) -> String {
    reason.chars().take(REASON_CHARS).collect()
}
