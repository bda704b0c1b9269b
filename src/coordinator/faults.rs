//! A node is FAILED: by detection, by its launcher, or by an operator; and comes back.

use super::breaker::TripReason;
use super::event::{Event, FaultAnswer, RunEvent};
use super::input::{Effect, FaultRequest, Refusal, Reply};
use super::run::TaskState;
use super::{Coordinator, Draft};
use crate::types::{AttemptRef, FaultCause, NodeId, NodeStatus};

impl Coordinator {
    /// Marks a node FAILED and gives its work to others. Answers what it had.
    pub(super) fn fail(&mut self, draft: &mut Draft, node: &NodeId, cause: FaultCause) -> Vec<AttemptRef> {
        if self.status(node) == Some(NodeStatus::Failed) && cause != FaultCause::Operator {
            return Vec::new();
        }
        self.set_status(draft, node, NodeStatus::Failed, Some(cause));
        let mut runs: Vec<_> =
            self.presence(node).running.values().map(|attempt| attempt.run.clone()).collect();
        runs.sort();
        runs.dedup();
        for run in runs {
            self.record_run(draft, &run, RunEvent::NodeFault { node: node.clone(), cause });
        }
        // An operator's word says nothing about the tasks, so it does not count against their budgets.
        let counts = cause != FaultCause::Operator;
        let taken = self.take_work(draft, node, counts, "the node was marked FAILED");
        let now = draft.now.tick;
        self.presence(node).breaker.trip(now, TripReason::DeclaredFailed, 0.0);
        taken
    }

    pub(super) fn fail_node(&mut self, draft: &mut Draft, request: &FaultRequest) -> Reply {
        if let Some(reply) = self.repeated(request) {
            return reply;
        }
        let node = &request.node;
        if !self.state.members.contains_key(node) {
            return Reply::Refused(Refusal::UnknownNode(node.clone()));
        }
        let taken = self.fail(draft, node, FaultCause::Operator);
        let mut steps = vec![format!("marked {node} FAILED and opened its circuit breaker")];
        if !taken.is_empty() {
            steps.push(format!("took {} tasks from it", taken.len()));
        }
        // Place the work now, so that the answer can say where it went.
        self.dispatch(draft);
        self.answer(draft, request, &taken, steps)
    }

    pub(super) fn recover_node(&mut self, draft: &mut Draft, request: &FaultRequest) -> Reply {
        if let Some(reply) = self.repeated(request) {
            return reply;
        }
        let node = &request.node;
        if !self.state.members.contains_key(node) {
            return Reply::Refused(Refusal::UnknownNode(node.clone()));
        }
        let mut steps = Vec::new();
        if self.is_responsive(node, draft.now.tick) {
            self.presence(node).breaker.reset();
            self.set_status(draft, node, NodeStatus::Active, None);
            steps.push(format!("{node} is connected: marked it ACTIVE and closed its circuit breaker"));
        } else {
            self.presence(node).breaker.half_open_now();
            // A node that is only late keeps its status: it may have work, which its detectors go on watching.
            if self.status(node) == Some(NodeStatus::Failed) {
                self.set_status(draft, node, NodeStatus::Initializing, None);
            }
            draft.effects.push(Effect::RestartProcess(node.clone()));
            steps.push(format!(
                "{node} does not answer: asked its launcher to start it; it is ACTIVE once it joins"
            ));
        }
        self.dispatch(draft);
        self.answer(draft, request, &[], steps)
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
            node: request.node.clone(),
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
