//! Random walks over hundreds of seeds, and what must be true of every one of them.
//!
//! `LINTMESH_SIMULATION_SEED=7` walks one seed; `LINTMESH_SIMULATION_SEEDS=5000` walks more than the default.

use std::collections::{BTreeMap, BTreeSet};

use super::walk::Walk;
use crate::coordinator::event::{Event, RunEvent, TaskRef};
use crate::coordinator::state::State;
use crate::types::{Epoch, Outcome, RunId, TaskId};

/// A few seconds in a debug build.
const SEEDS: u64 = 200;
const STEPS: usize = 300;

/// Names the seed of a walk that panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the walk failed; repeat it with LINTMESH_SIMULATION_SEED={}", self.0);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn walk(seed: u64) -> Walk {
    let mut walk = Walk::new(seed);
    walk.run(STEPS);
    walk
}

#[test]
fn whatever_happens_every_run_ends_with_each_task_done_once_or_given_up() {
    let seeds = match variable("LINTMESH_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("LINTMESH_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let several = seeds.end - seeds.start >= SEEDS;
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in seeds {
        let name = Seed(seed);
        let walk = walk(seed);
        let events = &walk.mesh.events;
        let mut replayed = State::new(Epoch(1));
        events.iter().for_each(|event| replayed.apply(event));
        assert_eq!(&replayed, walk.mesh.core.state(), "replaying all events gives the state");
        for (run, log) in logs(events) {
            check_run(&run, &log);
        }
        for event in events {
            *seen.entry(kind(event)).or_default() += 1;
        }
        *seen.entry("stale results").or_default() +=
            usize::try_from(walk.mesh.core.stale_results()).expect("few");
        drop(name);
    }
    if several {
        // A walk that never meets the hard cases would prove nothing.
        for hard in [
            "given up",
            "redistributed",
            "failed attempt",
            "incomplete",
            "cancelled",
            "findings",
            "forgotten",
            "stale results",
            "node failed",
            "node degraded",
            "fault handled",
        ] {
            let times = seen.get(hard).copied().unwrap_or(0);
            assert!(times >= 20, "the walks met `{hard}` {times} times only: {seen:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_walk() {
    for seed in [1, 2, 3] {
        let (first, second) = (walk(seed), walk(seed));
        assert_eq!(first.mesh.events, second.mesh.events);
        assert_eq!(first.attempts(), second.attempts());
    }
    assert_ne!(walk(1).mesh.events, walk(2).mesh.events);
}

fn logs(events: &[Event]) -> BTreeMap<RunId, Vec<&RunEvent>> {
    let mut logs: BTreeMap<RunId, Vec<&RunEvent>> = BTreeMap::new();
    for event in events {
        if let Event::Run { run, event, .. } = event {
            logs.entry(run.clone()).or_default().push(event);
        }
    }
    logs
}

/// What must be true of a run's events, whatever happened.
fn check_run(run: &RunId, log: &[&RunEvent]) {
    let mut created: BTreeSet<TaskId> = BTreeSet::new();
    let mut ended: BTreeMap<TaskId, &TaskRef> = BTreeMap::new();
    let mut attempts = BTreeSet::new();
    let mut gaps = false;
    for (index, event) in log.iter().enumerate() {
        match event {
            RunEvent::Started { .. } => assert_eq!(index, 0, "{run} starts once"),
            RunEvent::TasksCreated { tasks, .. } => created.extend(tasks.iter().map(|new| new.task.id)),
            RunEvent::TaskAssigned { task, attempt, .. } => {
                assert!(attempts.insert((task.id, *attempt)), "{run}: {attempt} is assigned once");
                assert!(!ended.contains_key(&task.id), "{run}: {task} was over");
            }
            RunEvent::TaskAccepted { task, attempt, tool_error, .. } => {
                assert!(attempts.contains(&(task.id, *attempt)), "{run}: {attempt} was assigned");
                assert_eq!(ended.insert(task.id, task), None, "{run}: {task} ends once");
                gaps |= tool_error.is_some();
            }
            RunEvent::TaskGivenUp { task, reason } => {
                assert_eq!(ended.insert(task.id, task), None, "{run}: {task} ends once");
                assert!(!reason.is_empty());
                gaps = true;
            }
            RunEvent::Finished { outcome, result, .. } => {
                assert_eq!(index + 1, log.len(), "{run}: nothing happens after its end");
                if *outcome != Outcome::Cancelled {
                    assert!(result.is_none() || ended.keys().eq(&created), "{run}: every task is over");
                    assert_eq!(*outcome == Outcome::Incomplete, gaps, "{run}: gaps are told");
                }
            }
            RunEvent::AttemptFailed { .. } | RunEvent::NodeFault { .. } | RunEvent::Redistributed { .. } => {}
        }
    }
    assert!(matches!(log.last(), Some(RunEvent::Finished { .. })), "{run} has ended");
}

fn kind(event: &Event) -> &'static str {
    use crate::types::NodeStatus;
    match event {
        Event::NodeDeclared(_) => "node declared",
        Event::NodeJoined { .. } => "node joined",
        Event::NodeStatusChanged { status: NodeStatus::Failed, .. } => "node failed",
        Event::NodeStatusChanged { status: NodeStatus::Degraded, .. } => "node degraded",
        Event::NodeStatusChanged { .. } => "node back",
        Event::NodeRecovery { .. } => "recovery",
        Event::NodeDrained { .. } => "drained",
        Event::FaultHandled { .. } => "fault handled",
        Event::RunForgotten(_) => "forgotten",
        Event::Run { event, .. } => match event {
            RunEvent::TaskGivenUp { .. } => "given up",
            RunEvent::Redistributed { .. } => "redistributed",
            RunEvent::AttemptFailed { .. } => "failed attempt",
            RunEvent::Finished { outcome: Outcome::Incomplete, .. } => "incomplete",
            RunEvent::Finished { outcome: Outcome::Cancelled, .. } => "cancelled",
            RunEvent::Finished { .. } => "findings",
            _ => "progress",
        },
    }
}
