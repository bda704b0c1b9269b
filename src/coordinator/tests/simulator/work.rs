//! What a node does: attempts that take their time, fail, hang or are forgotten, and results that are kept until the
//! coordinator has them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::builders::{blob, plan, tool_error};
use super::host::Session;
use super::network::{ConnectionId, End};
use super::world::{Happening, Said, World};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::coordinator::message::Assign;
use crate::types::{AttemptRef, Digest, Incarnation, Measured, Outcome, Stage, Summary, Tick};

/// Results that a node keeps, with those it still makes.
const OUTBOX: usize = 64;
/// How long a result that was given to a relay may go without an acknowledgement.
const RELAY_PATIENCE: Duration = Duration::from_secs(5);
/// Silence of the coordinator after which a result is better given to a peer.
const CUT_OFF: Duration = Duration::from_secs(3);

/// An attempt that a node runs.
pub(super) struct Running {
    assign: Assign,
    started: Tick,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ends,
    Breaks,
    /// Uses no CPU time and never ends.
    Hangs,
}

impl Running {
    /// Since when it has not moved.
    pub(super) fn idle(&self, now: Tick) -> Duration {
        if self.fate == Fate::Hangs { now.since(self.started) } else { Duration::ZERO }
    }
}

/// A result that waits for its acknowledgement.
pub(super) struct Held {
    pub(super) attempt: AttemptRef,
    result: Input,
    /// The session it was said in.
    sent_in: Option<ConnectionId>,
    /// When it was given to a peer.
    relayed_at: Option<Tick>,
}

/// Whether a task breaks wherever it runs.
fn is_cursed(assign: &Assign) -> bool {
    let name = format!("{} {}", assign.attempt.run, assign.attempt.task);
    assign.task.stage == Stage::Lint && Digest::of(name.as_bytes()).to_string().starts_with("00")
}

impl World {
    pub(super) fn take(&mut self, node: usize, life: u64, assign: Assign) {
        let (now, attempt) = (self.now(), assign.attempt.clone());
        let is_calm = self.calm || self.scenario.is_strict;
        let most = self.hosts[node].most_tasks;
        let Some(process) = self.process(node, life) else { return };
        let (running, held, draining) = (process.running.len(), process.outbox.len(), process.draining);
        let is_held = process.outbox.iter_mut().find(|held| held.attempt == attempt);
        if let Some(held) = is_held {
            held.sent_in = None;
            return self.send_results(node, life);
        }
        if process.running.contains_key(&attempt) {
            return;
        }
        if draining || running >= most || running + held >= OUTBOX || (!is_calm && self.random.percent(2)) {
            let reason = "BUSY".to_owned();
            return self.report(node, |_, node| Input::Rejected { node, attempt, reason });
        }
        if !is_calm && self.random.percent(1) {
            // A process that loses an attempt, as no correct one does.
            return;
        }
        let fate = match self.random.below(100) {
            _ if is_calm => Fate::Ends,
            _ if is_cursed(&assign) => Fate::Breaks,
            0..3 => Fate::Breaks,
            3 => Fate::Hangs,
            _ => Fate::Ends,
        };
        let longest = if assign.task.stage == Stage::Lint { 8_000 } else { 300 };
        let pause = match fate {
            Fate::Hangs => assign.timeout,
            _ => self.random.duration(Duration::from_millis(20), Duration::from_millis(longest)),
        };
        if let Some(process) = self.process(node, life) {
            process.running.insert(attempt.clone(), Running { assign, started: now, fate });
        }
        self.checks.begun(&self.hosts, node, life, &attempt, self.scenario.is_strict);
        self.schedule.after(pause, Happening::Ends { node, life, attempt });
    }

    pub(super) fn end_attempt(&mut self, node: usize, life: u64, attempt: &AttemptRef) {
        // A revoked one ended before.
        let Some(running) = self.process(node, life).and_then(|process| process.running.remove(attempt))
        else {
            return;
        };
        let ending = match running.fate {
            Fate::Ends => self.made(&running.assign),
            Fate::Breaks => Ending::Failed("it broke".into()),
            Fate::Hangs => Ending::Failed("the attempt did not end within its timeout".into()),
        };
        let result = Input::TaskEnded {
            executor: self.hosts[node].node.clone(),
            incarnation: Incarnation(life),
            attempt: attempt.clone(),
            ending,
            measured: Measured::default(),
            via: None,
        };
        if let Some(process) = self.process(node, life) {
            let held = Held { attempt: attempt.clone(), result, sent_in: None, relayed_at: None };
            process.outbox.push_back(held);
        }
        self.send_results(node, life);
    }

    fn made(&mut self, assign: &Assign) -> Ending {
        let is_calm = self.calm || self.scenario.is_strict;
        let (is_bad, shards) = (!is_calm && self.random.percent(4), self.random.below(4) as u64);
        let run = self.seat.core().state().runs.get(&assign.attempt.run);
        let facts = match assign.task.stage {
            Stage::Plan => Facts::Plan(plan(run.into_iter().flat_map(|run| run.order.tools.keys()), shards)),
            Stage::Lint => Facts::Lint { error: is_bad.then(tool_error) },
            Stage::Classify => Facts::Classify,
            Stage::Aggregate => Facts::Aggregate {
                outcome: if !is_bad && run.is_some_and(|run| run.has_gaps()) {
                    Outcome::Incomplete
                } else {
                    Outcome::Findings
                },
                summary: Summary::default(),
                tool_errors: BTreeMap::new(),
            },
        };
        Ending::Made { output: blob(&format!("{} {}", assign.attempt.run, assign.attempt.task)), facts }
    }

    /// Says each result that was not said in this session.
    pub(super) fn send_results(&mut self, node: usize, life: u64) {
        let Some(process) = self.process(node, life) else { return };
        let Some(connection) = process.session.joined() else { return };
        let unsaid = process.outbox.iter_mut().filter(|held| held.sent_in != Some(connection));
        let results: Vec<Input> = unsaid
            .map(|held| {
                held.sent_in = Some(connection);
                held.result.clone()
            })
            .collect();
        for result in results {
            self.say(connection, End::Dialer, Said::Input(Box::new(result)));
        }
    }

    /// A node without a live way to the coordinator gives its results to a peer.
    pub(super) fn seek_relay(&mut self, node: usize, life: u64) {
        let now = self.now();
        let Some(process) = self.process(node, life) else { return };
        let is_cut_off = match process.session {
            Session::Joined { heard_at, .. } => now >= heard_at + CUT_OFF,
            _ => true,
        };
        if !is_cut_off || process.abstaining {
            return;
        }
        let Some(connection) = process.links.live() else { return };
        let due = process
            .outbox
            .iter_mut()
            .filter(|held| held.relayed_at.is_none_or(|at| now >= at + RELAY_PATIENCE));
        let results: Vec<Input> = due
            .map(|held| {
                held.relayed_at = Some(now);
                held.result.clone()
            })
            .collect();
        for result in results {
            self.say(connection, End::Dialer, Said::Relay { result: Box::new(result) });
        }
    }
}
