//! The durable state, and the one function that changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::{Event, FaultAnswer, RunEvent, RunOrder};
use super::node::Member;
use super::run::Run;
use crate::types::{Digest, Epoch, NodeId, NodeSpec, NodeStatus, RunId, UnixMillis};

/// How many answers to HandleFault are kept for repetitions.
const KEPT_FAULTS: usize = 1000;

/// All that survives a restart once it is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// This coordinator start.
    pub epoch: Epoch,
    /// Attempts made in this epoch.
    pub attempts: u64,
    /// By name.
    pub members: BTreeMap<NodeId, Member>,
    /// The members that configuration declares.
    pub configured: BTreeSet<NodeId>,
    /// By id.
    pub runs: BTreeMap<RunId, Run>,
    /// Run ids in the order of their start.
    pub order: VecDeque<RunId>,
    /// The runs that have not ended, in the order of their start.
    pub open: Vec<RunId>,
    /// The runs that have ended, with their numbers and when; the oldest first.
    pub ended: BTreeSet<(u64, UnixMillis, RunId)>,
    /// The run each request of each caller started.
    pub requests: BTreeMap<(String, String), RunId>,
    /// Answers to HandleFault by the caller's id.
    pub faults: BTreeMap<String, (Digest, FaultAnswer)>,
    /// The ids of `faults`, oldest first.
    pub fault_order: VecDeque<String>,
}

impl State {
    /// The state before anything happened.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// Applies a fact. The same facts in the same order give the same state.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::NodeDeclared(spec) => self.member(spec).is_undeclared = false,
            Event::MeshConfigured(nodes) => self.configured.clone_from(nodes),
            Event::NodeForgotten(node) => {
                self.members.remove(node);
            }
            Event::NodeJoined { spec, incarnation } => {
                self.member(spec).incarnation = Some(*incarnation);
            }
            Event::NodeStatusChanged { node, status, cause } => {
                if let Some(member) = self.members.get_mut(node) {
                    member.status = *status;
                    member.cause = *cause;
                    member.detail.clear();
                }
            }
            Event::NodeRecovery { node, step, detail } => {
                if let Some(member) = self.members.get_mut(node)
                    && step.explains()
                {
                    member.detail.clone_from(detail);
                }
            }
            Event::NodeDrained { node, drained } => {
                if let Some(member) = self.members.get_mut(node) {
                    member.drained = *drained;
                }
            }
            Event::NodeBreaker { node, trip, .. } => {
                if let Some(member) = self.members.get_mut(node) {
                    member.trip.clone_from(trip);
                }
            }
            Event::FaultHandled { fault_id, body, answer } => {
                self.faults.insert(fault_id.clone(), (*body, answer.clone()));
                self.fault_order.push_back(fault_id.clone());
                if self.fault_order.len() > KEPT_FAULTS
                    && let Some(oldest) = self.fault_order.pop_front()
                {
                    self.faults.remove(&oldest);
                }
            }
            Event::Run { run, at, event, .. } => {
                if let RunEvent::Started { order, .. } = event {
                    self.runs.insert(run.clone(), Run::new((**order).clone(), *at));
                    self.enlist(run, order);
                }
                if let RunEvent::Finished { .. } = event {
                    let newest = self.ended.last().map_or(0, |(number, ..)| *number);
                    self.retire(run, newest + 1, *at);
                }
                if let RunEvent::TaskAssigned { attempt, .. } = event
                    && attempt.epoch == self.epoch
                {
                    self.attempts = self.attempts.max(attempt.number);
                }
                if let Some(state) = self.runs.get_mut(run) {
                    state.apply(*at, event);
                }
            }
            Event::RunForgotten(run) => {
                if let Some(forgotten) = self.runs.remove(run) {
                    if let Some(at) = forgotten.ended_at {
                        self.ended.remove(&(forgotten.ended_as, at, run.clone()));
                    }
                    let key = (forgotten.order.caller, forgotten.order.request_id);
                    if self.requests.get(&key) == Some(run) {
                        self.requests.remove(&key);
                    }
                }
                // It is among the oldest.
                if let Some(place) = self.order.iter().position(|kept| kept == run) {
                    self.order.remove(place);
                }
                self.open.retain(|open| open != run);
            }
        }
    }

    /// Enters a run that was started in the lists.
    pub(super) fn enlist(&mut self, run: &RunId, order: &RunOrder) {
        self.order.push_back(run.clone());
        self.open.push(run.clone());
        if !order.request_id.is_empty() {
            self.requests.insert((order.caller.clone(), order.request_id.clone()), run.clone());
        }
    }

    /// A run in the lists has ended, as the one with this number.
    pub(super) fn retire(&mut self, run: &RunId, number: u64, at: UnixMillis) {
        self.open.retain(|open| open != run);
        if let Some(ended) = self.runs.get_mut(run) {
            ended.ended_as = number;
            self.ended.insert((number, at, run.clone()));
        }
    }

    /// The member that is described so, known before or not.
    fn member(&mut self, spec: &NodeSpec) -> &mut Member {
        let member = self.members.entry(spec.node_id.clone()).or_insert_with(|| Member {
            spec: spec.clone(),
            status: NodeStatus::Initializing,
            cause: None,
            detail: String::new(),
            drained: false,
            incarnation: None,
            trip: None,
            is_undeclared: true,
        });
        member.spec.clone_from(spec);
        member
    }

    /// The nodes that are ACTIVE.
    pub fn active(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter().filter(|(_, member)| member.status == NodeStatus::Active)
    }

    /// ACTIVE nodes / all nodes; 0 for an empty mesh.
    pub fn health(&self) -> f64 {
        match self.members.len() {
            0 => 0.0,
            all => self.active().count() as f64 / all as f64,
        }
    }

    /// Tasks of open runs that wait for a node.
    pub fn waiting_tasks(&self) -> usize {
        self.open_runs().map(|(_, run)| run.waiting_and_running().0).sum()
    }

    /// The runs that have work to do, oldest first.
    pub fn open_runs(&self) -> impl Iterator<Item = (&RunId, &Run)> {
        self.open.iter().filter_map(|id| self.runs.get_key_value(id))
    }
}
