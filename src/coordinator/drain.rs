//! Nodes that leave in order: drained by an operator, or asked to end.
//!
//! Both get no new work and finish what they have. A node that an operator drained stays connected and without work, over
//! reconnects and restarts of its process, until it is recovered. One that was asked to end goes, which is no fault.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decision::{Effect, Reply};
use super::event::{Event, RecoveryStep};
use super::message::Message;
use super::{Coordinator, Draft};
use crate::types::{AttemptRef, FaultCause, Incarnation, NodeId, NodeStatus, SessionId, Tick};

/// What is volatile of draining.
#[derive(Debug, Default)]
pub(super) struct Drains {
    /// Until when a drained node may finish what it runs; gone once it runs nothing.
    deadlines: BTreeMap<NodeId, Tick>,
    /// The processes that were asked to end.
    leaving: BTreeMap<NodeId, Leaving>,
    /// The coordinator's process ends.
    stopping: bool,
}

#[derive(Debug)]
struct Leaving {
    incarnation: Incarnation,
    reason: String,
    /// The connection by which it was told that nothing of it is missed any more.
    dismissed: Option<SessionId>,
}

impl Drains {
    /// The moments at which a drain is over.
    pub(super) fn wakes(&self) -> impl Iterator<Item = Tick> {
        self.deadlines.values().copied()
    }

    /// Gives what drained nodes run more time.
    pub(super) fn postpone(&mut self, by: Duration) {
        for deadline in self.deadlines.values_mut() {
            *deadline = *deadline + by;
        }
    }
}

impl Coordinator {
    /// The status that contact with a node gives it: an operator's word and a drain stand against it.
    pub(super) fn status_on_contact(&self, node: &NodeId) -> Option<(NodeStatus, Option<FaultCause>)> {
        let member = self.state.members.get(node)?;
        match (member.status, member.cause) {
            (NodeStatus::Failed, Some(FaultCause::Operator)) => None,
            _ if member.drained || self.is_leaving(node) => {
                Some((NodeStatus::Degraded, Some(FaultCause::Draining)))
            }
            _ => Some((NodeStatus::Active, None)),
        }
    }

    /// Whether the node's process was asked to end.
    pub(super) fn is_leaving(&self, node: &NodeId) -> bool {
        let current = self.state.members.get(node).and_then(|member| member.incarnation);
        self.drains.leaving.get(node).is_some_and(|leaving| Some(leaving.incarnation) == current)
    }

    /// Whether an operator marked the node FAILED, which only an operator takes back.
    pub(super) fn is_failed_by_an_operator(&self, node: &NodeId) -> bool {
        self.state.members.get(node).is_some_and(|member| {
            (member.status, member.cause) == (NodeStatus::Failed, Some(FaultCause::Operator))
        })
    }

    /// Whether an operator drained the node.
    pub(super) fn is_drained(&self, node: &NodeId) -> bool {
        self.state.members.get(node).is_some_and(|member| member.drained)
    }

    /// The coordinator's process ends its nodes.
    pub(super) fn stop_in_order(&mut self) -> Reply {
        self.drains.stopping = true;
        Reply::Done
    }

    /// Whether the node is no fault when it goes.
    pub(super) fn goes_in_order(&self, node: &NodeId) -> bool {
        self.drains.stopping || self.is_leaving(node)
    }

    /// Whether a process of the node is wanted when one ends in order.
    pub(super) const fn wants_nodes(&self) -> bool {
        !self.drains.stopping
    }

    /// A node says that it was asked to end.
    pub(super) fn node_draining(
        &mut self,
        draft: &mut Draft,
        session: SessionId,
        node: &NodeId,
        reason: &str,
    ) -> Reply {
        if self.presences.get(node).is_some_and(|presence| presence.session == Some(session)) {
            self.note_leaving(node, reason);
            self.hold(draft, node, reason);
        }
        Reply::Done
    }

    /// Remembers that the node's process was asked to end.
    pub(super) fn note_leaving(&mut self, node: &NodeId, reason: &str) {
        if let Some(incarnation) = self.state.members.get(node).and_then(|member| member.incarnation) {
            let reason = reason.chars().take(200).collect();
            self.drains.leaving.insert(node.clone(), Leaving { incarnation, reason, dismissed: None });
        }
    }

    /// What was presumed of it at the coordinator's start is not so.
    pub(super) fn is_not_leaving(&mut self, node: &NodeId) {
        self.drains.leaving.remove(node);
    }

    /// The drained node gets no new work, and is told so to people.
    fn hold(&mut self, draft: &mut Draft, node: &NodeId, reason: &str) {
        let already = self.state.members.get(node).is_some_and(|at| at.cause == Some(FaultCause::Draining));
        if !already && matches!(self.status(node), Some(NodeStatus::Active | NodeStatus::Degraded)) {
            self.set_status(draft, node, NodeStatus::Degraded, Some(FaultCause::Draining));
            let held = self.presences.get(node).map_or(0, |presence| presence.running.len());
            let detail = format!("{reason}; {held} running tasks to finish");
            self.tell(draft, node, RecoveryStep::Draining, detail);
        }
    }

    /// An operator drains a node. Answers what was done, in words.
    pub(super) fn drain_node(&mut self, draft: &mut Draft, node: &NodeId, bound: Option<Duration>) -> String {
        if !self.is_drained(node) {
            self.record(draft, Event::NodeDrained { node: node.clone(), drained: true });
        }
        let bound = bound.unwrap_or(self.settings.drain_timeout);
        self.drains.deadlines.insert(node.clone(), draft.now.tick + bound);
        self.hold(draft, node, "drained by an operator");
        let held = self.presences.get(node).map_or(0, |presence| presence.running.len());
        let text = match (held, self.status(node)) {
            (_, Some(NodeStatus::Failed | NodeStatus::Initializing)) => {
                format!("{node} is not connected: it gets no work when it comes back")
            }
            (0, _) => format!("{node} runs nothing: it is drained"),
            (held, _) => format!(
                "{node} gets no new work; its {held} running tasks have {} s to end, then they are given to others",
                bound.as_secs_f64()
            ),
        };
        self.end_drains(draft);
        text
    }

    /// Takes up a drain that was ordered under an earlier coordinator: what the node still runs gets its time anew. If it
    /// runs nothing, that was told already.
    pub(super) fn take_up_drain(&mut self, node: &NodeId, now: Tick) {
        let runs = self.presences.get(node).is_some_and(|presence| !presence.running.is_empty());
        if runs && self.is_drained(node) {
            self.drains.deadlines.insert(node.clone(), now + self.settings.drain_timeout);
        }
    }

    /// Takes the drain of a node back. Answers whether there was one.
    pub(super) fn undrain(&mut self, draft: &mut Draft, node: &NodeId) -> bool {
        self.drains.deadlines.remove(node);
        let drained = self.is_drained(node);
        if drained {
            self.record(draft, Event::NodeDrained { node: node.clone(), drained: false });
        }
        drained
    }

    /// The node belongs to the mesh no more.
    pub(super) fn forget_drain(&mut self, node: &NodeId) {
        self.drains.deadlines.remove(node);
        self.drains.leaving.remove(node);
    }

    /// Drains that are done, or whose time is over.
    pub(super) fn end_drains(&mut self, draft: &mut Draft) {
        self.dismiss_leaving(draft);
        let now = draft.now.tick;
        let runs =
            |node: &NodeId| self.presences.get(node).is_some_and(|presence| !presence.running.is_empty());
        let ended: Vec<NodeId> = self
            .drains
            .deadlines
            .iter()
            .filter(|(node, at)| now >= **at || !runs(node))
            .map(|(node, _)| node.clone())
            .collect();
        for node in ended {
            self.drains.deadlines.remove(&node);
            let taken = self.take_work(draft, &node, false, "its node was drained");
            if self.state.members.get(&node).is_some_and(|member| member.status == NodeStatus::Degraded) {
                let detail = match taken.len() {
                    0 => "it finished what it ran; it can be stopped without loss".to_owned(),
                    late => format!("{late} tasks did not end in time and went to others; it can be stopped"),
                };
                self.tell(draft, &node, RecoveryStep::Drained, detail);
            }
        }
    }

    /// Tells nodes that were asked to end, once they have nothing left, that they may: before, they cannot know whether
    /// their word and their results arrived.
    fn dismiss_leaving(&mut self, draft: &mut Draft) {
        let members = &self.state.members;
        self.drains.leaving.retain(|node, leaving| {
            members.get(node).is_some_and(|member| member.incarnation == Some(leaving.incarnation))
        });
        for (node, leaving) in &mut self.drains.leaving {
            let presence = self.presences.get(node).filter(|presence| presence.running.is_empty());
            if let Some(session) = presence.and_then(|presence| presence.session)
                && leaving.dismissed != Some(session)
            {
                leaving.dismissed = Some(session);
                let message = Message::Shutdown { reason: "it has finished what it had".into() };
                draft.effects.push(Effect::Send { node: node.clone(), session, message });
            }
        }
    }

    /// The connection of a node ended. If it was asked to end and has nothing left, it is gone.
    pub(super) fn gone_if_leaving(&mut self, draft: &mut Draft, node: &NodeId) {
        let idle = self.presences.get(node).is_none_or(|presence| presence.running.is_empty());
        if idle && self.goes_in_order(node) {
            self.left(draft, node);
        }
    }

    /// A node that was asked to end is gone: no fault, and what it could not finish does not count.
    pub(super) fn left(&mut self, draft: &mut Draft, node: &NodeId) -> Vec<AttemptRef> {
        let reason = self.drains.leaving.get(node).map(|at| at.reason.clone());
        let reason = reason.unwrap_or_else(|| "the coordinator ends its nodes".to_owned());
        let taken = self.take_work(draft, node, false, "its node was asked to end");
        if self.is_failed_by_an_operator(node) {
            // That word stands, whatever its process does.
            return taken;
        }
        if self.status(node) != Some(NodeStatus::Initializing) {
            self.set_status(draft, node, NodeStatus::Initializing, None);
            self.tell(draft, node, RecoveryStep::Left, format!("it left in order: {reason}"));
        }
        // Those that only the end of the coordinator sends away look for its successor.
        if self.is_leaving(node) {
            self.forget_if_it_left(draft, node);
        }
        taken
    }
}
