//! Second attempts: work of a node that fell silent is tried elsewhere as well. The first good result counts, the other
//! attempt is revoked, and what is doubled costs no budget.

use super::breaker::CallOutcome;
use super::decision::Effect;
use super::message::Message;
use super::run::Task;
use super::{Coordinator, Draft};
use crate::types::{AttemptRef, NodeId};

impl Coordinator {
    /// Starts a second attempt of each task that only a doubted node has, as far as there is room.
    pub(super) fn double(&mut self, draft: &mut Draft) {
        if self.watch.doubted.is_empty() {
            return;
        }
        let lone: Vec<(NodeId, AttemptRef)> = self
            .watch
            .doubted
            .iter()
            .filter_map(|node| self.presences.get_key_value(node))
            .flat_map(|(node, presence)| {
                // What waits for room needs no second one that would wait for it too.
                let awaited = presence.running.iter().filter(|(_, running)| !running.has_arrived);
                awaited.map(|(id, running)| (node.clone(), running.named(*id)))
            })
            .filter(|(_, attempt)| {
                let task = self.state.runs.get(&attempt.run).and_then(|run| run.task(attempt.task));
                task.is_some_and(|task| task.executions().len() == 1)
            })
            .collect();
        for (doubted, attempt) in lone {
            let run = self.state.runs.get(&attempt.run);
            let node = run.and_then(|run| self.choose(draft.now.tick, run, attempt.task, Some(&doubted)));
            if let Some(node) = node {
                self.assign(draft, &attempt.run, attempt.task, &node, true);
            }
        }
    }

    /// Stops what else is tried for a task, now that one of its attempts ended well.
    pub(super) fn stop_others(&mut self, draft: &mut Draft, winner: &AttemptRef) {
        let task = self.state.runs.get(&winner.run).and_then(|run| run.task(winner.task));
        let others = task.map(Task::executions).unwrap_or_default();
        for other in others.into_iter().filter(|other| other.attempt != winner.attempt) {
            let attempt = AttemptRef { attempt: other.attempt, ..winner.clone() };
            self.release(draft, &other.node, &attempt, CallOutcome::Ignored);
            if let Some(session) = self.presences.get(&other.node).and_then(|presence| presence.session) {
                let message = Message::Revoke { attempt, reason: "another attempt was faster".into() };
                draft.effects.push(Effect::Send { node: other.node, session, message });
            }
        }
    }
}
