//! The coordinator's process ends at an unkind moment, and another takes up what its store has.

use std::time::Duration;

use super::fault::{Batch, Fault, Moment, Place};
use super::world::{Happening, World};
use crate::coordinator::{Coordinator, invariants};
use crate::types::Now;

impl World {
    /// Plans the end of the coordinator for the next moment of a kind.
    pub(super) fn doom(&mut self, number: usize, moment: Moment) {
        if !self.seat.is_up || self.seat.doom.is_some() {
            return;
        }
        self.seat.doom = Some((number, moment));
        if moment == Moment::Now {
            self.checks.meet(if self.seat.commit.is_some() {
                "crash while storing"
            } else {
                "crash while idle"
            });
            self.crash();
        }
    }

    /// Whether the coordinator is to end at this moment.
    pub(super) fn dies_at(&self, is_it: impl Fn(Moment) -> bool) -> bool {
        self.seat.doom.is_some_and(|(_, moment)| is_it(moment))
    }

    /// It ends while it waits for its store.
    pub(super) fn die(&mut self, life: u64) {
        if self.seat.life == life && self.seat.doom.is_some() && self.seat.commit.is_some() {
            self.checks.meet("crash while storing");
            self.crash();
        }
    }

    /// It ends as its script says.
    pub(super) fn crash(&mut self) {
        let Some((number, _)) = self.seat.doom else { return };
        if let Some(Fault::CrashCoordinator { lasts, power, .. }) = self.fault(number) {
            self.crash_for(Some(number), lasts, power);
        }
    }

    /// Its process ends, and is down for so long; if its machine lost its power, nobody is told.
    pub(super) fn crash_for(&mut self, number: Option<usize>, down: Duration, power: bool) {
        self.lose_commit();
        self.checks.coordinator_ended(&self.seat);
        self.seat.end();
        self.stalled.remove(&Place::Coordinator);
        for (connection, end) in self.network.of(Place::Coordinator) {
            if power {
                self.network.abandon(connection, end);
            } else {
                self.close(connection, end);
            }
        }
        if let Some((number, fault)) =
            number.filter(|_| power).and_then(|number| Some((number, self.fault(number)?)))
        {
            self.checks.meet("coordinator lost its power");
            self.disturb(number, fault);
        }
        for process in self.hosts.iter_mut().filter_map(|host| host.process.as_mut()) {
            process.is_orphan = true;
        }
        let life = self.seat.life;
        self.schedule.after(down, Happening::StartsAgain { life });
    }

    /// What was being stored is lost, kept or torn.
    fn lose_commit(&mut self) {
        let Some(commit) = self.seat.commit.take() else { return };
        if commit.compacts {
            let is_there = self.random.percent(50);
            self.checks.meet(if is_there { "snapshot kept" } else { "snapshot lost" });
            if is_there {
                self.seat.compact();
            }
            return;
        }
        if commit.outcome().is_some() {
            return self.checks.meet("crash with an unknown outcome");
        }
        let chance = [Batch::Lost, Batch::Kept, Batch::Torn][self.random.below(3)];
        let batch = match self.seat.doom {
            Some((_, Moment::DuringCommit(batch))) => batch,
            _ => chance,
        };
        let events = commit.step.events;
        match batch {
            Batch::Lost => self.checks.meet("batch lost"),
            Batch::Kept => {
                self.checks.meet("batch kept");
                self.store(&events);
            }
            Batch::Torn => {
                self.checks.meet("batch torn");
                let at = self.random.below(1 << 20);
                self.seat.disk.tear(&events, at);
            }
        }
    }

    /// Its successor begins with what is stored.
    pub(super) fn start_again(&mut self, life: u64) {
        if self.seat.is_up || self.seat.life != life {
            return;
        }
        let now = Now { tick: self.now(), wall: self.wall(Place::Coordinator) };
        let loaded = self.seat.disk.open();
        if loaded.was_torn {
            self.checks.meet("torn end cut");
        }
        self.checks.restarted(now.tick, &loaded);
        self.clients.restarted(&mut self.checks, &loaded.logs);
        let settings = self.scenario.settings.clone();
        let core = Coordinator::resume(settings, loaded.state, now);
        assert_eq!(invariants::broken(&core), Vec::<String>::new());
        let wake_at = core.wake_at();
        self.seat.begin(core, loaded.logs);
        if let Some(wake) = wake_at {
            self.wake_at(wake);
        }
        // Its launcher watches the processes that are alive, and starts those that are not.
        for node in 0..self.hosts.len() {
            if self.hosts[node].process.is_none() {
                self.order_start(node, 0);
            }
        }
    }
}
