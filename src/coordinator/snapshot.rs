//! The state in parts, as it is stored in place of the facts that made it.
//!
//! Parts are facts too: applied in their order to a state in which nothing has happened, they give the state they were
//! taken of. A part's meaning never changes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::event::FaultAnswer;
use super::node::Member;
use super::run::Run;
use super::state::State;
use crate::types::{Digest, NodeId, RunId};

/// A part of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// A node.
    Member(Box<Member>),
    /// The members that configuration declares.
    Configured(BTreeSet<NodeId>),
    /// A run. Runs come in the order of their start.
    Run {
        /// Its id.
        id: RunId,
        /// What became of it.
        run: Box<Run>,
    },
    /// An operator's request that was carried out. They come oldest first.
    Fault {
        /// The caller's id for it.
        fault_id: String,
        /// Digest of the request.
        body: Digest,
        /// The answer.
        answer: FaultAnswer,
    },
}

impl State {
    /// All of it but the epoch, which belongs to a coordinator's start.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let members = self.members.values().map(|member| Part::Member(Box::new(member.clone())));
        let runs = self.order.iter().filter_map(|id| {
            let run = self.runs.get(id)?;
            Some(Part::Run { id: id.clone(), run: Box::new(run.clone()) })
        });
        let faults = self.fault_order.iter().filter_map(|fault_id| {
            let (body, answer) = self.faults.get(fault_id)?;
            Some(Part::Fault { fault_id: fault_id.clone(), body: *body, answer: answer.clone() })
        });
        let configured = std::iter::once(Part::Configured(self.configured.clone()));
        members.chain(configured).chain(runs).chain(faults)
    }

    /// Takes in a part.
    pub fn restore(&mut self, part: Part) {
        match part {
            Part::Member(member) => {
                self.members.insert(member.spec.node_id.clone(), *member);
            }
            Part::Configured(nodes) => self.configured = nodes,
            Part::Run { id, mut run } => {
                run.complete();
                self.enlist(&id, &run.order);
                let (number, ended_at) = (run.ended_as, run.ended_at);
                self.runs.insert(id.clone(), *run);
                if let Some(at) = ended_at {
                    self.retire(&id, number, at);
                }
            }
            Part::Fault { fault_id, body, answer } => {
                self.faults.insert(fault_id.clone(), (body, answer));
                self.fault_order.push_back(fault_id);
            }
        }
    }
}
