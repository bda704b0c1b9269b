//! Silence, and work that takes too long.

use std::time::Duration;

use super::event::AttemptFault;
use super::input::{Effect, Message};
use super::{ATTEMPT_GRACE, Coordinator, Draft};
use crate::types::{AttemptRef, FaultCause, NodeId, NodeStatus, Tick};

/// Missed heartbeats after which a node gets no new work.
const DEGRADED_AFTER_BEATS: f64 = 1.5;

impl Coordinator {
    /// Looks at every node's silence.
    pub(super) fn detect(&mut self, draft: &mut Draft) {
        let now = draft.now.tick;
        let (mut reset, mut silent, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for (id, presence) in &self.presences {
            let status = self.status(id);
            if !matches!(status, Some(NodeStatus::Active | NodeStatus::Degraded)) {
                continue;
            }
            let silence = presence.heard_at.map_or(Duration::ZERO, |(heard, _)| now.since(heard));
            if presence.disconnected_at.is_some_and(|at| now.since(at) >= self.settings.reconnect_grace) {
                reset.push(id.clone());
            } else if silence >= self.settings.message_timeout {
                silent.push(id.clone());
            } else if silence >= self.degraded_after() && status == Some(NodeStatus::Active) {
                late.push(id.clone());
            }
        }
        for node in reset {
            self.fail(draft, &node, FaultCause::SessionLost);
        }
        for node in late {
            self.set_status(draft, &node, NodeStatus::Degraded, Some(FaultCause::HeartbeatTimeout));
        }
        // Many at once: more likely this process or its network was asleep than all of them died. They stay
        // DEGRADED; those that are really gone will have their connections reset.
        let tolerated = self.settings.fault_tolerance_level * self.state.members.len() as f64;
        if silent.len() == 1 || silent.len() as f64 <= tolerated {
            for node in silent {
                self.fail(draft, &node, FaultCause::HeartbeatTimeout);
            }
        }
    }

    fn degraded_after(&self) -> Duration {
        self.settings.heartbeat_interval.mul_f64(DEGRADED_AFTER_BEATS)
    }

    /// Runs past their time are cancelled; attempts past theirs are taken back.
    pub(super) fn end_overdue_work(&mut self, draft: &mut Draft) {
        let now = draft.now.tick;
        let runs: Vec<_> =
            self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(run, _)| run.clone()).collect();
        for run in runs {
            let timeout = self.state.runs.get(&run).map_or(Duration::ZERO, |run| run.order.timeout);
            let reason = format!("the run took longer than its timeout of {} s", timeout.as_secs_f64());
            self.cancel_run(draft, &run, &reason);
        }
        let overdue: Vec<(NodeId, AttemptRef)> = self
            .presences
            .iter()
            .flat_map(|(node, presence)| {
                presence.running.iter().filter(|(_, running)| running.deadline <= now).map(|(id, running)| {
                    let attempt = AttemptRef { run: running.run.clone(), task: running.task, attempt: *id };
                    (node.clone(), attempt)
                })
            })
            .collect();
        for (node, attempt) in overdue {
            if let Some(session) = self.presence(&node).session {
                let message = Message::Revoke { attempt: attempt.clone(), reason: "it took too long".into() };
                draft.effects.push(Effect::Send { node: node.clone(), session, message });
            }
            let detail = "no result within the task timeout";
            self.attempt_failed(draft, &node, &attempt, true, AttemptFault::Deadline, detail);
        }
    }

    /// The next moment at which silence or a deadline may change something.
    pub(super) fn next_wake(&self, now: Tick) -> Option<Tick> {
        let mut wakes: Vec<Tick> = self.deadlines.values().copied().collect();
        for (id, presence) in &self.presences {
            wakes.extend(presence.running.values().map(|running| running.deadline));
            if !matches!(self.status(id), Some(NodeStatus::Active | NodeStatus::Degraded)) {
                continue;
            }
            if let Some(since) = presence.disconnected_at {
                wakes.push(since + self.settings.reconnect_grace);
            }
            if let Some((heard, _)) = presence.heard_at {
                wakes.push(heard + self.degraded_after());
                wakes.push(heard + self.settings.message_timeout);
            }
        }
        if self.has_queued_work() {
            // A breaker may let a probe through; the sweep finds out.
            wakes.extend(self.presences.values().filter_map(|presence| presence.breaker.next_probe()));
        }
        wakes.into_iter().filter(|wake| *wake > now).min()
    }

    /// When an attempt that starts now must have reported.
    pub(super) fn attempt_deadline(&self, now: Tick) -> Tick {
        now + self.settings.task_timeout + ATTEMPT_GRACE
    }
}
