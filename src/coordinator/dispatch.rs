//! Gives waiting tasks to nodes.

use super::event::{Assignments, NewTask, RunEvent, TaskRef};
use super::input::{Assign, Effect, Message};
use super::node::RunningAttempt;
use super::placement::{Mesh, Need};
use super::run::{Run, TaskState};
use super::{Coordinator, Draft};
use crate::types::{AttemptId, AttemptRef, Digest, NodeId, RunId, Stage, TaskId};

impl Coordinator {
    /// Places every waiting task for which a node has room: older runs first, within a run the longest task first.
    pub(super) fn dispatch(&mut self, draft: &mut Draft) {
        for (run, task) in self.queue() {
            let Some(state) = self.state.runs.get(&run) else { continue };
            let Some(waiting) = state.task(task) else { continue };
            let mesh = Mesh {
                members: &self.state.members,
                presences: &self.presences,
                strategy: self.settings.load_balancing_strategy,
                now: draft.now.tick,
            };
            let chosen = mesh.choose(&self.need(state, &waiting.task));
            if let Some(node) = chosen {
                self.assign(draft, &run, task, &node);
            }
        }
    }

    /// The waiting tasks, in the order in which they should start.
    fn queue(&self) -> Vec<(RunId, TaskId)> {
        let mut queue = Vec::new();
        for (id, run) in self.state.open_runs() {
            let mut waiting: Vec<_> =
                run.tasks.iter().filter(|task| task.state == TaskState::Queued).collect();
            // The stages that only compute for a moment go first: others wait for what they make.
            waiting.sort_by_key(|task| {
                (task.task.stage == Stage::Lint, std::cmp::Reverse(task.cost), task.task.id)
            });
            queue.extend(waiting.into_iter().map(|task| (id.clone(), task.task.id)));
        }
        queue
    }

    pub(super) fn has_queued_work(&self) -> bool {
        self.state.open_runs().any(|(_, run)| run.tasks.iter().any(|task| task.state == TaskState::Queued))
    }

    fn need<'a>(&'a self, run: &'a Run, task: &'a TaskRef) -> Need<'a> {
        let tool = task.tool.as_ref().filter(|_| task.stage == Stage::Lint);
        Need {
            capabilities: self.settings.required.of(task.stage),
            tool: tool.map(|tool| (tool, run.order.tools.get(tool).and_then(Option::as_deref))),
            cpu_slots: cpu_slots(task.stage),
        }
    }

    fn assign(&mut self, draft: &mut Draft, run: &RunId, task: TaskId, node: &NodeId) {
        let now = draft.now.tick;
        let deadline = self.attempt_deadline(now);
        let timeout = self.settings.task_timeout;
        let (Some(state), Some(member)) = (self.state.runs.get(run), self.state.members.get(node)) else {
            return;
        };
        let (Some(waiting), Some(incarnation)) = (state.task(task), member.incarnation) else { return };
        let attempt = AttemptId { epoch: self.state.epoch, number: self.state.attempts + 1 };
        let task = waiting.task.clone();
        let capabilities = self.settings.required.of(task.stage).clone();
        let assign = Assign {
            attempt: AttemptRef { run: run.clone(), task: task.id, attempt },
            task: task.clone(),
            timeout,
            manifest: state.order.manifest,
            spec: state.order.spec,
            plan: state.output_of(Stage::Plan).map(|output| output.digest),
            outputs: outputs_for(state, &task),
            failed: if task.stage == Stage::Aggregate { self.given_up(run) } else { Vec::new() },
            tree_root: state.order.tree_root.clone(),
            cpu_slots: cpu_slots(task.stage),
            capabilities: capabilities.iter().cloned().collect(),
        };
        let presence = self.presence(node);
        let Some(session) = presence.session else { return };
        let Ok(permit) = presence.breaker.admit(now) else { return };
        presence.given += 1;
        presence.running.insert(
            attempt,
            RunningAttempt {
                run: run.clone(),
                task: task.id,
                deadline,
                cpu_slots: cpu_slots(task.stage),
                capabilities,
                permit,
            },
        );
        draft.effects.push(Effect::Send {
            node: node.clone(),
            session,
            message: Message::Assign(Box::new(assign)),
        });
        let assigned = RunEvent::TaskAssigned { task, attempt, node: node.clone(), incarnation };
        self.record_run(draft, run, assigned);
    }

    /// Which node each task is meant for, by the names people read.
    pub(super) fn assignments(&self, run: &RunId, tasks: &[NewTask]) -> Assignments {
        let mesh = Mesh {
            members: &self.state.members,
            presences: &self.presences,
            strategy: self.settings.load_balancing_strategy,
            now: crate::types::Tick(0),
        };
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

/// Only linters fill a core; the other stages compute for a moment.
const fn cpu_slots(stage: Stage) -> u32 {
    match stage {
        Stage::Lint => 1,
        Stage::Plan | Stage::Classify | Stage::Aggregate => 0,
    }
}

/// The outputs a task reads beside the plan.
fn outputs_for(run: &Run, task: &TaskRef) -> Vec<Digest> {
    let of = |stage: Stage, wanted: &dyn Fn(&TaskRef) -> bool| {
        run.stage(stage)
            .filter(|done| wanted(&done.task))
            .filter_map(|done| done.output().map(|output| output.digest))
            .collect()
    };
    match task.stage {
        Stage::Plan | Stage::Lint => Vec::new(),
        Stage::Classify => of(Stage::Lint, &|done| done.tool == task.tool && done.shard == task.shard),
        Stage::Aggregate => of(Stage::Classify, &|_| true),
    }
}
