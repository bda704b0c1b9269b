//! What must hold after every decision, whatever happened.

use std::collections::BTreeSet;

use super::Coordinator;
use super::run::{Execution, Task, TaskState};
use crate::types::NodeStatus;

/// Everything that does not hold, in words; empty if all is well.
pub fn broken(core: &Coordinator) -> Vec<String> {
    let mut broken = Vec::new();
    let mut running = BTreeSet::new();
    for (id, run) in &core.state.runs {
        for task in &run.tasks {
            let executions = task.executions();
            if let [first, second] = &executions[..]
                && first.node == second.node
            {
                broken.push(format!("{id} {}: {} has it twice", task.task, first.node));
            }
            for Execution { attempt, node, .. } in &executions {
                if !running.insert(*attempt) {
                    broken.push(format!("attempt {attempt} has two tasks"));
                }
                let held = core
                    .presences
                    .get(node)
                    .and_then(|presence| presence.running.get(attempt))
                    .is_some_and(|held| held.run == *id && held.task == task.task.id);
                if run.is_open() && !held {
                    broken.push(format!("{id} {}: {node} does not hold attempt {attempt}", task.task));
                }
                if attempt.epoch == core.state.epoch && attempt.number > core.state.attempts {
                    broken.push(format!("attempt {attempt} could be used again"));
                }
            }
            if task.crashes > core.settings.max_retry_attempts + 1 {
                broken.push(format!("{id} {}: over its budget", task.task));
            }
        }
        let queued = run.tasks.iter().filter(|task| task.state == TaskState::Queued);
        let queued: BTreeSet<_> = queued.map(|task| (task.kind(), task.place())).collect();
        let waiting: BTreeSet<_> = run
            .waiting
            .iter()
            .flat_map(|(kind, alike)| alike.iter().map(|place| (kind.clone(), *place)))
            .collect();
        if run.is_open() && queued != waiting {
            broken.push(format!("{id}: what waits and what is queued differ"));
        }
        if run.unfinished != run.tasks.iter().filter(|task| !task.is_over()).count() {
            broken.push(format!("{id}: its unfinished tasks are miscounted"));
        }
        if run.is_open() && run.unfinished == 0 {
            broken.push(format!("{id}: is open with nothing left to do"));
        }
        if run.is_open() != core.state.open.contains(id) {
            broken.push(format!("{id}: open runs are listed, ended ones are not"));
        }
        if run.is_open() != core.deadlines.contains_key(id) {
            broken.push(format!("{id}: open runs have a deadline, ended ones have none"));
        }
    }
    broken.extend(core.queue.differences(&core.state));
    for (node, presence) in &core.presences {
        for (attempt, held) in &presence.running {
            let waits = core
                .state
                .runs
                .get(&held.run)
                .filter(|run| run.is_open())
                .and_then(|run| run.task(held.task));
            let executions = waits.map(Task::executions).unwrap_or_default();
            let is_current =
                executions.iter().any(|execution| execution.attempt == *attempt && execution.node == *node);
            if !is_current {
                broken.push(format!("{node} holds attempt {attempt}, which nobody waits for"));
            }
        }
        let Some(member) = core.state.members.get(node) else {
            broken.push(format!("{node} is present but no member"));
            continue;
        };
        if member.status == NodeStatus::Failed && !presence.running.is_empty() {
            broken.push(format!("{node} is FAILED and has work"));
        }
        if presence.running.len() > member.spec.max_concurrent_tasks as usize {
            broken.push(format!("{node} runs more than it may"));
        }
    }
    broken
}
