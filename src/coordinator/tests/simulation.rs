//! Simulations over hundreds of seeds, and what must be true of every one of them.
//!
//! | variable | what it does |
//! |---|---|
//! | `LINTMESH_SIMULATION_SEED=7` | plays one seed, and writes down what happened last if it fails |
//! | `LINTMESH_SIMULATION_TRACE=1` | with it: writes down everything |
//! | `LINTMESH_SIMULATION_SEEDS=5000` | plays so many seeds |
//! | `LINTMESH_SIMULATION_FIRST=1000` | begins with this one |
//! | `LINTMESH_SIMULATION_SECONDS=120` | plays seeds until so much time has passed, or all of them were played |

use std::time::Duration;

use tokio::time::Instant;

use super::random::Random;
use super::simulator::{self, Account, Mode};
use super::tripping::stored;
use crate::coordinator::event::Event;
use crate::coordinator::state::State;
use crate::types::{Epoch, NodeStatus};

/// A few seconds in a debug build.
const SEEDS: u64 = 120;
const RESTARTS_SEEDS: u64 = 16;
const REPLAYED_SEEDS: u64 = 8;
const GREY_SEEDS: u64 = 5;
const SOAKS: u64 = 1;
/// Virtual time of one seed of the soak.
const SOAK: Duration = Duration::from_secs(1800);

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(format!("LINTMESH_SIMULATION_{name}")).ok()?;
    Some(text.parse().expect("a number"))
}

fn mode() -> Mode {
    match (variable("SEED"), variable("TRACE")) {
        (Some(_), Some(1)) => Mode::Print,
        (Some(_), _) => Mode::Digest,
        _ => Mode::Nothing,
    }
}

/// The seeds that the environment asks for, while there is time.
fn seeds(default: u64) -> impl Iterator<Item = u64> {
    let (first, seeds) = match variable("SEED") {
        Some(seed) => (seed, 1),
        None => {
            let first = variable("FIRST").unwrap_or(0);
            let unbounded = variable("SECONDS").map(|_| u64::MAX - first);
            (first, variable("SEEDS").or(unbounded).unwrap_or(default))
        }
    };
    let end = variable("SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    (first..first.saturating_add(seeds)).take_while(move |_| end.is_none_or(|end| Instant::now() < end))
}

#[test]
fn whatever_happens_every_run_ends_with_each_task_done_once_or_given_up() {
    let started = Instant::now();
    let (mut all, mut count) = (Account::default(), 0);
    for seed in seeds(SEEDS) {
        all.add(&simulator::mixed(seed, mode()));
        count += 1;
    }
    tell("mixed faults", count, started, &all);
    if count >= SEEDS {
        // A simulation that never meets the hard cases would prove nothing.
        met_all(HARD, &all, 5);
        met_all(CRASHES, &all, 1);
    }
}

fn met_all<'a>(hard: impl IntoIterator<Item = &'a &'a str>, all: &Account, least: u64) {
    for hard in hard {
        let times = all.met.get(hard).copied().unwrap_or(0);
        assert!(times >= least, "the simulations met `{hard}` {times} times only: {:#?}", all.met);
    }
}

/// Each way in which a coordinator can end, and its store fail.
const CRASHES: &[&str] = &[
    "batch kept",
    "batch lost",
    "batch torn",
    "breaker closed",
    "breaker opened",
    "commit failed",
    "coordinator lost its power",
    "crash after a commit",
    "crash after a snapshot",
    "crash amid effects",
    "crash before a commit",
    "crash while idle",
    "crash while storing",
    "orphan ended",
    "request repeated",
    "snapshot",
    "snapshot kept",
    "snapshot lost",
    "store away",
    "store full",
    "store unsure",
    "task begun again",
    "torn end cut",
    "unknown, and not stored",
    "unknown, and stored",
    "watched over a restart",
];

/// What a coordinator that ends again and again must meet where nothing else goes wrong.
const RESTARTS: &[&str] = &[
    "batch kept",
    "batch lost",
    "batch torn",
    "crash after a commit",
    "crash amid effects",
    "crash before a commit",
    "coordinator lost its power",
    "orphan ended",
    "snapshot",
    "store given up",
    "task begun again",
    "watched over a restart",
];

/// Nodes that do nothing wrong, and a coordinator that ends again and again: nobody is FAILED who did not end, and what
/// runs goes on.
#[test]
fn however_often_the_coordinator_crashes_no_task_is_begun_again_that_runs() {
    let started = Instant::now();
    let (mut all, mut count) = (Account::default(), 0);
    for seed in seeds(RESTARTS_SEEDS) {
        all.add(&simulator::restarts(seed, mode()));
        count += 1;
    }
    tell("restarts", count, started, &all);
    if count >= RESTARTS_SEEDS {
        met_all(RESTARTS, &all, 1);
    }
}

/// Whatever part of the events a snapshot stands for, the rest leads to the same state.
#[test]
fn the_stored_events_give_the_state_from_any_snapshot_on() {
    let mut random = Random(7);
    for seed in 0..REPLAYED_SEEDS {
        let written = serde_json::to_vec(&simulator::recorded(seed)).expect("writes");
        let events: Vec<Event> = serde_json::from_slice(&written).expect("reads");
        let replayed = |events: &[Event], mut state: State| {
            events.iter().for_each(|event| state.apply(event));
            state
        };
        // No coordinator has the epoch in which it begins.
        let epoch = Epoch(u64::MAX);
        let whole = replayed(&events, State::new(epoch));
        for _ in 0..10 {
            let (before, after) = events.split_at(random.below(events.len() + 1));
            let snapshot = stored(&replayed(before, State::new(epoch)), epoch.0);
            assert_eq!(replayed(after, snapshot), whole, "seed {seed}, a snapshot after {}", before.len());
        }
    }
}

/// What the simulations must meet.
const HARD: &[&str] = &[
    "attempt failed",
    "drained",
    "fault handled",
    "left in order",
    "linked",
    "look asked for",
    "node degraded",
    "node failed",
    "packets lost",
    "passed on",
    "rebuild",
    "redistributed",
    "restarted",
    "revoked",
    "run cancelled",
    "run complete",
    "run forgotten",
    "run incomplete",
    "stale results",
    "task given up",
];

/// Four healthy nodes on a network that loses a tenth of everything, while one at a time, or the coordinator, gets no
/// time for up to 25 s.
#[test]
fn a_soak_of_loss_and_stalls_takes_nobody_for_dead() {
    let started = Instant::now();
    let (mut all, mut count) = (Account::default(), 0);
    for seed in seeds(SOAKS) {
        all.add(&simulator::soak(seed, SOAK, mode()));
        count += 1;
    }
    tell("soak", count, started, &all);
    assert_eq!(all.met.get("node failed"), None, "nobody died");
    for hard in ["node degraded", "packets lost", "run complete"] {
        assert!(all.met.contains_key(hard), "the soak met no `{hard}`: {:#?}", all.met);
    }
}

#[test]
fn a_grey_network_changes_a_status_at_most_once_with_each_fault_and_once_with_its_end() {
    for grey in simulator::GREY {
        let mut settled = Vec::new();
        for seed in seeds(GREY_SEEDS) {
            let taken = grey.take(seed, mode());
            let text = format!("{grey:?} with seed {seed}: {taken:#?}");
            assert!(taken.changes.len() <= 2 * taken.faults, "{text}");
            assert!(!taken.changes.is_empty(), "it bites: {text}");
            assert!(taken.changes.iter().all(|(_, status)| *status != NodeStatus::Failed), "{text}");
            assert_eq!(taken.others, 0, "{text}");
            assert_eq!(taken.disagreements, [""; 0], "{text}");
            settled.push(taken.settled);
        }
        settled.sort();
        let middle = settled.get(settled.len() / 2).copied();
        println!("{grey:?}: settled {middle:?} after its end, at most {:?}", settled.last());
    }
}

fn tell(what: &str, seeds: u64, started: Instant, all: &Account) {
    println!(
        "{what}: {seeds} seeds, {:.2} days simulated in {:.1} s, {} happenings: {:#?}",
        all.simulated.as_secs_f64() / 86_400.0,
        started.elapsed().as_secs_f64(),
        all.happened,
        all.met
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let (first, second) = (simulator::mixed(seed, Mode::Digest), simulator::mixed(seed, Mode::Digest));
        assert_eq!(first, second);
    }
    assert_ne!(simulator::mixed(1, Mode::Digest).digest, simulator::mixed(2, Mode::Digest).digest);
}
