//! How long a node that was in doubt must stay in contact before it gets work again, so that one that comes and goes does
//! not change its status each time.

use std::time::Duration;

use super::Coordinator;
use super::node::Presence;
use super::suspicion;
use crate::types::{LinkState, NodeId, Tick};

/// How far back times at which a node stopped being ACTIVE are remembered.
const FLAP_MEMORY: Duration = Duration::from_secs(300);
/// How many of them.
const KEPT_FLAPS: usize = 8;

impl Coordinator {
    /// Whether a node that is back has been in contact for long enough.
    pub(super) fn is_proved(&self, node: &NodeId, now: Tick) -> bool {
        let Some(presence) = self.presences.get(node) else { return false };
        let since = presence.contact.since.filter(|_| presence.session.is_some());
        let hold = self.hold_down(presence, now);
        since.is_some_and(|since| now >= since + hold) && !self.is_doubted_by_peers(node, now, hold)
    }

    /// Whether most of its peers that have a connection to a node had no answer, or have had answers for a shorter time
    /// than the hold: what comes through to the coordinator by luck is no return. A link that was never established
    /// says nothing, for the way to the node's listener may be closed for good.
    fn is_doubted_by_peers(&self, node: &NodeId, now: Tick, hold: Duration) -> bool {
        let (mut linked, mut doubting) = (0_usize, 0_usize);
        for (_, view) in self.witnesses(node, now) {
            let is_up = view.state == LinkState::Up;
            linked += usize::from(is_up || view.state == LinkState::Silent);
            doubting += usize::from(view.state == LinkState::Silent || (is_up && now < view.since + hold));
        }
        linked > 1 && doubting * 2 > linked
    }

    pub(super) fn hold_down(&self, presence: &Presence, now: Tick) -> Duration {
        if presence.contact.is_excused {
            return Duration::ZERO;
        }
        let flaps = presence.contact.flaps.iter().filter(|at| now < **at + FLAP_MEMORY).count();
        suspicion::hold(self.settings.heartbeat_interval, flaps)
    }

    /// Remembers that a node stopped being ACTIVE; whoever does so often is held back for longer.
    pub(super) fn note_flap(&mut self, node: &NodeId, now: Tick) {
        if self.watch.is_guarded {
            return;
        }
        let flaps = &mut self.presence(node).contact.flaps;
        flaps.push_back(now);
        if flaps.len() > KEPT_FLAPS {
            flaps.pop_front();
        }
    }
}
