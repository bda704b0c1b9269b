//! Which probes a diagnosis needs, and what may come of them.

use std::time::Duration;

use crate::coordinator::Coordinator;
use crate::types::{LinkState, NodeId, SessionId};

/// Peers that are asked to probe one node.
const OBSERVERS: usize = 3;

/// What to probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbePlan {
    /// By the coordinator: each node, with its session if it has one.
    pub direct: Vec<(NodeId, Option<SessionId>)>,
    /// By peers: the observer, its session, and the node it should look at.
    pub by_peers: Vec<(NodeId, SessionId, NodeId)>,
}

/// A probe of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct PathProbe {
    /// Who probed; none: the coordinator.
    pub from: Option<NodeId>,
    /// The node.
    pub to: NodeId,
    /// What came of it.
    pub outcome: ProbeOutcome,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeOutcome {
    /// It was answered.
    Answered {
        /// Between probe and answer.
        round_trip: Duration,
        /// The node's clock less the coordinator's, in milliseconds; peers do not tell it.
        clock_offset_ms: Option<i64>,
    },
    /// It was not answered in time, or the peer that was asked had no answer.
    Unanswered,
    /// It could not be sent, or the peer that was asked did not report.
    Impossible(&'static str),
}

impl PathProbe {
    /// Whether it was answered.
    pub const fn is_answered(&self) -> bool {
        matches!(self.outcome, ProbeOutcome::Answered { .. })
    }

    /// The manual's word for it: `passed`, `failed`, `error: ...`.
    pub fn result(&self) -> String {
        match self.outcome {
            ProbeOutcome::Answered { .. } => "passed".to_owned(),
            ProbeOutcome::Unanswered => "failed".to_owned(),
            ProbeOutcome::Impossible(why) => format!("error: {why}"),
        }
    }
}

impl Coordinator {
    /// The probes for one node, its peers' included, or of all nodes by the coordinator alone: what peers see of each
    /// other arrives with every heartbeat anyway.
    pub fn probe_plan(&self, node: Option<&NodeId>) -> ProbePlan {
        let session = |id: &NodeId| self.presences.get(id).and_then(|presence| presence.session);
        let Some(node) = node else {
            let direct = self.state.members.keys().map(|id| (id.clone(), session(id))).collect();
            return ProbePlan { direct, by_peers: Vec::new() };
        };
        if !self.state.members.contains_key(node) {
            return ProbePlan::default();
        }
        let linked = |id: &NodeId| {
            let links = self.presences.get(id).map(|presence| &presence.links);
            links.and_then(|links| links.get(node)).map(|link| link.state)
        };
        let mut observers: Vec<_> = self
            .state
            .active()
            .filter(|(id, _)| *id != node)
            .filter_map(|(id, _)| Some((id, session(id)?, linked(id)?)))
            .collect();
        // Those whose link stands can tell most; of the others, the name decides.
        observers.sort_by_key(|(id, _, state)| (*state != LinkState::Up, (*id).clone()));
        let by_peers = observers
            .into_iter()
            .take(OBSERVERS)
            .map(|(id, session, _)| (id.clone(), session, node.clone()))
            .collect();
        ProbePlan { direct: vec![(node.clone(), session(node))], by_peers }
    }
}
