//! Gives waiting tasks to nodes.

use super::decision::Effect;
use super::event::{Assignments, NewTask, RunEvent, TaskRef};
use super::message::{Assign, Message};
use super::node::{MissedBeats, RunningAttempt};
use super::placement::{Mesh, Need};
use super::run::{Kind, Run, Task, TaskState};
use super::{Coordinator, Draft};
use crate::types::{AttemptId, AttemptRef, Digest, NodeId, RunId, Stage, TaskId, Tick};

/// The tasks for which no node has room: room only shrinks while work is placed, so if one finds none, no other of its
/// kind and version does.
#[derive(Default)]
struct Stuck(Vec<(Kind, Option<String>)>);

impl Stuck {
    fn has(&self, kind: &Kind, version: Option<&str>) -> bool {
        self.0.iter().any(|(stuck, of)| stuck == kind && of.as_deref() == version)
    }
}

/// A task, and the node that is to have it.
struct Placement {
    run: RunId,
    task: TaskId,
    node: NodeId,
    cores: u32,
}

impl Coordinator {
    /// Places every waiting task for which a node has room, the projects in turn by their fair shares.
    pub(super) fn dispatch(&mut self, draft: &mut Draft) {
        // What runs on a node that fell silent was there first.
        self.double(draft);
        let mut stuck = Stuck::default();
        // Who could not use a turn, and how many of them when the last core was given to somebody after them.
        let (mut passed, mut overtaken) = (Vec::new(), 0);
        let mut turn = self.queue.first();
        while let Some(at) = turn.filter(|_| self.has_room()) {
            let placement = self.next_placement(draft.now.tick, &at.1, &mut stuck);
            // A node that was chosen takes it; if not, trying again at once would not end.
            let placed = placement.filter(|it| self.assign(draft, &it.run, it.task, &it.node, false));
            turn = match placed {
                Some(placed) => {
                    if placed.cores > 0 {
                        overtaken = passed.len();
                    }
                    // Being served has moved the project back.
                    self.queue.from(&at)
                }
                None => {
                    let next = self.queue.after(&at);
                    passed.push(at.1);
                    next
                }
            };
        }
        for project in passed.iter().take(overtaken) {
            self.queue.pass_over(project);
        }
    }

    /// Whether any connected node may take one more task. With work waiting this is asked with every result, and mostly
    /// the answer is no.
    fn has_room(&self) -> bool {
        self.presences.iter().any(|(node, presence)| {
            presence.session.is_some()
                && self
                    .state
                    .members
                    .get(node)
                    .is_some_and(|member| presence.running.len() < member.spec.max_concurrent_tasks as usize)
        })
    }

    /// The next task of a project that a node has room for: the urgent runs first, then the older ones.
    fn next_placement(&self, now: Tick, project: &str, stuck: &mut Stuck) -> Option<Placement> {
        let cap = self.settings.max_tasks_per_project;
        if cap.is_some_and(|cap| self.queue.running_tasks(project) >= cap) {
            return None;
        }
        for id in self.queue.waiting_runs(project) {
            let Some(run) = self.state.runs.get(id) else { continue };
            while let Some((kind, task)) = next_waiting(run, stuck) {
                let cores = cpu_slots(kind.0);
                if let Some(node) = self.choose(now, run, task, None) {
                    return Some(Placement { run: id.clone(), task, node, cores });
                }
                stuck.0.push((kind.clone(), version(run, kind).map(str::to_owned)));
            }
        }
        None
    }

    /// The node that should get a task now; another one than `beside`, which has it.
    pub(super) fn choose(
        &self,
        now: Tick,
        run: &Run,
        task: TaskId,
        beside: Option<&NodeId>,
    ) -> Option<NodeId> {
        self.mesh(now).choose(&self.need(run, &run.task(task)?.task), beside)
    }

    /// The nodes, as the scheduler sees them.
    pub(super) const fn mesh(&self, now: Tick) -> Mesh<'_> {
        Mesh {
            members: &self.state.members,
            presences: &self.presences,
            strategy: self.settings.load_balancing_strategy,
            now,
        }
    }

    pub(super) fn has_waiting_work(&self) -> bool {
        self.queue.has_waiting()
    }

    pub(super) fn need<'a>(&'a self, run: &'a Run, task: &'a TaskRef) -> Need<'a> {
        let tool = task.tool.as_ref().filter(|_| task.stage == Stage::Lint);
        Need {
            capabilities: self.settings.required.of(task.stage),
            tool: tool.map(|tool| (tool, run.order.tools.get(tool).and_then(Option::as_deref))),
            cpu_slots: cpu_slots(task.stage),
        }
    }

    pub(super) fn assign(
        &mut self,
        draft: &mut Draft,
        run: &RunId,
        task: TaskId,
        node: &NodeId,
        second: bool,
    ) -> bool {
        let now = draft.now.tick;
        let deadline = self.attempt_deadline(now);
        let timeout = self.settings.task_timeout;
        let (Some(state), Some(member)) = (self.state.runs.get(run), self.state.members.get(node)) else {
            return false;
        };
        let (Some(waiting), Some(incarnation)) = (state.task(task), member.incarnation) else { return false };
        let attempt = AttemptId { epoch: self.state.epoch, number: self.state.attempts + 1 };
        let task = waiting.task.clone();
        let capabilities = self.settings.required.of(task.stage).clone();
        let inputs = inputs_of(state, &task);
        let assign = Assign {
            attempt: AttemptRef { run: run.clone(), task: task.id, attempt },
            task: task.clone(),
            timeout,
            manifest: state.order.manifest,
            spec: state.order.spec,
            plan: state.output_of(Stage::Plan).map(|output| output.digest),
            outputs: inputs.iter().map(|(digest, _)| *digest).collect(),
            makers: inputs.into_iter().collect(),
            failed: if task.stage == Stage::Aggregate { self.given_up(run) } else { Vec::new() },
            tree_root: state.order.tree_root.clone(),
            cpu_slots: cpu_slots(task.stage),
            capabilities: capabilities.iter().cloned().collect(),
        };
        let Some(session) = self.presence(node).session else { return false };
        let admitted = self.change_breaker(draft, node, |now, breaker| breaker.admit(now));
        let Ok(permit) = admitted else { return false };
        let presence = self.presence(node);
        presence.given += 1;
        presence.running.insert(
            attempt,
            RunningAttempt {
                run: run.clone(),
                task: task.id,
                deadline,
                has_arrived: false,
                cpu_slots: cpu_slots(task.stage),
                capabilities,
                permit,
                missed_beats: MissedBeats { count: None, counted_at: now },
            },
        );
        draft.effects.push(Effect::Send {
            node: node.clone(),
            session,
            message: Message::Assign(Box::new(assign)),
        });
        let assigned = RunEvent::TaskAssigned { task, attempt, node: node.clone(), incarnation, second };
        self.record_run(draft, run, assigned);
        true
    }

    /// Which node each task is meant for, by the names people read.
    pub(super) fn assignments(&self, run: &RunId, tasks: &[NewTask]) -> Assignments {
        let mesh = self.mesh(self.decided_at());
        let mut assignments: Assignments =
            self.state.members.keys().map(|node| (node.clone(), Vec::new())).collect();
        let known = self.state.runs.get(run).into_iter().flat_map(|run| &run.tasks).map(|task| &task.task);
        for task in known.chain(tasks.iter().map(|new| &new.task)) {
            let need = Need { capabilities: self.settings.required.of(task.stage), tool: None, cpu_slots: 0 };
            if let Some(meant) = mesh.meant_for(&need)
                && let Some(names) = assignments.get_mut(meant)
            {
                names.push(task.to_string());
            }
        }
        assignments
    }
}

/// The next task of a run that is not stuck: the stages that only compute for a moment before the linters, since others
/// wait for what they make; then the longest task.
fn next_waiting<'a>(run: &'a Run, stuck: &Stuck) -> Option<(&'a Kind, TaskId)> {
    run.waiting
        .iter()
        .filter_map(|(kind, alike)| Some((kind, alike.first()?)))
        .filter(|(kind, _)| !stuck.has(kind, version(run, kind)))
        .min_by_key(|((stage, _), place)| (*stage == Stage::Lint, **place))
        .map(|(kind, (_, task))| (kind, *task))
}

/// The version of a kind's tool that the run is pinned to.
fn version<'a>(run: &'a Run, (_, tool): &Kind) -> Option<&'a str> {
    run.order.tools.get(tool.as_ref()?)?.as_deref()
}

/// Only linters fill a core; the other stages compute for a moment.
pub(super) const fn cpu_slots(stage: Stage) -> u32 {
    match stage {
        Stage::Lint => 1,
        Stage::Plan | Stage::Classify | Stage::Aggregate => 0,
    }
}

/// The outputs a task reads beside the plan, in the order of their tasks, each with the node that made it.
fn inputs_of(run: &Run, task: &TaskRef) -> Vec<(Digest, NodeId)> {
    let made = |done: &Task| match &done.state {
        TaskState::Done { node, output, .. } => Some((output.digest, node.clone())),
        _ => None,
    };
    match task.stage {
        Stage::Plan | Stage::Lint => Vec::new(),
        Stage::Classify => run
            .stage(Stage::Lint)
            // The number first: names take longer to compare, and there may be thousands of tasks.
            .find(|done| done.task.shard == task.shard && done.task.tool == task.tool)
            .and_then(made)
            .into_iter()
            .collect(),
        Stage::Aggregate => run.stage(Stage::Classify).filter_map(made).collect(),
    }
}
