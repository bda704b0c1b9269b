//! Tells each node the links it should hold, and counts those that were measured alive.

use std::collections::BTreeSet;
use std::time::Duration;

use super::decision::Effect;
#[cfg(test)]
use super::links::LinkPlan;
use super::message::{Message, Peer, Roster};
use super::{Coordinator, Draft};
use crate::types::{Incarnation, LinkState, NodeId, NodeStatus, Tick};

/// Share of the planned links among ACTIVE nodes below which they are built anew.
const REBUILD_BELOW: f64 = 0.8;
/// Between two rebuildings, at least.
const REBUILD_EVERY: Duration = Duration::from_secs(60);

/// What is kept to tell nodes of their links.
#[derive(Debug, Default)]
pub(super) struct Rosters {
    version: u64,
    /// Nodes to tell.
    untold: BTreeSet<NodeId>,
    /// Of these, those that close and open every link.
    rebuild: BTreeSet<NodeId>,
    /// Since when too few links live.
    few_since: Option<Tick>,
    rebuilt_at: Option<Tick>,
}

impl Coordinator {
    /// The planned links.
    #[cfg(test)]
    pub(crate) const fn link_plan(&self) -> &LinkPlan {
        &self.links
    }

    /// Takes a node into the plan or out of it: members that are there and can be dialled are in it.
    pub(super) fn relink(&mut self, node: &NodeId) {
        let stands = matches!(self.status(node), Some(NodeStatus::Active | NodeStatus::Degraded))
            && self.presences.get(node).is_some_and(|presence| presence.peer_endpoint.is_some());
        self.refit();
        if stands {
            self.rosters.untold.extend(self.links.add(node));
        } else if self.links.has(node) {
            self.rosters.untold.extend(self.links.remove(node));
            // It may be alive: it closes its links.
            self.rosters.untold.insert(node.clone());
        }
    }

    /// Members may have become too many for the shape in force.
    pub(super) fn refit(&mut self) {
        self.rosters.untold.extend(self.links.fit(self.state.members.len()));
    }

    /// A node's process is new, or has a new connection. What was known of a former process's links is void.
    pub(super) fn relink_process(&mut self, node: &NodeId, is_new: bool) {
        self.rosters.untold.insert(node.clone());
        if !is_new {
            return;
        }
        let observers: Vec<NodeId> = self.links.observers(node).cloned().collect();
        let subjects: Vec<NodeId> = self.links.dials(node).cloned().collect();
        for observer in &observers {
            if let Some(link) =
                self.presences.get_mut(observer).and_then(|presence| presence.links.get_mut(node))
            {
                link.state = LinkState::Connecting;
            }
        }
        for subject in &subjects {
            if let Some(presence) = self.presences.get_mut(subject) {
                presence.contact.views.remove(node);
            }
        }
        self.rosters.untold.extend(observers);
        self.rosters.untold.extend(subjects);
    }

    /// Has a node close its links and open them anew. Answers whether it has any and can be told.
    pub(super) fn rebuild_links(&mut self, node: &NodeId) -> bool {
        let is_told = self.links.has(node)
            && self.presences.get(node).is_some_and(|presence| presence.session.is_some());
        if is_told {
            self.rosters.untold.insert(node.clone());
            self.rosters.rebuild.insert(node.clone());
        }
        is_told
    }

    /// Sends what nodes have not been told yet.
    pub(super) fn tell_rosters(&mut self, draft: &mut Draft) {
        for node in std::mem::take(&mut self.rosters.untold) {
            let rebuild = self.rosters.rebuild.remove(&node);
            // A node without a connection is told when it joins.
            let Some(presence) = self.presences.get(&node) else { continue };
            let (Some(session), Some(_)) = (presence.session, &presence.peer_endpoint) else { continue };
            self.rosters.version += 1;
            let known = |peer: &NodeId| -> Option<(Incarnation, String)> {
                let endpoint = self.presences.get(peer)?.peer_endpoint.clone()?;
                Some((self.state.members.get(peer)?.incarnation?, endpoint))
            };
            let dial = self.links.dials(&node).filter_map(|peer| {
                let (incarnation, endpoint) = known(peer)?;
                Some(Peer { node: peer.clone(), incarnation, endpoint })
            });
            let accept = self.links.observers(&node).filter_map(|peer| Some((peer.clone(), known(peer)?.0)));
            let roster = Roster {
                version: self.rosters.version,
                topology: self.links.topology(),
                dial: dial.collect(),
                accept: accept.collect(),
                rebuild,
            };
            let message = Message::Roster(Box::new(roster));
            draft.effects.push(Effect::Send { node, session, message });
        }
    }

    /// Whether a planned link was lately measured alive between ACTIVE nodes.
    pub(super) fn is_live(&self, now: Tick, observer: &NodeId, subject: &NodeId) -> bool {
        let is_active = |node| self.status(node) == Some(NodeStatus::Active);
        let memory = self.settings.heartbeat_interval * 2;
        is_active(observer)
            && is_active(subject)
            && self.presences.get(observer).is_some_and(|presence| {
                presence.session.is_some()
                    && presence.heard_at.is_some_and(|(heard, _)| now < heard + memory)
                    && presence.links.get(subject).is_some_and(|link| link.state == LinkState::Up)
            })
    }

    /// Builds all links anew if too few live for too long.
    pub(super) fn check_links(&mut self, now: Tick) {
        let is_active = |node| self.status(node) == Some(NodeStatus::Active);
        let among =
            self.links.links().filter(|(observer, subject)| is_active(observer) && is_active(subject));
        let (mut planned, mut live) = (0_usize, 0_usize);
        for (observer, subject) in among {
            planned += 1;
            live += usize::from(self.is_live(now, observer, subject));
        }
        if live as f64 >= REBUILD_BELOW * planned as f64 {
            self.rosters.few_since = None;
            return;
        }
        let since = *self.rosters.few_since.get_or_insert(now);
        let is_rested = self.rosters.rebuilt_at.is_none_or(|at| now >= at + REBUILD_EVERY);
        if now >= since + self.settings.heartbeat_interval * 2 && is_rested {
            self.rosters.rebuilt_at = Some(now);
            let nodes: Vec<NodeId> = self.presences.keys().cloned().collect();
            for node in &nodes {
                self.rebuild_links(node);
            }
        }
    }
}
