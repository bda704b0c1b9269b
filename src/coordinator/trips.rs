//! What nodes' circuit breakers go through is recorded, so that a coordinator that starts anew does not trust a node that
//! an earlier one had found broken.

use std::time::Duration;

use super::breaker::Breaker;
use super::event::{Event, Trip};
use super::{Coordinator, Draft};
use crate::types::{NodeId, Now, Tick, UnixMillis};

impl Coordinator {
    /// Changes a node's breaker: the only way to do so. That it opened, or was closed, is recorded, whatever did it.
    pub(super) fn change_breaker<T>(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        change: impl FnOnce(Tick, &mut Breaker) -> T,
    ) -> T {
        let now = draft.now;
        let breaker = &mut self.presence(node).breaker;
        let before = breaker.tripped();
        let done = change(now.tick, breaker);
        let after = breaker.tripped();
        if before != after {
            let trip = after.map(|tripped| Trip {
                reason: tripped.reason,
                probe_at: later(now.wall, tripped.probe_at.since(now.tick)),
                failed_probes: tripped.failed_probes,
            });
            self.record(draft, Event::NodeBreaker { node: node.clone(), at: now.wall, trip });
        }
        done
    }

    /// Opens a node's breaker as it was under an earlier coordinator, for what is left of its time.
    pub(super) fn resume_breaker(&mut self, node: &NodeId, now: Now) {
        let Some(trip) = self.state.members.get(node).and_then(|member| member.trip.clone()) else { return };
        let left = Duration::from_millis(trip.probe_at.0.saturating_sub(now.wall.0));
        self.presence(node).breaker.resume(now.tick, trip.reason, left, trip.failed_probes);
    }
}

fn later(wall: UnixMillis, by: Duration) -> UnixMillis {
    UnixMillis(wall.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}
