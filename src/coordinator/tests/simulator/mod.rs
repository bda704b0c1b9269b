//! A seeded discrete-event simulator: the real core among simulated nodes, clients, processes and networks.

mod calm;
mod checks;
mod clients;
mod commits;
mod coverage;
mod crash;
mod disk;
mod durable;
mod excuses;
mod fault;
mod grey;
mod host;
mod injection;
mod launcher;
mod links;
mod network;
mod scenario;
mod schedule;
mod seat;
mod starts;
mod trace;
mod work;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::coordinator::event::Event;
pub(super) use grey::ALL as GREY;
use scenario::Scenario;
pub(super) use trace::Mode;
use world::World;

/// What a simulation was like.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Account {
    pub(super) seed: u64,
    /// Of everything that happened, if it was written down.
    pub(super) digest: u64,
    /// Virtual time.
    pub(super) simulated: Duration,
    pub(super) happened: u64,
    /// What was met, and how often.
    pub(super) met: BTreeMap<&'static str, u64>,
}

/// Plays a scenario to its end and through the calm after it.
fn played(scenario: Scenario, mode: Mode) -> World {
    let mut world = World::new(scenario, mode);
    world.play();
    world
}

impl Account {
    fn of(world: &World) -> Self {
        let mut met = world.checks.met.clone();
        *met.entry("stale results").or_default() += world.seat.core().stale_results();
        met.insert("packets lost", world.network.lost());
        Self {
            seed: world.scenario.seed,
            digest: world.trace.digest(),
            simulated: world.elapsed(),
            happened: world.happened,
            met,
        }
    }

    /// Adds another simulation to this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.simulated += other.simulated;
        self.happened += other.happened;
        for (what, times) in &other.met {
            *self.met.entry(what).or_default() += times;
        }
    }
}

/// Anything may happen: see [`Scenario::mixed`].
pub(super) fn mixed(seed: u64, mode: Mode) -> Account {
    Account::of(&played(Scenario::mixed(seed), mode))
}

/// A coordinator that crashes, and nothing else: see [`Scenario::restarts`].
pub(super) fn restarts(seed: u64, mode: Mode) -> Account {
    Account::of(&played(Scenario::restarts(seed), mode))
}

/// The events of a simulation, as they were stored.
pub(super) fn recorded(seed: u64) -> Vec<Event> {
    let world = played(Scenario::mixed(seed), Mode::Nothing);
    world.checks.durable.history.clone()
}

/// Loss and stalls of healthy nodes: see [`Scenario::soak`].
pub(super) fn soak(seed: u64, lasts: Duration, mode: Mode) -> Account {
    Account::of(&played(Scenario::soak(seed, lasts), mode))
}
