//! Why a task is where it is: read from the committed state, with the scheduler's own eye for the nodes.

mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use super::Coordinator;
use super::eligibility::Refused;
use super::event::TaskRef;
use super::node::LoadScore;
use super::placement::Need;
use super::run::{Kind, Run, Task, TaskState};
use crate::types::{NodeId, RunId, Stage, TaskId, Tick};

/// Tasks that a stage waits for are counted; so many of them are named.
const NAMED_DEPENDENCIES: usize = 20;

/// Some tasks of a run, each with the reason for where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Whether the run has work to do.
    pub is_open: bool,
    /// Tasks that are not over, in the whole run.
    pub unfinished: usize,
    /// Stages whose tasks are made once others are over.
    pub pending: Vec<PendingStage>,
    /// The tasks, by number.
    pub tasks: Vec<TaskExplanation>,
    /// Whether more tasks follow the last of these.
    pub has_more: bool,
}

/// A stage that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingStage {
    /// The stage.
    pub stage: Stage,
    /// How many tasks it waits for.
    pub waits_for: usize,
    /// The first of them.
    pub first: Vec<TaskRef>,
}

/// One task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskExplanation {
    /// Its names.
    pub task: TaskRef,
    /// Where it is.
    pub state: TaskState,
    /// Attempts that count against its budget.
    pub crashes: u32,
    /// Until the coordinator takes the running attempt back.
    pub time_left: Option<Duration>,
    /// Every node, those that would take it first, the best of them at the top; for a task that waits for a node.
    pub candidates: Vec<Candidate>,
    /// What keeps it from running, for a task that waits for a node.
    pub obstacle: Option<Obstacle>,
    /// The project's cap, if it is reached.
    pub project_cap: Option<usize>,
    /// How many runs are before its own in the queue.
    pub runs_ahead: u32,
}

/// A node as the scheduler sees it for one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its place among those that would take the task, from 1; none if it is refused.
    pub rank: Option<u32>,
    /// All that refuses it.
    pub refused: Vec<Refused>,
    /// Whether it was made for the task; else it would be a fallback.
    pub is_made_for: bool,
    /// The share of the needed capabilities that are its own.
    pub capability_match: f64,
    /// Its declared weight.
    pub priority_weight: f64,
    /// How busy it is.
    pub load: LoadScore,
    /// `capability_match * priority_weight / (1 + load)`.
    pub suitability: f64,
}

/// What keeps a task from running, from what ends by itself to what somebody must change.
///
/// It is the least of what the nodes are refused for: a single node that is merely busy will do the work. The cap of its
/// project is for all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// None: a node would take it.
    None,
    /// All that could do it are busy.
    Room,
    /// Its project runs as many tasks as it may.
    ProjectCap,
    /// The breaker of a node that could do it is open.
    Breaker,
    /// A node that could do it is not ACTIVE or not connected.
    Absence,
    /// No node has the tool in the pinned version.
    Tool,
    /// No node has the capabilities.
    Capabilities,
    /// There is no node.
    Empty,
}

impl Obstacle {
    /// What one refusal amounts to.
    const fn of(refused: &Refused) -> Self {
        match refused {
            Refused::NoFreeSlot { .. } | Refused::CoresTaken { .. } => Obstacle::Room,
            Refused::Breaker { .. } => Obstacle::Breaker,
            Refused::Status { .. } | Refused::NotConnected => Obstacle::Absence,
            Refused::Tool { .. } => Obstacle::Tool,
            Refused::CapabilitiesMissing(_) => Obstacle::Capabilities,
        }
    }

    /// For a node: the worst of its refusals.
    fn of_node(candidate: &Candidate) -> Self {
        candidate.refused.iter().map(Obstacle::of).max().unwrap_or(Obstacle::None)
    }
}

impl Coordinator {
    /// Explains one task of a run, or those after `after` that are not over, at most `most`. None if there is no such
    /// run or task.
    pub fn explain(
        &self,
        now: Tick,
        run: &RunId,
        task: Option<TaskId>,
        after: TaskId,
        most: usize,
    ) -> Option<Explanation> {
        let state = self.state.runs.get(run)?;
        let (chosen, has_more) = match task {
            Some(id) => (vec![state.task(id)?], false),
            None => {
                let mut open = state.tasks.iter().filter(|task| task.task.id > after && !task.is_over());
                (open.by_ref().take(most).collect(), open.next().is_some())
            }
        };
        let project = state.order.project.as_str();
        let cap = self.settings.max_tasks_per_project;
        let project_cap = cap.filter(|cap| self.queue.running_tasks(project) >= *cap);
        let runs_ahead = self.queue.position(run);
        // Tasks of a kind are alike to every node, and there may be thousands of both.
        let mut surveys: BTreeMap<Kind, Vec<Candidate>> = BTreeMap::new();
        let tasks = chosen
            .into_iter()
            .map(|task| {
                let waits = state.is_open() && task.state == TaskState::Queued;
                let candidates = if waits {
                    let kind = surveys.entry(task.kind());
                    kind.or_insert_with(|| self.survey(now, &self.need(state, &task.task))).clone()
                } else {
                    Vec::new()
                };
                let of_project = project_cap.map_or(Obstacle::None, |_| Obstacle::ProjectCap);
                let of_nodes = || candidates.iter().map(Obstacle::of_node).min().unwrap_or(Obstacle::Empty);
                let obstacle = waits.then(|| of_nodes().max(of_project));
                TaskExplanation {
                    task: task.task.clone(),
                    state: task.state.clone(),
                    crashes: task.crashes,
                    time_left: self.time_left(now, task),
                    candidates,
                    obstacle,
                    project_cap,
                    runs_ahead,
                }
            })
            .collect();
        Some(Explanation {
            is_open: state.is_open(),
            unfinished: if state.is_open() { state.unfinished } else { 0 },
            pending: pending(state),
            tasks,
            has_more,
        })
    }

    fn time_left(&self, now: Tick, task: &Task) -> Option<Duration> {
        let TaskState::Running { attempt, node, .. } = &task.state else { return None };
        Some(self.presences.get(node)?.running.get(attempt)?.deadline.since(now))
    }

    /// Every node for a need, the best first.
    fn survey(&self, now: Tick, need: &Need<'_>) -> Vec<Candidate> {
        let mesh = self.mesh(now);
        let cores_in_use = mesh.cores_in_use();
        let mut all: Vec<_> = self
            .state
            .members
            .iter()
            .map(|(id, member)| {
                let refused: Vec<Refused> = mesh.refusals(id, member, need, &cores_in_use).collect();
                (refused, mesh.fit(id, member, need))
            })
            .collect();
        all.sort_by(|a, b| {
            a.0.is_empty().cmp(&b.0.is_empty()).reverse().then_with(|| mesh.compare(&a.1, &b.1))
        });
        (1..)
            .zip(all)
            .map(|(place, (refused, fit))| Candidate {
                node: fit.node.clone(),
                rank: refused.is_empty().then_some(place),
                refused,
                is_made_for: fit.is_made_for,
                capability_match: fit.capability_match,
                priority_weight: fit.priority_weight,
                load: fit.load,
                suitability: fit.suitability,
            })
            .collect()
    }
}

/// The stages of an open run whose tasks are not all made, and what they wait for.
fn pending(run: &Run) -> Vec<PendingStage> {
    if !run.is_open() {
        return Vec::new();
    }
    let waits = |stage: Stage, upon: &[Stage]| {
        let open: Vec<&Task> =
            run.tasks.iter().filter(|task| !task.is_over() && upon.contains(&task.task.stage)).collect();
        let first = open.iter().take(NAMED_DEPENDENCIES).map(|task| task.task.clone()).collect();
        (!open.is_empty()).then_some(PendingStage { stage, waits_for: open.len(), first })
    };
    [
        waits(Stage::Lint, &[Stage::Plan]),
        waits(Stage::Classify, &[Stage::Plan, Stage::Lint]),
        waits(Stage::Aggregate, &[Stage::Plan, Stage::Lint, Stage::Classify]),
    ]
    .into_iter()
    .flatten()
    .collect()
}
