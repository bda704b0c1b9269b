//! Results whose node cannot reach the coordinator go by a peer that can; acknowledgements come back the same way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::envelope::Said;
use super::executor::Executor;
use super::inputs::Inputs;
use super::peers::{Conversation, FromPeer, Peers};
use super::way::Way;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::AttemptRef;
use crate::wire::peer::{AttemptResult, Ending};

/// How often a node without a way looks whether it has results.
const LOOK: Duration = Duration::from_millis(200);
/// Looks in a row that must find no way: most lost sessions are back sooner.
const LOOKS_WITHOUT: u32 = 2;
/// A result that nobody acknowledged is given to the next peer after this.
const RETRY: Duration = Duration::from_secs(2);
/// Results of others that are passed on at a time; more are turned down.
const AT_A_TIME: usize = 8;
/// For one of them, its output included.
const DEADLINE: Duration = Duration::from_secs(60);

/// What passing on needs; clones share it.
#[derive(Clone)]
pub(super) struct Relay {
    pub(super) executor: Executor,
    pub(super) inputs: Inputs,
    pub(super) peers: Peers,
    pub(super) way: Way,
}

impl Relay {
    /// Both parts: has this node's results passed on while it has no way itself, and passes on those of others while it
    /// has one. Runs until it is dropped.
    pub(super) async fn run(self, mut from_peers: mpsc::Receiver<FromPeer>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        let mut handed = Handed::default();
        loop {
            tokio::select! {
                Some(what) = from_peers.recv() => match what {
                    FromPeer::Acknowledged(attempt) => {
                        tracing::debug!(%attempt, "acknowledged by way of a peer");
                        handed.since.remove(&attempt);
                        self.executor.acknowledge(&attempt);
                    }
                    FromPeer::TurnedDown(attempt) => {
                        handed.since.remove(&attempt);
                    }
                    FromPeer::Result(result, conversation) => self.take(*result, conversation, &turns),
                },
                _ = looks.tick() => self.look(&mut handed).await,
            }
        }
    }

    /// Gives results to a peer if there has been no way for a while.
    async fn look(&self, handed: &mut Handed) {
        if self.way.is_open(Instant::now()) {
            *handed = Handed { turn: handed.turn, ..Handed::default() };
            return;
        }
        handed.without = handed.without.saturating_add(1);
        if handed.without < LOOKS_WITHOUT {
            return;
        }
        let unacknowledged = self.executor.inventory().1;
        handed.since.retain(|attempt, _| unacknowledged.contains(attempt));
        for attempt in unacknowledged {
            let now = Instant::now();
            let is_due =
                handed.since.get(&attempt).is_none_or(|at| now.saturating_duration_since(*at) >= RETRY);
            let Some(result) = self.executor.result(&attempt).filter(|_| is_due) else { continue };
            let has_left = self.peers.hand_on(handed.turn, &result).await;
            tracing::debug!(%attempt, has_left, "no way to the coordinator; given to a peer");
            handed.turn = handed.turn.wrapping_add(1);
            handed.since.insert(attempt, now);
        }
    }

    /// Passes a peer's result on, or says that it cannot.
    fn take(&self, result: AttemptResult, conversation: Arc<Conversation>, turns: &Arc<Semaphore>) {
        let relay = self.clone();
        let turn = Arc::clone(turns).try_acquire_owned();
        tokio::spawn(async move {
            let passed = match turn {
                Err(_) => Err("BUSY"),
                Ok(_turn) => {
                    let passing = relay.pass_on(&result, &conversation);
                    timeout(DEADLINE, passing).await.unwrap_or(Err("DEADLINE_EXCEEDED"))
                }
            };
            if let Err(reason) = passed {
                tracing::debug!(attempt = %result.key, peer = conversation.peer(), reason, "not passed on");
                let attempt = Some(result.key.to_proto());
                let reject = pb::Reject { attempt, reason: reason.to_owned() };
                let kind = Some(pb::task_assignment::Kind::Reject(reject));
                let said = conversation.say("", Payload::TaskAssignment(pb::TaskAssignment { kind }));
                // A peer that does not read it finds out by itself.
                let _ = timeout(DEADLINE, said).await;
            }
        });
    }

    async fn pass_on(&self, result: &AttemptResult, conversation: &Conversation) -> Result<(), &'static str> {
        const NO_WAY: &str = "NO_WAY";
        self.way.queue(Instant::now()).ok_or(NO_WAY)?;
        if let Ending::Output { output, data: None } = &result.ending {
            let bytes = conversation.fetch(output.digest).await.ok_or("OUTPUT_MISSING")?;
            self.inputs.upload(output.digest, bytes).await.map_err(|_| NO_WAY)?;
        }
        let queue = self.way.queue(Instant::now()).ok_or(NO_WAY)?;
        let kind = Some(pb::result_share::Kind::Result(result.to_proto()));
        let payload = Payload::ResultShare(pb::ResultShare { kind });
        let said = Said { origin: result.executor.to_string(), payload };
        queue.send(said).await.map_err(|_| NO_WAY)?;
        tracing::debug!(attempt = %result.key, origin = conversation.peer(), "passed on");
        Ok(())
    }
}

/// Results that peers were given.
#[derive(Default)]
struct Handed {
    since: BTreeMap<AttemptRef, Instant>,
    /// Looks in a row that found no way.
    without: u32,
    /// Whose turn it is.
    turn: usize,
}
