//! What must hold over restarts of the coordinator: what was stored is there, what was told stays true, and what runs is
//! not run again.

use std::collections::{BTreeMap, BTreeSet};

use super::checks::Checks;
use super::clients::Watch;
use super::disk::{Loaded, RunLogs};
use super::host::Host;
use super::seat::Seat;
use crate::coordinator::event::{Event, RunEvent};
use crate::coordinator::state::State;
use crate::types::{AttemptId, AttemptRef, Epoch, RunId, TaskId, Tick};

/// What is stored, as it is known from outside.
pub(super) struct Durable {
    /// What the stored events say.
    pub(super) state: State,
    /// All of them, in order.
    pub(super) history: Vec<Event>,
    forgotten: BTreeSet<RunId>,
    /// Processes that began to work on each task.
    executions: BTreeMap<(RunId, TaskId), Vec<Executed>>,
}

/// An attempt that a node's process began.
struct Executed {
    attempt: AttemptId,
    node: usize,
    life: u64,
}

impl Durable {
    pub(super) fn new() -> Self {
        Self {
            state: State::new(Epoch(1)),
            history: Vec::new(),
            forgotten: BTreeSet::new(),
            executions: BTreeMap::new(),
        }
    }
}

impl Checks {
    /// A batch is stored.
    pub(super) fn stored(&mut self, events: &[Event]) {
        for event in events {
            self.durable.state.apply(event);
            self.durable.history.push(event.clone());
            match event {
                Event::Run { run, sequence, event, .. } => {
                    let is_known = !self.durable.forgotten.contains(run);
                    assert!(is_known, "{run} was forgotten");
                    self.follow_run(run, *sequence, event);
                }
                Event::RunForgotten(run) => {
                    self.durable.forgotten.insert(run.clone());
                    self.durable.executions.retain(|(of, _), _| of != run);
                    self.forget_run(run);
                }
                _ => {}
            }
        }
    }

    /// The coordinator's process has ended.
    pub(super) fn coordinator_ended(&mut self, seat: &Seat) {
        self.meet("coordinator crashed");
        *self.met.entry("stale results").or_default() += seat.core().stale_results();
        self.no_session_lives();
    }

    /// Another one has begun with what it found.
    pub(super) fn restarted(&mut self, now: Tick, loaded: &Loaded) {
        let state = &mut self.durable.state;
        (state.epoch, state.attempts) = (loaded.state.epoch, 0);
        assert_eq!(loaded.state, *state, "what was stored is what is found");
        for (run, log) in &loaded.logs {
            assert_eq!(log.len() as u64, state.runs[run].sequence, "{run}: its events are there");
        }
        assert!(state.runs.keys().eq(loaded.logs.keys()), "every run has its log");
        self.begin_anew(now);
    }

    /// What a client was told.
    pub(super) fn is_kept(&self, run: &RunId, logs: &RunLogs) {
        let is_there = logs.contains_key(run) || self.durable.forgotten.contains(run);
        assert!(is_there, "{run} was accepted, and is not known any more");
    }

    /// Whether a run was forgotten.
    pub(super) fn is_forgotten(&self, run: &RunId) -> bool {
        self.durable.forgotten.contains(run)
    }

    /// A node's process begins an attempt. Where nothing else goes wrong than with the coordinator, no task is begun
    /// again while the process that began it lives.
    pub(super) fn begun(
        &mut self,
        hosts: &[Host],
        node: usize,
        life: u64,
        attempt: &AttemptRef,
        is_strict: bool,
    ) {
        let task = (attempt.run.clone(), attempt.task);
        let earlier = self.durable.executions.entry(task).or_default();
        let is_first = earlier.is_empty();
        let alive = earlier.iter().find(|executed| {
            let process = hosts[executed.node].process.as_ref();
            process.is_some_and(|process| process.life == executed.life)
        });
        if let Some(alive) = alive {
            let (by, before) = (&hosts[alive.node].node, alive.attempt);
            assert!(!is_strict, "{attempt} is begun although {by} is alive, which began {before}");
        }
        let met = if is_first { "task begun" } else { "task begun again" };
        earlier.push(Executed { attempt: attempt.attempt, node, life });
        self.meet(met);
    }
}

/// Watchers have seen a part of what is stored.
pub(super) fn agrees(run: &RunId, seen: &Watch, log: &[RunEvent]) {
    assert!(seen.events.len() <= log.len(), "{run}: an event that was seen is gone");
    assert_eq!(seen.events, log[..seen.events.len()], "{run}: what was seen is contradicted");
}
