//! A node is FAILED: by detection, by its launcher, or by an operator; and what operators can do about nodes.

use std::collections::BTreeSet;

use super::breaker::TripReason;
use super::decision::{Refusal, Reply};
use super::event::{Event, FaultAnswer, RunEvent};
use super::input::{FaultAction, FaultRequest, FaultTarget};
use super::run::TaskState;
use super::{Coordinator, Draft};
use crate::types::{AttemptRef, FaultCause, NodeId, NodeStatus, RunId};

impl Coordinator {
    /// Marks a node FAILED and gives its work to others. Answers what it had. A node that was asked to end is not
    /// FAILED by its going.
    pub(super) fn fail(&mut self, draft: &mut Draft, node: &NodeId, cause: FaultCause) -> Vec<AttemptRef> {
        if cause != FaultCause::Operator {
            if self.status(node) == Some(NodeStatus::Failed) {
                return Vec::new();
            }
            if self.goes_in_order(node) {
                let taken = self.left(draft, node);
                if cause == FaultCause::ProcessExited && self.wants_nodes() {
                    // Whoever launched it wants it to be there.
                    self.replace_process(node);
                }
                return taken;
            }
        }
        self.set_status(draft, node, NodeStatus::Failed, Some(cause));
        let runs: BTreeSet<RunId> =
            self.presence(node).running.values().map(|attempt| attempt.run.clone()).collect();
        for run in runs {
            self.record_run(draft, &run, RunEvent::NodeFault { node: node.clone(), cause });
        }
        // An operator's word says nothing about the tasks, so it does not count against their budgets; nor does the end
        // of a process together with its coordinator, which is that of their machine more often than theirs.
        let counts = cause != FaultCause::Operator && !self.is_awaited(node);
        let taken = self.take_work(draft, node, counts, "the node was marked FAILED");
        self.change_breaker(draft, node, |now, breaker| breaker.trip(now, TripReason::DeclaredFailed, 0.0));
        taken
    }

    /// Does what an operator asks. Whatever can be refused is refused before anything takes effect.
    pub(super) fn handle_fault(&mut self, draft: &mut Draft, request: &FaultRequest) -> Reply {
        if let Some(reply) = self.repeated(request) {
            return reply;
        }
        let nodes: Vec<NodeId> = match &request.target {
            FaultTarget::All => self.state.members.keys().cloned().collect(),
            FaultTarget::Node(node) if request.action == FaultAction::Forget && self.is_connected(node) => {
                return Reply::Refused(Refusal::NodeConnected(node.clone()));
            }
            FaultTarget::Node(node) if self.state.members.contains_key(node) => vec![node.clone()],
            FaultTarget::Node(node) => return Reply::Refused(Refusal::UnknownNode(node.clone())),
        };
        let (mut steps, mut taken) = (Vec::new(), Vec::new());
        for node in &nodes {
            match request.action {
                FaultAction::Fail => taken.extend(self.fail_node(draft, node, &mut steps)),
                FaultAction::Recover => steps.push(self.recover_node(draft, node)),
                FaultAction::Drain { bound } => {
                    let held: Vec<AttemptRef> = self.presence(node).attempts().collect();
                    steps.push(self.drain_node(draft, node, bound));
                    if self.presence(node).running.is_empty() {
                        taken.extend(held);
                    }
                }
                FaultAction::ResetBreaker => {
                    self.change_breaker(draft, node, |_, breaker| breaker.reset());
                    steps.push(format!("closed the circuit breaker of {node}"));
                }
                FaultAction::RebuildConnections => steps.push(if self.rebuild_links(node) {
                    format!("{node} closes its links and opens them anew")
                } else {
                    format!("{node} has no links, or no connection by which it could be told")
                }),
                FaultAction::Forget if self.is_connected(node) => {
                    steps.push(format!("{node} is connected, so it stays"));
                }
                FaultAction::Forget => {
                    let comes_back = match self.state.configured.contains(node) {
                        true => "it is configured: it comes back when the coordinator is started again",
                        false => "it comes back if its process joins again",
                    };
                    taken.extend(self.forget_node(draft, node));
                    steps.push(format!("{node} belongs to the mesh no more; {comes_back}"));
                }
            }
        }
        // Place the work now, so that the answer can say where it went.
        self.dispatch(draft);
        self.answer(draft, request, nodes, &taken, steps)
    }

    fn fail_node(&mut self, draft: &mut Draft, node: &NodeId, steps: &mut Vec<String>) -> Vec<AttemptRef> {
        let taken = self.fail(draft, node, FaultCause::Operator);
        steps.push(format!("marked {node} FAILED and opened its circuit breaker"));
        if !taken.is_empty() {
            steps.push(format!("took {} tasks from it", taken.len()));
        }
        taken
    }

    fn recover_node(&mut self, draft: &mut Draft, node: &NodeId) -> String {
        let node_is =
            if self.undrain(draft, node) { format!("{node} is no longer drained") } else { node.to_string() };
        if self.is_responsive(node, draft.now.tick) {
            if self.is_leaving(node) {
                if self.is_failed_by_an_operator(node) {
                    self.set_status(draft, node, NodeStatus::Degraded, Some(FaultCause::Draining));
                }
                return format!("{node_is}; its process was asked to end: it is ACTIVE once a new one joins");
            }
            self.change_breaker(draft, node, |_, breaker| breaker.reset());
            self.set_status(draft, node, NodeStatus::Active, None);
            return format!("{node_is}: connected, so marked it ACTIVE and closed its circuit breaker");
        }
        self.change_breaker(draft, node, |_, breaker| breaker.half_open_now());
        match self.status(node) {
            // It may have work, and may be only late: its detectors go on watching.
            Some(NodeStatus::Degraded) => {
                return format!(
                    "{node_is}: silent for the moment; it is ACTIVE when it is heard, or FAILED and started"
                );
            }
            Some(NodeStatus::Failed) => self.set_status(draft, node, NodeStatus::Initializing, None),
            _ => {}
        }
        if self.start_by_hand(draft, node) {
            format!("{node_is}: not connected, so asked its launcher to start it; it is ACTIVE once it joins")
        } else {
            format!(
                "{node_is}: not connected, and nothing here starts it; start it by hand; it is ACTIVE once it joins"
            )
        }
    }

    fn repeated(&self, request: &FaultRequest) -> Option<Reply> {
        let (body, answer) = self.state.faults.get(&request.fault_id)?;
        Some(if *body == request.body {
            Reply::Fault(Box::new(answer.clone()))
        } else {
            Reply::Refused(Refusal::IdReused(request.fault_id.clone()))
        })
    }

    fn answer(
        &mut self,
        draft: &mut Draft,
        request: &FaultRequest,
        nodes: Vec<NodeId>,
        taken: &[AttemptRef],
        steps: Vec<String>,
    ) -> Reply {
        let redistributed = taken
            .iter()
            .filter_map(|attempt| {
                let task = self.state.runs.get(&attempt.run)?.task(attempt.task)?;
                let to = match &task.state {
                    TaskState::Running { node, .. } => Some(node.clone()),
                    _ => None,
                };
                Some((attempt.run.clone(), task.task.clone(), to))
            })
            .collect();
        let answer = FaultAnswer {
            nodes,
            healthy_nodes: self.state.active().map(|(id, _)| id.clone()).collect(),
            redistributed,
            topology_health: self.state.health(),
            steps,
        };
        if !request.fault_id.is_empty() {
            self.record(
                draft,
                Event::FaultHandled {
                    fault_id: request.fault_id.clone(),
                    body: request.body,
                    answer: answer.clone(),
                },
            );
        }
        Reply::Fault(Box::new(answer))
    }
}
