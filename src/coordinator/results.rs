//! Attempts end; what follows from that in their run.

use std::collections::BTreeMap;

use super::breaker::CallOutcome;
use super::decision::{Effect, Reply};
use super::event::{AttemptFault, FinishedResult, NewTask, Origin, RunEvent, TaskRef};
use super::input::{Ending, Facts};
use super::message::Message;
use super::run::TaskState;
use super::{Coordinator, Draft};
use crate::types::{
    AttemptRef, Incarnation, Measured, NodeId, Outcome, Plan, RunId, Stage, TaskId, ToolName,
};

/// Shards of one tool in a plan that is believed. Far more than is ever asked for; each becomes tasks that are kept.
const MOST_SHARDS: usize = 1024;

/// Who did a task, and by whom the result came.
pub(super) struct Executor {
    /// The node.
    pub(super) node: NodeId,
    /// Its process start when it did the work.
    pub(super) incarnation: Incarnation,
    /// The node that passed the result on, if its executor did not bring it itself.
    pub(super) via: Option<NodeId>,
}

/// Why a result was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// Nobody waits for the attempt: it was taken back, another was faster, or its run has ended.
    StaleAttempt,
    /// It is of a former process of the node.
    StaleIncarnation,
    /// Its executor is no member, or the node that passed it on is not connected.
    SenderMismatch,
}

impl Dropped {
    /// The name as it is written everywhere: `STALE_ATTEMPT`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Dropped::StaleAttempt => "STALE_ATTEMPT",
            Dropped::StaleIncarnation => "STALE_INCARNATION",
            Dropped::SenderMismatch => "SENDER_MISMATCH",
        }
    }
}

impl Coordinator {
    pub(super) fn task_ended(
        &mut self,
        draft: &mut Draft,
        by: &Executor,
        attempt: &AttemptRef,
        ending: Ending,
        measured: Measured,
    ) -> Reply {
        let executor = &by.node;
        if !self.may_bring(by) {
            self.drop_result(Dropped::SenderMismatch);
            return Reply::Done;
        }
        let known = self.state.members.get(executor).and_then(|member| member.incarnation);
        if by.via.is_some() {
            self.relayed_results += 1;
            if known == Some(by.incarnation) {
                self.was_seen(executor, draft.now.tick);
            }
        }
        // Whatever becomes of it, the node need not send it again.
        self.acknowledge(draft, by, attempt);
        if !self.is_current(attempt, executor, by.incarnation) {
            let is_former = known.is_some_and(|known| known != by.incarnation);
            self.drop_result(if is_former { Dropped::StaleIncarnation } else { Dropped::StaleAttempt });
            return Reply::Done;
        }
        let made = match ending {
            Ending::Failed(reason) => Err(reason),
            Ending::Made { output, facts } => match self.contradiction(attempt, &facts) {
                Some(contradiction) => Err(contradiction.to_owned()),
                None => Ok((output, facts)),
            },
        };
        let (output, facts) = match made {
            Ok(made) => made,
            Err(reason) => {
                self.attempt_failed(draft, executor, attempt, true, AttemptFault::Failed, &reason);
                return Reply::Done;
            }
        };
        self.release(draft, executor, attempt, CallOutcome::Success);
        self.stop_others(draft, attempt);
        let tool_error = match &facts {
            Facts::Lint { error } => error.clone(),
            _ => None,
        };
        if let Some(task) = self.task_ref(&attempt.run, attempt.task) {
            let accepted = RunEvent::TaskAccepted {
                task: task.clone(),
                attempt: attempt.attempt,
                node: executor.clone(),
                output,
                tool_error,
                measured,
                origin: self.origin(&attempt.run, executor),
            };
            self.record_run(draft, &attempt.run, accepted);
            self.follow(draft, &attempt.run, &task, facts, output);
        }
        Reply::Done
    }

    /// What a node is, unless its run knows it.
    fn origin(&self, run: &RunId, node: &NodeId) -> Option<Origin> {
        let is_known = self.state.runs.get(run)?.origins.contains_key(node);
        let (member, presence) = (self.state.members.get(node)?, self.presences.get(node));
        (!is_known).then(|| Origin {
            agent_type: member.spec.agent_type.clone(),
            toolchain_id: presence.map(|presence| presence.toolchain_id.clone()).unwrap_or_default(),
            environment_class: presence
                .map(|presence| presence.environment_class.clone())
                .unwrap_or_default(),
        })
    }

    /// Whether a result may come this way: from its executor, or by a connected node.
    fn may_bring(&self, by: &Executor) -> bool {
        let is_connected = |node| self.presences.get(node).is_some_and(|presence| presence.session.is_some());
        match &by.via {
            None => true,
            Some(via) => is_connected(via) && self.state.members.contains_key(&by.node),
        }
    }

    fn drop_result(&mut self, reason: Dropped) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// Tells the executor that its result arrived, the way it came if its own session does not carry.
    fn acknowledge(&self, draft: &mut Draft, by: &Executor, attempt: &AttemptRef) {
        let message = Message::Acknowledge(attempt.clone());
        let session = |node| self.presences.get(node).and_then(|presence| presence.session);
        let (node, session, message) = match (&by.via, session(&by.node)) {
            (None, Some(session)) => (&by.node, session, message),
            (Some(_), Some(session)) if self.is_responsive(&by.node, draft.now.tick) => {
                (&by.node, session, message)
            }
            (Some(via), _) => {
                let Some(session) = session(via) else { return };
                (via, session, Message::Forward { to: by.node.clone(), message: Box::new(message) })
            }
            (None, None) => return,
        };
        draft.effects.push(Effect::Send { node: node.clone(), session, message });
    }

    /// Why an output cannot be right, as far as the coordinator knows better: coverage is not taken on trust.
    fn contradiction(&self, attempt: &AttemptRef, facts: &Facts) -> Option<&'static str> {
        let run = self.state.runs.get(&attempt.run)?;
        if facts.stage() != run.task(attempt.task)?.task.stage {
            return Some("its output is of another stage");
        }
        match facts {
            Facts::Plan(plan) if !plan.tools.iter().map(|tool| &tool.tool).eq(run.order.tools.keys()) => {
                Some("its plan is not of the tools that were asked for")
            }
            Facts::Plan(plan) if plan.tools.iter().any(|tool| tool.shards.len() > MOST_SHARDS) => {
                Some("its plan has more shards than any run needs")
            }
            Facts::Aggregate { outcome, .. } => match outcome {
                Outcome::Cancelled => Some("its result is of a run that was cancelled"),
                Outcome::Clean | Outcome::Findings if run.has_gaps() => {
                    Some("its result does not tell what could not be linted")
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn rejected(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        attempt: &AttemptRef,
        reason: &str,
    ) -> Reply {
        // The attempt's number alone is not enough: with another run or task beside it, it would requeue that one.
        let held = self.presences.get(node).and_then(|presence| presence.running.get(&attempt.attempt));
        if held.is_some_and(|held| held.run == attempt.run && held.task == attempt.task) {
            self.release(draft, node, attempt, CallOutcome::Overloaded);
            self.requeue(draft, node, attempt, false, AttemptFault::Rejected, reason);
        }
        Reply::Done
    }

    /// An attempt ended badly: the node's doing if it counts.
    pub(super) fn attempt_failed(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        attempt: &AttemptRef,
        counts: bool,
        cause: AttemptFault,
        detail: &str,
    ) {
        let outcome = if counts { CallOutcome::Failure } else { CallOutcome::Ignored };
        self.release(draft, node, attempt, outcome);
        self.requeue(draft, node, attempt, counts, cause, detail);
    }

    fn requeue(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        attempt: &AttemptRef,
        counts: bool,
        cause: AttemptFault,
        detail: &str,
    ) {
        let Some(task) = self.task_ref(&attempt.run, attempt.task) else { return };
        if !self.state.runs.get(&attempt.run).is_some_and(super::run::Run::is_open) {
            return;
        }
        let failed = RunEvent::AttemptFailed {
            task,
            attempt: attempt.attempt,
            node: node.clone(),
            counts,
            cause,
            detail: detail.to_owned(),
        };
        self.record_run(draft, &attempt.run, failed);
        self.give_up_if_exhausted(draft, &attempt.run, attempt.task, detail);
    }

    pub(super) fn release(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        attempt: &AttemptRef,
        outcome: CallOutcome,
    ) {
        if let Some(running) = self.presence(node).running.remove(&attempt.attempt) {
            self.change_breaker(draft, node, |now, breaker| {
                breaker.record(now, running.permit, outcome, 0.0)
            });
        }
    }

    pub(super) fn task_ref(&self, run: &RunId, task: TaskId) -> Option<TaskRef> {
        Some(self.state.runs.get(run)?.task(task)?.task.clone())
    }

    /// The budget: one attempt and `max_retry_attempts` more, counting only what crashed.
    pub(super) fn give_up_if_exhausted(&mut self, draft: &mut Draft, run: &RunId, task: TaskId, last: &str) {
        let budget = self.settings.max_retry_attempts;
        let Some(task) = self
            .state
            .runs
            .get(run)
            .filter(|run| run.is_open())
            .and_then(|run| run.task(task))
            .filter(|task| task.state == TaskState::Queued && task.crashes > budget)
        else {
            return;
        };
        let (task, crashes) = (task.task.clone(), task.crashes);
        let reason = format!("{crashes} attempts failed; the last: {last}");
        self.record_run(draft, run, RunEvent::TaskGivenUp { task: task.clone(), reason: reason.clone() });
        match task.stage {
            Stage::Lint | Stage::Classify => self.aggregate_if_complete(draft, run),
            Stage::Plan | Stage::Aggregate => {
                let detail = format!("{task} could not be done: {reason}");
                self.finish(draft, run, Outcome::Incomplete, None, detail);
            }
        }
    }

    fn follow(
        &mut self,
        draft: &mut Draft,
        run: &RunId,
        task: &TaskRef,
        facts: Facts,
        output: crate::types::TaskOutput,
    ) {
        match facts {
            Facts::Plan(plan) => self.create_lint_tasks(draft, run, &plan),
            Facts::Lint { .. } => {
                let classify = TaskRef { id: self.next_task(run), stage: Stage::Classify, ..task.clone() };
                let tasks = vec![NewTask { task: classify, cost: 1 }];
                self.record_run(draft, run, RunEvent::TasksCreated { tasks, assignments: None });
            }
            Facts::Classify => self.aggregate_if_complete(draft, run),
            Facts::Aggregate { outcome, summary, tool_errors } => {
                let result = FinishedResult { output, summary, tool_errors };
                self.finish(draft, run, outcome, Some(result), String::new());
            }
        }
    }

    fn next_task(&self, run: &RunId) -> TaskId {
        TaskId(self.state.runs.get(run).map_or(0, |run| run.tasks.len() as u64) + 1)
    }

    fn create_lint_tasks(&mut self, draft: &mut Draft, run: &RunId, plan: &Plan) {
        let mut tasks = Vec::new();
        let mut id = self.next_task(run);
        for tool in &plan.tools {
            for (shard, files) in (0_u32..).zip(&tool.shards) {
                let task = TaskRef {
                    id,
                    stage: Stage::Lint,
                    tool: Some(tool.tool.clone()),
                    shard,
                    shards: u32::try_from(tool.shards.len()).unwrap_or(u32::MAX),
                };
                tasks.push(NewTask { task, cost: files.cost });
                id.0 += 1;
            }
        }
        if !tasks.is_empty() {
            let assignments = self.assignments(run, &tasks);
            self.record_run(draft, run, RunEvent::TasksCreated { tasks, assignments: Some(assignments) });
        }
        self.aggregate_if_complete(draft, run);
    }

    /// Makes the last task once every LINT task is over and every output is classified.
    fn aggregate_if_complete(&mut self, draft: &mut Draft, run: &RunId) {
        let Some(state) = self.state.runs.get(run).filter(|run| run.is_open()) else { return };
        // Every LINT output has its CLASSIFY task since it was accepted, so that none is open means all are classified;
        // the last task itself ends the run.
        if state.unfinished == 0 {
            let task =
                TaskRef { id: self.next_task(run), stage: Stage::Aggregate, tool: None, shard: 0, shards: 0 };
            let tasks = vec![NewTask { task, cost: 1 }];
            self.record_run(draft, run, RunEvent::TasksCreated { tasks, assignments: None });
        }
    }

    /// The tasks of a run whose output is missing for good, with the reason; input of AGGREGATE.
    pub(super) fn given_up(&self, run: &RunId) -> Vec<(TaskRef, String)> {
        let mut failed: BTreeMap<(Option<ToolName>, u32), (TaskRef, String)> = BTreeMap::new();
        for task in self.state.runs.get(run).into_iter().flat_map(|run| &run.tasks) {
            if let TaskState::GivenUp { reason } = &task.state {
                failed.insert((task.task.tool.clone(), task.task.shard), (task.task.clone(), reason.clone()));
            }
        }
        failed.into_values().collect()
    }
}
