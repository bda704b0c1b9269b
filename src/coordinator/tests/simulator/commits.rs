//! How decisions become facts: what arrives together is committed together, nothing is decided meanwhile, and nobody is
//! told before. Stores take their time, fail, and do not always say what they did.

use std::time::Duration;

use super::disk;
use super::fault::{Moment, Trouble};
use super::seat::Asker;
use super::world::{Happening, World};
use crate::coordinator::decision::{Effect, Reply};
use crate::coordinator::event::Event;
use crate::types::Tick;

/// How long a commit takes, and how long now and then.
const WRITES: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(20));
const SLOW_WRITES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Pauses between attempts of the engine, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a store may fail before the engine stops; one that is only full is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long whoever looks after the coordinator needs to start it again.
const STARTS_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What was decided together.
#[derive(Default)]
pub(super) struct Step {
    pub(super) events: Vec<Event>,
    pub(super) effects: Vec<Effect>,
    pub(super) replies: Vec<(Asker, Reply)>,
    pub(super) wake_at: Option<Tick>,
}

/// A call of the store under way.
pub(super) struct Commit {
    number: u64,
    pub(super) step: Step,
    began: Tick,
    pause: Duration,
    /// The outcome is not known; whether it was stored.
    unknown: Option<bool>,
    /// It is a snapshot.
    pub(super) compacts: bool,
}

impl Commit {
    /// Whether the store has the batch for sure, or has surely not.
    pub(super) const fn outcome(&self) -> Option<bool> {
        self.unknown
    }
}

impl World {
    pub(super) fn commit(&mut self, step: Step) {
        if step.events.is_empty() {
            return self.tell_all(step);
        }
        if !self.scenario.is_durable {
            self.checks.stored(&step.events);
            return self.tell_all(step);
        }
        if self.dies_at(|moment| moment == Moment::BeforeCommit) {
            self.checks.meet("crash before a commit");
            return self.crash();
        }
        self.call_store(step, false);
    }

    fn call_store(&mut self, step: Step, compacts: bool) {
        let range = if !self.calm && self.random.percent(1) { SLOW_WRITES } else { WRITES };
        let takes = self.random.duration(range.0, range.1);
        self.seat.commits += 1;
        let (number, began) = (self.seat.commits, self.now());
        self.schedule.after(takes, Happening::Stores { commit: number });
        self.seat.commit = Some(Commit { number, step, began, pause: FIRST_PAUSE, unknown: None, compacts });
        let dies = match self.seat.doom.map(|(_, moment)| moment) {
            Some(Moment::DuringCommit(_)) => !compacts,
            Some(Moment::DuringSnapshot) => compacts,
            _ => false,
        };
        if dies {
            let at = self.random.duration(Duration::ZERO, takes);
            self.schedule.after(at, Happening::Dies { life: self.seat.life });
        }
    }

    /// The store answers.
    pub(super) fn store_answers(&mut self, number: u64) {
        let now = self.now();
        let Some(mut commit) = self.seat.commit.take_if(|commit| commit.number == number) else { return };
        let Some((_, trouble)) = self.seat.trouble else {
            return self.store_works(commit);
        };
        if trouble == Trouble::Unknown && commit.unknown.is_none() && !commit.compacts {
            let is_stored = self.random.percent(50);
            commit.unknown = Some(is_stored);
            self.checks.meet(if is_stored { "unknown, and stored" } else { "unknown, and not stored" });
            if is_stored {
                self.store(&commit.step.events);
            }
        }
        self.checks.meet("commit failed");
        if trouble != Trouble::Full && now >= commit.began + PATIENCE {
            self.checks.meet("store given up");
            self.seat.commit = Some(commit);
            let down = self.random.duration(STARTS_AGAIN.0, STARTS_AGAIN.1);
            return self.crash_for(None, down, false);
        }
        self.schedule.after(commit.pause, Happening::Stores { commit: number });
        commit.pause = (commit.pause * 2).min(LONGEST_PAUSE);
        self.seat.commit = Some(commit);
    }

    fn store_works(&mut self, commit: Commit) {
        let now = self.now();
        if now >= commit.began + Duration::from_millis(500) {
            self.checks.excuses.was_deaf(now);
        }
        if commit.compacts {
            self.seat.compact();
            self.checks.meet("snapshot");
            if self.dies_at(|moment| moment == Moment::AfterSnapshot) {
                self.checks.meet("crash after a snapshot");
                return self.crash();
            }
            return self.go_on(None);
        }
        // After an unknown outcome the position says whether it is there.
        if commit.unknown != Some(true) {
            self.store(&commit.step.events);
        }
        if self.dies_at(|moment| moment == Moment::AfterCommit) {
            self.checks.meet("crash after a commit");
            return self.crash();
        }
        self.tell_all(commit.step);
    }

    /// From now on these are facts.
    pub(super) fn store(&mut self, events: &[Event]) {
        self.seat.disk.append(events);
        self.checks.stored(events);
    }

    /// Everybody is told of what is stored.
    fn tell_all(&mut self, step: Step) {
        for event in &step.events {
            disk::follow(&mut self.seat.logs, event);
        }
        let count = step.replies.len() + step.effects.len();
        let told = if self.dies_at(|moment| moment == Moment::AmidEffects && count > 1) {
            Some(1 + self.random.below(count - 1))
        } else {
            None
        };
        let mut left = told.unwrap_or(usize::MAX);
        for (asker, reply) in step.replies {
            if left > 0 {
                left -= 1;
                self.answer(asker, reply);
            }
        }
        for effect in step.effects {
            if left > 0 {
                left -= 1;
                self.perform(effect);
            }
        }
        if told.is_some() {
            self.checks.meet("crash amid effects");
            return self.crash();
        }
        let wants_snapshot =
            matches!(self.seat.doom, Some((_, Moment::DuringSnapshot | Moment::AfterSnapshot)));
        if self.scenario.is_durable
            && !step.events.is_empty()
            && (wants_snapshot || self.seat.disk.loose() >= self.scenario.compacts_after)
        {
            let wake_at = step.wake_at;
            return self.call_store(Step { wake_at, ..Step::default() }, true);
        }
        self.go_on(step.wake_at);
    }

    /// The next turn may come.
    fn go_on(&mut self, wake_at: Option<Tick>) {
        if let Some(wake) = wake_at.or_else(|| self.seat.core().wake_at()) {
            self.wake_at(wake);
        }
        if self.seat.queued() > 0 {
            self.prompt();
        }
    }
}
