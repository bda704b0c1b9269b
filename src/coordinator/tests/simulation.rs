//! Simulations over hundreds of seeds, and what must be true of every one of them.
//!
//! | variable | what it does |
//! |---|---|
//! | `LINTMESH_SIMULATION_SEED=7` | plays one seed, and writes down what happened last if it fails |
//! | `LINTMESH_SIMULATION_TRACE=1` | with it: writes down everything |
//! | `LINTMESH_SIMULATION_SEEDS=5000` | plays so many seeds |
//! | `LINTMESH_SIMULATION_FIRST=1000` | begins with this one |
//! | `LINTMESH_SIMULATION_SECONDS=120` | plays seeds until so much time has passed |
//! | `LINTMESH_SIMULATION_SOAK_SECONDS=3600` | soaks for so long, with new seeds |

use std::time::{Duration, Instant};

use super::simulator::{self, Account, Mode};

/// A few seconds in a debug build.
const SEEDS: u64 = 200;

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
    println!(
        "{count} seeds, {:.1} h simulated in {:.1} s, {} happenings: {:#?}",
        all.simulated.as_secs_f64() / 3600.0,
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
