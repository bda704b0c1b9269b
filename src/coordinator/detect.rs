//! Silence, and work that takes too long. Looked at when time passes, never while messages that arrived still wait.

use std::time::Duration;

use super::event::AttemptFault;
use super::input::{Effect, Message};
use super::node::Presence;
use super::{ATTEMPT_GRACE, Coordinator, Draft};
use crate::types::{AttemptRef, FaultCause, NodeId, NodeStatus, Tick};

/// Missed heartbeats after which a node gets no new work.
const DEGRADED_AFTER_BEATS: f64 = 1.5;

impl Coordinator {
    /// An observer that missed its own timers has no right to call others late: it measures their silence from now.
    pub(super) fn notice_oversleep(&mut self, now: Tick) {
        if self.due.is_some_and(|due| now >= due + self.settings.heartbeat_interval) {
            self.awake_since = now;
        }
    }

    /// Looks at every node's silence.
    pub(super) fn detect(&mut self, draft: &mut Draft) {
        let now = draft.now.tick;
        let timeout = self.settings.message_timeout;
        let (mut reset, mut long_gone, mut silent, mut late) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut suspects = 0_usize;
        for (id, presence) in &self.presences {
            let status = self.status(id);
            if !matches!(status, Some(NodeStatus::Active | NodeStatus::Degraded)) {
                continue;
            }
            if let Some(at) = presence.disconnected_at {
                suspects += 1;
                if now >= at + timeout {
                    long_gone.push(id.clone());
                } else if now >= at + self.settings.reconnect_grace {
                    reset.push(id.clone());
                }
            } else if let Some(heard) = self.heard(presence) {
                if now >= heard + timeout {
                    silent.push(id.clone());
                }
                if now >= heard + self.degraded_after() {
                    suspects += 1;
                    if status == Some(NodeStatus::Active) {
                        late.push(id.clone());
                    }
                }
            }
        }
        for node in late {
            self.set_status(draft, &node, NodeStatus::Degraded, Some(FaultCause::HeartbeatTimeout));
        }
        for node in long_gone {
            self.fail(draft, &node, FaultCause::SessionLost);
        }
        // Many at once: more likely this process or its network was asleep than all of them died. They stay
        // DEGRADED; those that are really gone have their connections reset and do not return. Everyone who is
        // late counts, for heartbeats are staggered: the first to reach the timeout would always be alone.
        let tolerated = self.settings.fault_tolerance_level * self.state.members.len() as f64;
        if suspects <= 1 || suspects as f64 <= tolerated {
            for node in reset {
                self.fail(draft, &node, FaultCause::SessionLost);
            }
            for node in silent {
                self.fail(draft, &node, FaultCause::HeartbeatTimeout);
            }
        }
    }

    /// From when a node's silence is measured.
    fn heard(&self, presence: &Presence) -> Option<Tick> {
        presence.heard_at.map(|(heard, _)| heard.max(self.awake_since))
    }

    /// Whether a node is connected and not late.
    pub(super) fn is_responsive(&self, node: &NodeId, now: Tick) -> bool {
        self.presences.get(node).is_some_and(|presence| {
            presence.session.is_some()
                && self.heard(presence).is_some_and(|heard| now < heard + self.degraded_after())
        })
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

    /// The moments at which silence or a deadline may change something. Past ones are in it: they are due, or were
    /// looked at and left as they are.
    pub(super) fn wakes(&self, now: Tick) -> Vec<Tick> {
        let mut wakes: Vec<Tick> = self.deadlines.values().copied().collect();
        for (id, presence) in &self.presences {
            wakes.extend(presence.running.values().map(|running| running.deadline));
            let status = self.status(id);
            if !matches!(status, Some(NodeStatus::Active | NodeStatus::Degraded)) {
                continue;
            }
            if let Some(since) = presence.disconnected_at {
                wakes.push(since + self.settings.reconnect_grace);
                wakes.push(since + self.settings.message_timeout);
            } else if let Some(heard) = self.heard(presence) {
                if status == Some(NodeStatus::Active) {
                    wakes.push(heard + self.degraded_after());
                }
                wakes.push(heard + self.settings.message_timeout);
            }
        }
        if self.has_waiting_work() {
            // A breaker may let a probe through; the sweep finds out.
            let probes = self.presences.values().filter_map(|presence| presence.breaker.next_probe());
            wakes.extend(probes.filter(|probe| *probe > now));
        }
        wakes
    }

    /// When an attempt that starts now must have reported.
    pub(super) fn attempt_deadline(&self, now: Tick) -> Tick {
        now + self.settings.task_timeout + ATTEMPT_GRACE
    }
}
