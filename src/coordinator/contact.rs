//! Signs of life: what nodes say of themselves and of one another between their joins and their ends.

use std::collections::VecDeque;

use super::decision::Reply;
use super::input::Beat;
use super::suspicion::View;
use super::{Coordinator, Draft};
use crate::types::{LinkReport, LinkState, NodeId, NodeStatus, Now, SessionId, Tick};

/// Measurements of a clock that are kept: the median of some is not moved by one that was late.
const KEPT_OFFSETS: usize = 5;

impl Coordinator {
    /// Anything that a node says on its session is a sign of life. Answers whether it is the session in force.
    fn hear(&mut self, now: Now, session: SessionId, node: &NodeId) -> bool {
        if self.presences.get(node).is_none_or(|presence| presence.session != Some(session)) {
            return false;
        }
        let is_gap = !self.is_responsive(node, now.tick);
        let presence = self.presence(node);
        presence.heard_at = Some((now.tick, now.wall));
        // Not before: whoever gave up while its Hello waited to be decided on is still on its way here.
        presence.contact.is_awaited = false;
        presence.contact.has_spoken = true;
        if is_gap || presence.contact.since.is_none() {
            presence.contact.since = Some(now.tick);
        }
        self.clear_suspicion(node, now.tick);
        if self.status(node) != Some(NodeStatus::Active) {
            self.wake(node, now.tick);
        }
        true
    }

    pub(super) fn beat(&mut self, draft: &mut Draft, session: SessionId, node: &NodeId, beat: Beat) -> Reply {
        let now = draft.now;
        if !self.hear(now, session, node) {
            return Reply::Done;
        }
        let presence = self.presence(node);
        presence.load = beat.load;
        presence.measured = true;
        presence.contact.abstains = beat.abstaining;
        for link in beat.links {
            self.see(now.tick, node, link);
        }
        self.check_attempts(draft, node, &beat.attempts);
        Reply::Done
    }

    pub(super) fn probe_answered(
        &mut self,
        draft: &Draft,
        session: SessionId,
        node: &NodeId,
        clock_offset_ms: i64,
    ) -> Reply {
        if self.hear(draft.now, session, node) {
            let presence = self.presence(node);
            let offsets = &mut presence.contact.clock_offsets;
            offsets.push_back(clock_offset_ms);
            if offsets.len() > KEPT_OFFSETS {
                offsets.pop_front();
            }
            presence.clock_offset_ms = median(offsets);
        }
        Reply::Done
    }

    /// A node tells at once when a link changes; its beats tell all of them.
    pub(super) fn link_changed(
        &mut self,
        draft: &Draft,
        session: SessionId,
        node: &NodeId,
        subject: NodeId,
        state: LinkState,
    ) -> Reply {
        let now = draft.now;
        if self.hear(now, session, node) {
            let known = self.presences.get(node).and_then(|presence| presence.links.get(&subject)).cloned();
            let mut link = known.unwrap_or_else(|| LinkReport::new(subject, state));
            link.state = state;
            link.last_seen_age = (state == LinkState::Up).then_some(std::time::Duration::ZERO);
            self.see(now.tick, node, link);
        }
        Reply::Done
    }

    /// A node looked at another because it was asked to. Only that it reached it says something: that it did not may be
    /// its own doing.
    pub(super) fn probe_reported(
        &mut self,
        draft: &Draft,
        session: SessionId,
        node: &NodeId,
        subject: &NodeId,
        reached: bool,
    ) -> Reply {
        let now = draft.now;
        if self.hear(now, session, node) && reached && self.links.plans(node, subject) {
            self.was_seen(subject, now.tick);
        }
        Reply::Done
    }

    /// Somebody else had an answer from a node.
    pub(super) fn was_seen(&mut self, node: &NodeId, at: Tick) {
        let Some(presence) = self.presences.get_mut(node) else { return };
        presence.contact.seen_at = presence.contact.seen_at.max(Some(at));
        if self.status(node) != Some(NodeStatus::Active) {
            // Its alarm is due with this very batch.
            self.wake(node, at);
        }
    }

    /// Takes down what a node says of a link of its own, if it should have that link.
    fn see(&mut self, now: Tick, observer: &NodeId, link: LinkReport) {
        if !self.links.plans(observer, &link.peer) {
            // Its last word on a link that has just been given up: for readers of the mesh's health, not evidence.
            let known =
                self.presences.get_mut(observer).and_then(|presence| presence.links.get_mut(&link.peer));
            if let Some(known) =
                known.filter(|known| known.state != link.state && link.state != LinkState::Up)
            {
                *known = link;
                self.revision += 1;
            }
            return;
        }
        let (subject, state) = (link.peer.clone(), link.state);
        let presence = self.presence(observer);
        let abstains = presence.contact.abstains;
        if abstains && state != LinkState::Up {
            return;
        }
        let age = link.last_seen_age;
        let before = presence.links.insert(subject.clone(), link).map(|link| link.state);
        if (before == Some(LinkState::Up)) != (state == LinkState::Up) {
            // Readers of the mesh's health want to know.
            self.revision += 1;
        }
        if let Some(age) = age {
            self.was_seen(&subject, now - age);
        }
        let Some(presence) = self.presences.get_mut(&subject) else { return };
        let known = presence.contact.views.get(observer).filter(|view| view.state == state);
        let since = known.map_or(now, |view| view.since);
        let is_new = known.is_none();
        presence.contact.views.insert(observer.clone(), View { state, since });
        if is_new && matches!(state, LinkState::Reset | LinkState::Silent) {
            presence.contact.accused_at = Some(now);
            self.wake(&subject, now);
        }
    }
}

/// The middle one.
fn median(numbers: &VecDeque<i64>) -> Option<i64> {
    let mut sorted: Vec<i64> = numbers.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_a_measurement_that_was_late() {
        assert_eq!(median(&VecDeque::new()), None);
        assert_eq!(median(&[7].into()), Some(7));
        assert_eq!(median(&[3, 900, 2, -4, 5].into()), Some(3));
    }
}
