//! Work that takes too long, stands still, or is not known to the node that should do it.

use std::time::Duration;

use super::decision::{Effect, Reply};
use super::event::AttemptFault;
use super::message::Message;
use super::{ATTEMPT_GRACE, Coordinator, Draft};
use crate::types::{AttemptRef, Incarnation, NodeId, Tick};

/// Heartbeats in a row that do not tell of an attempt before it counts as lost.
const MISSED_BEATS: u32 = 2;

impl Coordinator {
    /// When an attempt that starts now must have reported.
    pub(super) fn attempt_deadline(&self, now: Tick) -> Tick {
        now + self.settings.task_timeout + ATTEMPT_GRACE
    }

    /// Nothing was decided for so long: not the runs and the nodes are late, but this process.
    pub(super) fn postpone_deadlines(&mut self, by: Duration) {
        for deadline in self.deadlines.values_mut() {
            *deadline = *deadline + by;
        }
        for presence in self.presences.values_mut() {
            presence.running.postpone(by);
        }
        self.drains.postpone(by);
    }

    /// Runs past their time are cancelled.
    pub(super) fn end_overdue_runs(&mut self, draft: &mut Draft) {
        let now = draft.now.tick;
        let runs: Vec<_> =
            self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(run, _)| run.clone()).collect();
        for run in runs {
            let timeout = self.state.runs.get(&run).map_or(Duration::ZERO, |run| run.order.timeout);
            let reason = format!("the run took longer than its timeout of {} s", timeout.as_secs_f64());
            self.cancel_run(draft, &run, &reason);
        }
    }

    /// Attempts of a node past their time are taken back.
    pub(super) fn end_overdue_attempts(&mut self, draft: &mut Draft, node: &NodeId) {
        let now = draft.now.tick;
        let running = self.presences.get(node).into_iter().flat_map(|presence| &presence.running);
        let overdue: Vec<AttemptRef> = running
            .filter(|(_, running)| running.deadline <= now && !running.has_arrived)
            .map(|(id, running)| running.named(*id))
            .collect();
        for attempt in overdue {
            self.take_back(
                draft,
                node,
                &attempt,
                AttemptFault::Deadline,
                "no result within the task timeout",
            );
        }
    }

    /// What an attempt made has arrived: whatever keeps it from being stored, its node is not late.
    pub(super) fn result_waits(
        &mut self,
        executor: &NodeId,
        incarnation: Incarnation,
        attempt: &AttemptRef,
    ) -> Reply {
        if self.is_current(attempt, executor, incarnation) {
            self.presence(executor).running.has_arrived(&attempt.attempt);
        }
        Reply::Done
    }

    /// Compares what a heartbeat tells of attempts with what the node was given. Each comes with the time for which it
    /// has not moved.
    pub(super) fn check_attempts(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        told: &[(AttemptRef, Duration)],
    ) {
        let (now, patience) = (draft.now.tick, self.settings.progress_timeout);
        let apart = self.settings.heartbeat_interval / 2;
        let Some(presence) = self.presences.get_mut(node) else { return };
        // A node that runs something but tells of nothing says nothing about what it was given.
        let is_silent = told.is_empty() && presence.load.running_tasks > 0;
        let (mut lost, mut hung) = (Vec::new(), Vec::new());
        for (attempt, missed) in presence.running.beats().filter(|_| !is_silent) {
            match told.iter().find(|(known, _)| *known == attempt) {
                Some((_, idle)) => {
                    missed.count = Some(0);
                    if *idle >= patience {
                        hung.push(attempt);
                    }
                }
                None if missed.count.is_some() && now < missed.counted_at + apart => {}
                None => {
                    missed.counted_at = now;
                    let count = missed.count.map_or(0, |count| count + 1);
                    missed.count = Some(count);
                    if count >= MISSED_BEATS {
                        lost.push(attempt);
                    }
                }
            }
        }
        for attempt in lost {
            self.take_back(draft, node, &attempt, AttemptFault::Lost, "the node does not tell of it");
        }
        for attempt in hung {
            let detail = format!("no CPU time and no output for {} s", patience.as_secs_f64());
            self.take_back(draft, node, &attempt, AttemptFault::Hung, &detail);
        }
    }

    fn take_back(
        &mut self,
        draft: &mut Draft,
        node: &NodeId,
        attempt: &AttemptRef,
        fault: AttemptFault,
        detail: &str,
    ) {
        if let Some(session) = self.presence(node).session {
            let message = Message::Revoke { attempt: attempt.clone(), reason: detail.to_owned() };
            draft.effects.push(Effect::Send { node: node.clone(), session, message });
        }
        // What never arrived cannot have crashed anything.
        let counts = fault != AttemptFault::Lost;
        self.attempt_failed(draft, node, attempt, counts, fault, detail);
    }
}
