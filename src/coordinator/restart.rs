//! A coordinator that goes on where an earlier one ended.
//!
//! Only the state survives. All else is found anew: the nodes are away until they join, and then say what they run and
//! what they hold, which is compared with what the state says they were given. Until the start's grace is over nobody's
//! absence is held against them: it was the coordinator that went away.

use std::time::Duration;

use super::breaker::Permit;
use super::input::SessionEnding;
use super::node::{MissedBeats, RunningAttempt};
use super::run::{Execution, Run};
use super::settings::Settings;
use super::state::State;
use super::{Coordinator, dispatch};
use crate::types::{AttemptId, FaultCause, NodeId, NodeStatus, Now, RunId, Tick};

impl Coordinator {
    /// A coordinator with the state that an earlier one left, of which [`State::epoch`] is this start's.
    pub fn resume(settings: Settings, state: State, now: Now) -> Self {
        let epoch = state.epoch;
        let mut core = Self { state, ..Self::new(settings, epoch) };
        core.notice_oversleep(now.tick);
        let nodes: Vec<NodeId> = core.state.members.keys().cloned().collect();
        for node in &nodes {
            core.await_node(node, now);
        }
        let runs: Vec<RunId> = core.state.open.clone();
        for id in &runs {
            core.take_up(id, now);
        }
        for node in &nodes {
            core.take_up_drain(node, now.tick);
        }
        // Some alarms are due at once.
        core.watch.due = core.next_wake(now, None);
        core
    }

    /// A member whose process may still be there.
    fn await_node(&mut self, node: &NodeId, now: Now) {
        let Some(member) = self.state.members.get(node) else { return };
        let (status, cause) = (member.status, member.cause);
        let was_there = matches!(status, NodeStatus::Active | NodeStatus::Degraded);
        let presence = self.presence(node);
        if was_there {
            presence.disconnected_at = Some(now.tick);
            presence.heard_at = Some((now.tick, now.wall));
            presence.contact.ending = Some(SessionEnding::Given);
            presence.contact.is_excused = true;
            presence.contact.is_awaited = true;
        }
        if status == NodeStatus::Failed {
            let recovering = self.take_up_recovery(node, cause, now.tick);
            self.metrics.take_up_failure(now.tick, node, cause, recovering);
        }
        if cause == Some(FaultCause::Draining) && !self.is_drained(node) {
            // It was asked to end, and may have ended while nobody looked.
            self.note_leaving(node, "its process was asked to end");
        }
        self.resume_breaker(node, now);
        self.wake(node, now.tick);
    }

    /// Whether the node was there under an earlier coordinator and was not heard by this one yet.
    pub(super) fn is_awaited(&self, node: &NodeId) -> bool {
        self.presences.get(node).is_some_and(|presence| presence.contact.is_awaited)
    }

    /// A run that was open. Its time went on while there was no coordinator; what its nodes have finished meanwhile gets
    /// the time to come in.
    fn take_up(&mut self, id: &RunId, now: Now) {
        let Some(run) = self.state.runs.get(id) else { return };
        let elapsed = Duration::from_millis(now.wall.0.saturating_sub(run.started_at.0));
        let left = run.order.timeout.saturating_sub(elapsed).max(self.settings.message_timeout);
        self.deadlines.insert(id.clone(), now.tick + left);
        self.queue.adopt(now.tick, id, run);
        for (node, attempt, running) in self.given(id, run, now.tick) {
            self.presence(&node).running.insert(attempt, running);
        }
    }

    /// What nodes were given of a run and have not answered for.
    fn given(&self, id: &RunId, run: &Run, now: Tick) -> Vec<(NodeId, AttemptId, RunningAttempt)> {
        let deadline = self.attempt_deadline(now);
        let executions = run
            .tasks
            .iter()
            .flat_map(|task| task.executions().into_iter().map(move |execution| (&task.task, execution)));
        executions
            .map(|(task, Execution { attempt, node, .. })| {
                let running = RunningAttempt {
                    run: id.clone(),
                    task: task.id,
                    deadline,
                    has_arrived: false,
                    cpu_slots: dispatch::cpu_slots(task.stage),
                    capabilities: self.settings.required.of(task.stage).clone(),
                    permit: Permit::adopted(),
                    missed_beats: MissedBeats { count: None, counted_at: now },
                };
                (node, attempt, running)
            })
            .collect()
    }
}
