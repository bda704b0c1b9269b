//! A run and its tasks: plain state, changed only by applying events.

mod task;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::event::{FinishedResult, Origin, RunEvent, RunOrder};
use crate::types::{FaultCause, NodeId, Outcome, Stage, TaskId, TaskOutput, ToolName, UnixMillis};
pub use task::{Execution, Kind, Task, TaskState};

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What was asked.
    pub order: RunOrder,
    /// When it was accepted.
    pub started_at: UnixMillis,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
    /// Its number among those that ended: clocks step back. 0 if it ended under a release that did not count.
    #[serde(default)]
    pub ended_as: u64,
    /// Its tasks; task `n` is at `n - 1`.
    pub tasks: Vec<Task>,
    /// Its waiting tasks, so that placing work need not look at all others; the longest first.
    #[serde(skip)]
    pub waiting: BTreeMap<Kind, BTreeSet<(Reverse<u64>, TaskId)>>,
    /// How many of its tasks are not over.
    pub unfinished: usize,
    /// The number of its newest event.
    pub sequence: u64,
    /// How it ended.
    pub ending: Option<RunEnding>,
    /// Faults of nodes while they had work of this run.
    pub faults: Vec<RunFault>,
    /// What the nodes were that did its tasks.
    #[serde(default)]
    pub origins: BTreeMap<NodeId, Origin>,
}

/// A node that failed while it had work of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFault {
    /// The node.
    pub node: NodeId,
    /// Why.
    pub cause: FaultCause,
    /// How many tasks of the run it had.
    pub redistributed_tasks: u32,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnding {
    /// How.
    pub outcome: Outcome,
    /// The result, unless there is none.
    pub result: Option<FinishedResult>,
    /// Why there is none.
    pub detail: String,
}

/// How far a tool is in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ToolProgress {
    /// LINT tasks that wait.
    pub queued: u32,
    /// LINT tasks that run.
    pub running: u32,
    /// LINT tasks that ended, well or not.
    pub done: u32,
    /// Ended, weighed by cost: 0 to 1.
    pub fraction: f64,
}

impl Run {
    /// A run that was just accepted.
    pub fn new(order: RunOrder, at: UnixMillis) -> Self {
        Self {
            order,
            started_at: at,
            ended_at: None,
            ended_as: 0,
            tasks: Vec::new(),
            waiting: BTreeMap::new(),
            unfinished: 0,
            sequence: 0,
            ending: None,
            faults: Vec::new(),
            origins: BTreeMap::new(),
        }
    }

    /// Makes anew what is not stored, since it follows from the rest.
    pub(super) fn complete(&mut self) {
        let is_open = self.is_open();
        for task in &mut self.tasks {
            task.name = task.task.to_string().into();
            if is_open && task.state == TaskState::Queued {
                self.waiting.entry(task.kind()).or_default().insert(task.place());
            }
        }
    }

    /// Whether it has work to do.
    pub const fn is_open(&self) -> bool {
        self.ending.is_none()
    }

    /// A task by its number.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(usize::try_from(id.0).ok()?.checked_sub(1)?)
    }

    fn task_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(usize::try_from(id.0).ok()?.checked_sub(1)?)
    }

    /// The tasks of a stage, in the order of their making.
    pub fn stage(&self, stage: Stage) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(move |task| task.task.stage == stage)
    }

    /// The output of the single task of a stage.
    pub fn output_of(&self, stage: Stage) -> Option<TaskOutput> {
        self.stage(stage).find_map(Task::output)
    }

    /// How far each tool is.
    pub fn tool_progress(&self) -> BTreeMap<ToolName, ToolProgress> {
        let mut progress: BTreeMap<ToolName, (ToolProgress, u64, u64)> =
            self.order.tools.keys().map(|tool| (tool.clone(), (ToolProgress::default(), 0, 0))).collect();
        for task in self.stage(Stage::Lint) {
            let Some(entry) = task.task.tool.as_ref().and_then(|tool| progress.get_mut(tool)) else {
                continue;
            };
            let (counts, done_cost, all_cost) = entry;
            let cost = task.cost.max(1);
            // Costs are a node's word: they may be anything.
            *all_cost = all_cost.saturating_add(cost);
            match task.state {
                TaskState::Queued => counts.queued += 1,
                TaskState::Running { .. } => counts.running += 1,
                TaskState::Done { .. } | TaskState::GivenUp { .. } => {
                    counts.done += 1;
                    *done_cost = done_cost.saturating_add(cost);
                }
            }
        }
        let ended = !self.is_open();
        progress
            .into_iter()
            .map(|(tool, (mut counts, done, all))| {
                counts.fraction = match all {
                    // No task for the tool: it was refused or there is nothing to lint. Done when the run is.
                    0 => f64::from(u8::from(ended)),
                    _ => done as f64 / all as f64,
                };
                (tool, counts)
            })
            .collect()
    }

    /// How many of its tasks wait, and how many run.
    pub fn waiting_and_running(&self) -> (usize, usize) {
        let waiting = self.waiting.values().map(BTreeSet::len).sum();
        (waiting, self.unfinished.saturating_sub(waiting))
    }

    /// Applies one of its events.
    pub fn apply(&mut self, at: UnixMillis, event: &RunEvent) {
        self.sequence += 1;
        match event {
            RunEvent::Started { .. } => {}
            RunEvent::TasksCreated { tasks, .. } => {
                for new in tasks {
                    let task = Task {
                        name: new.task.to_string().into(),
                        task: new.task.clone(),
                        cost: new.cost,
                        state: TaskState::Queued,
                        crashes: 0,
                        retries: 0,
                    };
                    self.waiting.entry(task.kind()).or_default().insert(task.place());
                    self.unfinished += 1;
                    self.tasks.push(task);
                }
            }
            RunEvent::TaskAssigned { task, attempt, node, incarnation, second: false } => {
                let (attempt, node, incarnation) = (*attempt, node.clone(), *incarnation);
                self.set(task.id, TaskState::Running { attempt, node, incarnation, second: None });
            }
            RunEvent::TaskAssigned { task, attempt, node, incarnation, second: true } => {
                if let Some(TaskState::Running { second, .. }) =
                    self.task_mut(task.id).map(|task| &mut task.state)
                {
                    let (attempt, node, incarnation) = (*attempt, node.clone(), *incarnation);
                    *second = Some(Execution { attempt, node, incarnation });
                }
            }
            RunEvent::TaskAccepted { task, attempt, node, output, tool_error, measured, origin } => {
                self.origins.extend(origin.clone().map(|origin| (node.clone(), origin)));
                let done = TaskState::Done {
                    attempt: *attempt,
                    node: node.clone(),
                    output: *output,
                    tool_error: tool_error.clone(),
                    measured: measured.clone(),
                };
                self.set(task.id, done);
            }
            RunEvent::AttemptFailed { task, counts, attempt, .. } => {
                self.withdraw(task.id, *counts, |execution| execution.attempt == *attempt);
            }
            RunEvent::Redistributed { from, tasks, counts } => {
                if let Some(fault) = self.faults.last_mut().filter(|fault| fault.node == *from) {
                    fault.redistributed_tasks += u32::try_from(tasks.len()).unwrap_or(u32::MAX);
                }
                for task in tasks {
                    self.withdraw(task.id, *counts, |execution| execution.node == *from);
                }
            }
            RunEvent::TaskGivenUp { task, reason } => {
                self.set(task.id, TaskState::GivenUp { reason: reason.clone() });
            }
            RunEvent::NodeFault { node, cause } => {
                self.faults.push(RunFault { node: node.clone(), cause: *cause, redistributed_tasks: 0 })
            }
            RunEvent::Finished { outcome, result, detail } => {
                self.ended_at = Some(at);
                self.waiting.clear();
                self.ending =
                    Some(RunEnding { outcome: *outcome, result: result.clone(), detail: detail.clone() });
            }
        }
    }

    fn set(&mut self, id: TaskId, state: TaskState) {
        let Some(task) = self.task_mut(id) else { return };
        let (was_over, kind, place) = (task.is_over(), task.kind(), task.place());
        task.state = state;
        let (is_over, waits) = (task.is_over(), task.state == TaskState::Queued);
        match (was_over, is_over) {
            (false, true) => self.unfinished -= 1,
            (true, false) => self.unfinished += 1,
            _ => {}
        }
        if waits {
            self.waiting.entry(kind).or_default().insert(place);
        } else if let Some(alike) = self.waiting.get_mut(&kind) {
            alike.remove(&place);
            if alike.is_empty() {
                self.waiting.remove(&kind);
            }
        }
    }

    /// Takes an execution from a task, which waits again unless it has another one. Only then it counts: what was
    /// doubled for safety costs no budget.
    fn withdraw(&mut self, id: TaskId, counts: bool, is_gone: impl Fn(&Execution) -> bool) {
        let Some(task) = self.task_mut(id) else { return };
        let mut left = task.executions().into_iter().filter(|execution| !is_gone(execution));
        let left = left.next();
        task.retries += 1;
        task.crashes += u32::from(counts && left.is_none());
        self.set(
            id,
            left.map_or(TaskState::Queued, |Execution { attempt, node, incarnation }| TaskState::Running {
                attempt,
                node,
                incarnation,
                second: None,
            }),
        );
    }

    /// Whether something was not linted: a task was given up, or a tool failed.
    pub fn has_gaps(&self) -> bool {
        self.tasks.iter().any(|task| {
            matches!(task.state, TaskState::GivenUp { .. } | TaskState::Done { tool_error: Some(_), .. })
        })
    }
}
