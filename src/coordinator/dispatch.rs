//! Gives waiting tasks to nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Assignments, NewTask, RunEvent, TaskRef};
use super::input::{Assign, Effect, Message};
use super::node::RunningAttempt;
use super::placement::{Mesh, Need};
use super::run::{Kind, Run, Task, TaskState};
use super::{Coordinator, Draft};
use crate::types::{AttemptId, AttemptRef, Digest, NodeId, RunId, Stage, TaskId, Tick};

impl Coordinator {
    /// Places every waiting task for which a node has room: older runs first, within a run the stages that only
    /// compute for a moment, since others wait for what they make, then the longest task.
    pub(super) fn dispatch(&mut self, draft: &mut Draft) {
        // Room only shrinks while work is placed: if one task of a kind finds none, no other does.
        let mut stuck: BTreeSet<(Kind, Option<String>)> = BTreeSet::new();
        for run in self.state.open.clone() {
            while let Some((kind, task)) = self.next_waiting(&run, &stuck) {
                let placed = self.choose(draft.now.tick, &run, task).is_some_and(|node| {
                    // A node that was chosen takes it; if not, trying again at once would not end.
                    self.assign(draft, &run, task, &node)
                });
                if !placed {
                    let version = self.version(&run, &kind);
                    stuck.insert((kind, version));
                }
            }
        }
    }

    /// The next task of a run that is not of a stuck kind.
    fn next_waiting(&self, run: &RunId, stuck: &BTreeSet<(Kind, Option<String>)>) -> Option<(Kind, TaskId)> {
        let state = self.state.runs.get(run)?;
        state
            .waiting
            .iter()
            .filter_map(|(kind, alike)| Some((kind, alike.first()?)))
            .filter(|(kind, _)| {
                stuck.is_empty() || !stuck.contains(&((*kind).clone(), self.version(run, kind)))
            })
            .min_by_key(|((stage, _), place)| (*stage == Stage::Lint, **place))
            .map(|(kind, (_, task))| (kind.clone(), *task))
    }

    /// The version of a kind's tool that the run is pinned to.
    fn version(&self, run: &RunId, (_, tool): &Kind) -> Option<String> {
        self.state.runs.get(run)?.order.tools.get(tool.as_ref()?)?.clone()
    }

    fn choose(&self, now: Tick, run: &RunId, task: TaskId) -> Option<NodeId> {
        let state = self.state.runs.get(run)?;
        let mesh = Mesh {
            members: &self.state.members,
            presences: &self.presences,
            strategy: self.settings.load_balancing_strategy,
            now,
        };
        mesh.choose(&self.need(state, &state.task(task)?.task))
    }

    pub(super) fn has_waiting_work(&self) -> bool {
        self.state.open_runs().any(|(_, run)| !run.waiting.is_empty())
    }

    fn need<'a>(&'a self, run: &'a Run, task: &'a TaskRef) -> Need<'a> {
        let tool = task.tool.as_ref().filter(|_| task.stage == Stage::Lint);
        Need {
            capabilities: self.settings.required.of(task.stage),
            tool: tool.map(|tool| (tool, run.order.tools.get(tool).and_then(Option::as_deref))),
            cpu_slots: cpu_slots(task.stage),
        }
    }

    fn assign(&mut self, draft: &mut Draft, run: &RunId, task: TaskId, node: &NodeId) -> bool {
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
        let assign = Assign {
            attempt: AttemptRef { run: run.clone(), task: task.id, attempt },
            task: task.clone(),
            timeout,
            manifest: state.order.manifest,
            spec: state.order.spec,
            plan: state.output_of(Stage::Plan).map(|output| output.digest),
            makers: makers(state, &task),
            outputs: outputs_for(state, &task),
            failed: if task.stage == Stage::Aggregate { self.given_up(run) } else { Vec::new() },
            tree_root: state.order.tree_root.clone(),
            cpu_slots: cpu_slots(task.stage),
            capabilities: capabilities.iter().cloned().collect(),
        };
        let presence = self.presence(node);
        let Some(session) = presence.session else { return false };
        let Ok(permit) = presence.breaker.admit(now) else { return false };
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
        true
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

/// Who made the outputs that a task reads: its nodes ask them first.
fn makers(run: &Run, task: &TaskRef) -> BTreeMap<Digest, NodeId> {
    let read: BTreeSet<Digest> = outputs_for(run, task).into_iter().collect();
    run.tasks
        .iter()
        .filter_map(|task| match &task.state {
            TaskState::Done { node, output, .. } if read.contains(&output.digest) => {
                Some((output.digest, node.clone()))
            }
            _ => None,
        })
        .collect()
}

/// The outputs a task reads beside the plan.
fn outputs_for(run: &Run, task: &TaskRef) -> Vec<Digest> {
    match task.stage {
        Stage::Plan | Stage::Lint => Vec::new(),
        Stage::Classify => run
            .stage(Stage::Lint)
            // The number first: names take longer to compare, and there may be thousands of tasks.
            .find(|done| done.task.shard == task.shard && done.task.tool == task.tool)
            .and_then(Task::output)
            .map(|output| output.digest)
            .into_iter()
            .collect(),
        Stage::Aggregate => {
            run.stage(Stage::Classify).filter_map(Task::output).map(|output| output.digest).collect()
        }
    }
}
