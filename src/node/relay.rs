//! Results whose node cannot reach the coordinator go by a peer that can; acknowledgements come back the same way.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::types::{AttemptRef, NodeId};
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
                    FromPeer::Acknowledged(peer, attempt) => {
                        if handed.acknowledged(&peer, &attempt) {
                            tracing::debug!(%attempt, peer, "acknowledged by way of a peer");
                            self.executor.acknowledge(&attempt);
                        } else {
                            tracing::warn!(%attempt, peer, "acknowledged by a peer that was not given it; dropped");
                        }
                    }
                    FromPeer::TurnedDown(peer, attempt) => handed.turned_down(&peer, &attempt),
                    FromPeer::Result(result, conversation) => self.take(*result, conversation, &turns),
                },
                _ = looks.tick() => self.look(&mut handed).await,
            }
        }
    }

    /// Gives results to a peer if there has been no way for a while.
    async fn look(&self, handed: &mut Handed) {
        if self.way.is_open(Instant::now()) {
            return handed.has_way();
        }
        handed.without = handed.without.saturating_add(1);
        if handed.without < LOOKS_WITHOUT {
            return;
        }
        let unacknowledged = self.executor.inventory().1;
        handed.given.retain(|attempt, _| unacknowledged.contains(attempt));
        for attempt in unacknowledged {
            let now = Instant::now();
            let is_due = handed.is_due(&attempt, now);
            let Some(result) = self.executor.result(&attempt).filter(|_| is_due) else { continue };
            let peer = self.peers.hand_on(handed.turn, &result).await;
            tracing::debug!(%attempt, ?peer, "no way to the coordinator; given to a peer");
            handed.gave(attempt, peer, now);
        }
    }

    /// Passes a peer's result on, or says that it cannot.
    fn take(&self, result: AttemptResult, conversation: Arc<Conversation>, turns: &Arc<Semaphore>) {
        // Results come as fast as a peer can send them: one that is turned down leaves nothing that waits.
        let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
            return turn_down(&result.key, &conversation, "BUSY");
        };
        let relay = self.clone();
        tokio::spawn(async move {
            let passing = timeout(DEADLINE, relay.pass_on(&result, &conversation));
            if let Err(reason) = passing.await.unwrap_or(Err("DEADLINE_EXCEEDED")) {
                turn_down(&result.key, &conversation, reason);
            }
            drop(turn);
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

/// Tells a peer that its result does not go on from here, unless it does not read: then it finds out by itself.
fn turn_down(attempt: &AttemptRef, conversation: &Conversation, reason: &'static str) {
    tracing::debug!(%attempt, peer = conversation.peer(), reason, "not passed on");
    let reject = pb::Reject { attempt: Some(attempt.to_proto()), reason: reason.to_owned() };
    let kind = Some(pb::task_assignment::Kind::Reject(reject));
    conversation.try_say(Payload::TaskAssignment(pb::TaskAssignment { kind }));
}

/// Results that peers were given.
#[derive(Default)]
struct Handed {
    given: BTreeMap<AttemptRef, Given>,
    /// Looks in a row that found no way.
    without: u32,
    /// Whose turn it is.
    turn: usize,
}

/// One of them.
#[derive(Default)]
struct Given {
    /// When it was given last; none: the next peer gets it now.
    at: Option<Instant>,
    /// Who got it, and may say that it arrived.
    to: BTreeSet<String>,
}

impl Handed {
    fn is_due(&self, attempt: &AttemptRef, now: Instant) -> bool {
        let at = self.given.get(attempt).and_then(|given| given.at);
        at.is_none_or(|at| now.saturating_duration_since(at) >= RETRY)
    }

    fn gave(&mut self, attempt: AttemptRef, peer: Option<NodeId>, now: Instant) {
        let given = self.given.entry(attempt).or_default();
        given.at = Some(now);
        given.to.extend(peer.map(|peer| peer.to_string()));
        self.turn = self.turn.wrapping_add(1);
    }

    /// Whether the peer's word counts that a result arrived: who was not given it cannot know.
    fn acknowledged(&mut self, peer: &str, attempt: &AttemptRef) -> bool {
        let was_given = self.given.get(attempt).is_some_and(|given| given.to.contains(peer));
        was_given && self.given.remove(attempt).is_some()
    }

    fn turned_down(&mut self, peer: &str, attempt: &AttemptRef) {
        if let Some(given) = self.given.get_mut(attempt)
            && given.to.remove(peer)
        {
            given.at = None;
        }
    }

    /// Nothing more goes by peers; what they have may still be acknowledged by them.
    fn has_way(&mut self) {
        self.without = 0;
        for given in self.given.values_mut() {
            given.at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::peers::answering;
    use crate::node::testing::{Idle, inputs, key, node_id, peers, result};
    use crate::types::Incarnation;

    #[test]
    fn only_who_was_given_a_result_may_say_that_it_arrived() {
        let (mut handed, now) = (Handed::default(), Instant::now());
        let peer = |name| NodeId::new(name).expect("valid");
        assert!(handed.is_due(&key(1), now) && !handed.acknowledged("api-docs", &key(1)));
        handed.gave(key(1), Some(peer("api-docs")), now);
        handed.gave(key(2), Some(peer("system-architect")), now);
        handed.gave(key(3), None, now);
        assert!(!handed.is_due(&key(1), now) && handed.is_due(&key(1), now + RETRY));
        for (name, number) in [("system-architect", 1), ("api-docs", 2), ("api-docs", 3)] {
            assert!(!handed.acknowledged(name, &key(number)), "{name} {number}");
        }
        handed.turned_down("system-architect", &key(1));
        assert!(!handed.is_due(&key(1), now), "it has nothing to turn down");
        handed.turned_down("system-architect", &key(2));
        assert!(handed.is_due(&key(2), now) && !handed.acknowledged("system-architect", &key(2)));
        handed.gave(key(1), Some(peer("system-architect")), now);
        handed.has_way();
        assert!(handed.is_due(&key(1), now), "when the way is lost again, at once");
        assert!(handed.acknowledged("api-docs", &key(1)), "the first that was asked took its time");
        assert!(!handed.acknowledged("api-docs", &key(1)));
    }

    #[tokio::test]
    async fn a_result_that_is_turned_down_leaves_nothing_that_waits() {
        let peers = peers();
        let executor = Executor::new(node_id(), Incarnation(1), 1, Arc::new(Idle));
        let relay = Relay { executor, inputs: inputs(&peers), peers: peers.clone(), way: Way::default() };
        // A peer that reads nothing: there is room for one message.
        let (answers, mut said) = mpsc::channel(1);
        let conversation = answering(&peers, "api-docs", answers);
        let full = Arc::new(Semaphore::new(0));
        for number in 0..3 {
            relay.take(result(number), Arc::clone(&conversation), &full);
        }
        assert_eq!(Arc::strong_count(&conversation), 1, "nobody keeps it, nor any result");
        assert!(said.try_recv().is_ok() && said.try_recv().is_err());
    }
}
