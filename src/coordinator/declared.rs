//! Which nodes belong to the mesh: those that configuration or a client declares, and those that join.

use std::collections::BTreeSet;

use super::decision::{Refusal, Reply};
use super::event::Event;
use super::{Coordinator, Draft};
use crate::types::{AttemptRef, NodeId, NodeSpec, NodeStatus};

impl Coordinator {
    /// Nodes are declared. What one that is there was started as cannot be changed, nor of one that is only away for a
    /// moment: it comes back as the same.
    pub(super) fn declare(&mut self, draft: &mut Draft, specs: Vec<NodeSpec>) -> Reply {
        for spec in &specs {
            if self.state.members.get(&spec.node_id).is_some_and(|member| member.spec != *spec)
                && !self.is_away(&spec.node_id)
            {
                return Reply::Refused(Refusal::DeclaredOtherwise(spec.node_id.clone()));
            }
        }
        let new = specs.iter().filter(|spec| !self.state.members.contains_key(&spec.node_id)).count();
        if let Some(refusal) = self.too_many_nodes(new) {
            return Reply::Refused(refusal);
        }
        for spec in specs {
            let known = self.state.members.get(&spec.node_id);
            if known.is_none_or(|member| member.spec != spec || member.is_undeclared) {
                self.record(draft, Event::NodeDeclared(spec));
            }
        }
        self.refit();
        Reply::Done
    }

    /// Declares what configuration has, and lets go of what an earlier one had and this one has not, unless it has joined
    /// by itself meanwhile; and of those that left while an earlier coordinator ended.
    pub(super) fn configure(&mut self, draft: &mut Draft, specs: Vec<NodeSpec>) -> Reply {
        let configured: BTreeSet<NodeId> = specs.iter().map(|spec| spec.node_id.clone()).collect();
        // A process that was there before and may come back is what it was started as, until another takes its place.
        let specs = specs.into_iter().filter(|spec| !self.is_awaited(&spec.node_id)).collect();
        let reply = self.declare(draft, specs);
        if reply != Reply::Done {
            return reply;
        }
        let gone: Vec<NodeId> = self.state.configured.difference(&configured).cloned().collect();
        for node in gone {
            if !self.is_connected(&node) {
                self.forget_node(draft, &node);
            }
        }
        if configured != self.state.configured {
            self.record(draft, Event::MeshConfigured(configured));
        }
        let nodes: Vec<NodeId> = self.state.members.keys().cloned().collect();
        for node in nodes {
            self.forget_if_it_left(draft, &node);
        }
        self.refit();
        Reply::Done
    }

    /// Lets go of a node that left in order, if nobody but itself ever said that it belongs here: nodes of changing names
    /// would be missed for ever, and fill the mesh. What an operator or its breaker decided about it must not be forgotten
    /// by its leaving.
    pub(super) fn forget_if_it_left(&mut self, draft: &mut Draft, node: &NodeId) {
        let belongs = self.state.configured.contains(node) || self.settings.restart.launched.contains(node);
        let has_left = self.state.members.get(node).is_some_and(|member| {
            member.status == NodeStatus::Initializing
                && member.is_undeclared
                && !member.drained
                && member.trip.is_none()
        });
        if has_left && !belongs && !self.is_connected(node) {
            self.forget_node(draft, node);
        }
    }

    /// Lets go of a node. Answers what it had.
    pub(super) fn forget_node(&mut self, draft: &mut Draft, node: &NodeId) -> Vec<AttemptRef> {
        let taken = self.take_work(draft, node, false, "its node belongs to the mesh no more");
        self.clear_suspicion(node, draft.now.tick);
        self.forget_drain(node);
        self.presences.remove(node);
        // Whoever linked to it says no more of that link.
        for presence in self.presences.values_mut() {
            presence.links.remove(node);
            presence.contact.views.remove(node);
        }
        self.relink(node);
        self.record(draft, Event::NodeForgotten(node.clone()));
        taken
    }

    pub(super) fn is_connected(&self, node: &NodeId) -> bool {
        self.presences.get(node).is_some_and(|presence| presence.session.is_some())
    }

    /// Whether no process of the node is there, and none is waited for that may only have lost its connection.
    pub(super) fn is_away(&self, node: &NodeId) -> bool {
        let status = self.status(node);
        !self.is_connected(node) && !matches!(status, Some(NodeStatus::Active | NodeStatus::Degraded))
    }

    pub(super) fn too_many_nodes(&self, new: usize) -> Option<Refusal> {
        let most = self.settings.max_nodes;
        (new > 0 && self.state.members.len() + new > most).then_some(Refusal::TooManyNodes(most))
    }
}
