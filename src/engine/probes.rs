//! Probes that somebody waits for, apart from those that the core sends to detect failures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::coordinator::input::Input;
use crate::types::NodeId;

/// The numbers of these probes start here, so that no answer is taken for that to one of the core's.
const FIRST: u64 = 1 << 62;

/// All that are waited for.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    made: u64,
    waiting: BTreeMap<u64, (NodeId, oneshot::Sender<ProbeAnswer>)>,
}

/// What a node answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// Between probe and answer; none: a peer was asked and had no answer from the subject.
    pub round_trip: Option<Duration>,
    /// The node's clock less the coordinator's, in milliseconds; a peer that was asked does not tell it.
    pub clock_offset_ms: Option<i64>,
}

/// One that is waited for. Dropped, it is forgotten.
#[derive(Debug)]
pub struct PendingProbe {
    /// Its number, for the message.
    pub number: u64,
    answer: oneshot::Receiver<ProbeAnswer>,
    probes: Probes,
}

impl Probes {
    /// Makes a number for a probe, or a request to probe, that this node will answer.
    pub fn expect(&self, node: NodeId) -> PendingProbe {
        let (sender, answer) = oneshot::channel();
        let mut inner = self.lock();
        let number = FIRST + inner.made;
        inner.made += 1;
        inner.waiting.insert(number, (node, sender));
        drop(inner);
        PendingProbe { number, answer, probes: self.clone() }
    }

    /// Sees an input on its way to the core: whoever waits for the probe that it answers is told.
    pub(super) fn notice(&self, input: &Input) {
        let (node, number, answer) = match input {
            Input::ProbeAnswered { node, number, round_trip, clock_offset_ms, .. } => {
                let answer =
                    ProbeAnswer { round_trip: Some(*round_trip), clock_offset_ms: Some(*clock_offset_ms) };
                (node, number, answer)
            }
            Input::ProbeReported { node, number, round_trip, .. } => {
                (node, number, ProbeAnswer { round_trip: *round_trip, clock_offset_ms: None })
            }
            _ => return,
        };
        let mut inner = self.lock();
        // Another node's word is no answer of this one.
        if inner.waiting.get(number).is_some_and(|(expected, _)| expected == node)
            && let Some((_, waiting)) = inner.waiting.remove(number)
        {
            // It may have stopped waiting.
            let _ = waiting.send(answer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingProbe {
    /// Waits for the answer; none if there is none by then.
    pub async fn answered(mut self, by: Instant) -> Option<ProbeAnswer> {
        timeout_at(by, &mut self.answer).await.ok()?.ok()
    }
}

impl Drop for PendingProbe {
    fn drop(&mut self) {
        self.probes.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SessionId;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid node id")
    }

    fn answered(name: &str, number: u64) -> Input {
        Input::ProbeAnswered {
            session: SessionId(1),
            node: node(name),
            number,
            round_trip: Duration::from_millis(3),
            clock_offset_ms: -7,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_reaches_the_one_that_waits_for_it_and_only_from_the_node_that_was_asked() {
        let probes = Probes::default();
        let (first, second) = (probes.expect(node("a")), probes.expect(node("b")));
        probes.notice(&answered("b", first.number));
        probes.notice(&answered("b", second.number));
        probes.notice(&answered("b", second.number));
        let by = Instant::now() + Duration::from_secs(1);
        let expected = ProbeAnswer { round_trip: Some(Duration::from_millis(3)), clock_offset_ms: Some(-7) };
        assert_eq!(second.answered(by).await, Some(expected));
        assert_eq!(first.answered(by).await, None, "nobody but `a` can answer for it");
        assert!(probes.lock().waiting.is_empty(), "nothing is kept for those that have gone");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_reports_is_an_answer_too_if_it_reached_nobody() {
        let probes = Probes::default();
        let asked = probes.expect(node("a"));
        probes.notice(&Input::ProbeReported {
            session: SessionId(1),
            node: node("a"),
            subject: node("b"),
            number: asked.number,
            round_trip: None,
        });
        let answer = asked.answered(Instant::now()).await.expect("an answer");
        assert_eq!((answer.round_trip, answer.clock_offset_ms), (None, None));
    }
}
