//! The logs against all that ever happened: what is told is the truth, what is gone is said to be, and the bounds hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::coordinator::event::RunEvent;
use crate::engine::watch::Expired;
use crate::types::Outcome;

const OF_A_RUN: usize = 12;
const OF_ENDED_RUNS: usize = 30;

fn id(number: usize) -> RunId {
    RunId::new(&format!("run-{number}")).expect("valid")
}

fn given_up(sequence: u64) -> RunEvent {
    let task = crate::coordinator::event::TaskRef {
        id: crate::types::TaskId(sequence),
        stage: crate::types::Stage::Plan,
        tool: None,
        shard: 0,
        shards: 0,
    };
    RunEvent::TaskGivenUp { task, reason: format!("event {sequence}") }
}

fn finished() -> RunEvent {
    RunEvent::Finished { outcome: Outcome::Clean, result: None, detail: String::new() }
}

/// Something that happens to a run.
#[derive(Debug, Clone, Copy)]
enum Step {
    Goes(usize),
    Ends,
    IsForgotten,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        6 => (1..10_usize).prop_map(Step::Goes),
        2 => Just(Step::Ends),
        1 => Just(Step::IsForgotten),
    ];
    proptest::collection::vec((0..8_usize, step), 1..120)
}

/// A run that is remembered: how many events it had, and when it ended.
#[derive(Debug, Default)]
struct Lived {
    events: u64,
    ended: Option<u64>,
}

/// What a reader of the log must find, of a run that had so many events.
fn check(log: &RunLog, lived: &Lived) {
    let (oldest, newest) = (log.oldest(), log.newest());
    assert_eq!(newest, lived.events);
    assert_eq!(log.has_ended(), lived.ended.is_some());
    assert!((1..=newest + 1).contains(&oldest), "{oldest} of {newest}");
    assert!(newest + 1 - oldest <= OF_A_RUN as u64);
    for after in 0..=newest + 2 {
        for most in [0, 1, 3, usize::MAX] {
            let read = log.after(after, most).map(|events| {
                events.iter().map(|logged| (logged.sequence, logged.event.clone())).collect::<Vec<_>>()
            });
            let expected: Vec<_> = (after + 1..=newest)
                .map(|sequence| {
                    let ends = lived.ended.is_some() && sequence == newest;
                    (sequence, if ends { finished() } else { given_up(sequence) })
                })
                .take(most)
                .collect();
            let expected = if after + 1 < oldest { Err(Expired { oldest, newest }) } else { Ok(expected) };
            assert_eq!(read, expected, "after {after}, at most {most}, of {oldest} to {newest}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_told_is_what_happened_and_no_bound_is_passed(steps in steps()) {
        let logs = RunLogs::bounded(OF_A_RUN, OF_ENDED_RUNS);
        let mut runs: BTreeMap<usize, Lived> = BTreeMap::new();
        let mut last_end = None;
        for (now, (run, step)) in (0_u64..).zip(steps) {
            let lived = runs.entry(run).or_default();
            match step {
                Step::Goes(more) if lived.ended.is_none() => {
                    for _ in 0..more {
                        lived.events += 1;
                        logs.append(&id(run), lived.events, UnixMillis(now), given_up(lived.events));
                    }
                }
                Step::Ends if lived.ended.is_none() => {
                    lived.events += 1;
                    lived.ended = Some(now);
                    last_end = Some(run);
                    logs.append(&id(run), lived.events, UnixMillis(now), finished());
                }
                Step::IsForgotten => {
                    logs.forget(&id(run));
                    runs.remove(&run);
                    prop_assert!(logs.get(&id(run)).is_none());
                }
                Step::Goes(_) | Step::Ends => {}
            }
            let mut kept = BTreeMap::new();
            for (run, lived) in runs.iter().filter(|(_, lived)| lived.events > 0) {
                let log = logs.get(&id(*run)).expect("it is remembered");
                check(&log, lived);
                kept.insert(*run, log.kept().len());
                if lived.ended.is_none() || last_end == Some(*run) {
                    prop_assert_eq!(kept[run], OF_A_RUN.min(lived.events as usize), "nothing to give up yet");
                }
            }
            prop_assert_eq!(logs.events(), kept.values().sum::<usize>() as u64);
            let mut ended: Vec<_> = runs.iter().filter_map(|(run, lived)| Some((lived.ended?, kept[run]))).collect();
            ended.sort_unstable();
            prop_assert!(ended.iter().map(|(_, kept)| kept).sum::<usize>() <= OF_ENDED_RUNS);
            let first_kept = ended.iter().position(|(_, kept)| *kept > 0).unwrap_or(ended.len());
            prop_assert!(ended[first_kept..].iter().all(|(_, kept)| *kept > 0), "the oldest go first: {:?}", ended);
        }
    }

    #[test]
    fn logs_that_are_filled_from_what_was_kept_tell_the_same(steps in steps()) {
        let logs = RunLogs::bounded(OF_A_RUN, OF_ENDED_RUNS);
        let mut runs: BTreeMap<usize, Lived> = BTreeMap::new();
        for (now, (run, step)) in (0_u64..).zip(steps) {
            let lived = runs.entry(run).or_default();
            if lived.ended.is_some() {
                continue;
            }
            let (more, ends) = if let Step::Goes(more) = step { (more as u64, false) } else { (1, true) };
            for _ in 0..more {
                lived.events += 1;
                let event = if ends { finished() } else { given_up(lived.events) };
                logs.append(&id(run), lived.events, UnixMillis(now), event);
            }
            lived.ended = ends.then_some(now);
        }
        let again = RunLogs::bounded(OF_A_RUN, OF_ENDED_RUNS);
        for (run, events) in logs.all() {
            for logged in events {
                again.append(&run, logged.sequence, logged.at, logged.event.clone());
            }
        }
        for (run, lived) in &runs {
            again.complete(&id(*run), lived.events, lived.ended.map(UnixMillis));
        }
        prop_assert_eq!(again.events(), logs.events());
        for (run, lived) in &runs {
            let (before, after) = (logs.get(&id(*run)).expect("there"), again.get(&id(*run)).expect("there"));
            prop_assert_eq!(before.oldest(), after.oldest());
            check(&after, lived);
        }
    }
}

#[test]
fn the_run_that_ended_last_is_kept_though_it_is_too_large_for_the_rest() {
    let logs = RunLogs::bounded(100, 10);
    for run in [1, 2] {
        for sequence in 1..=50 {
            logs.append(&id(run), sequence, UnixMillis(run as u64), given_up(sequence));
        }
        // By a clock that was set back in between.
        logs.append(&id(run), 51, UnixMillis(9 - run as u64), finished());
        assert_eq!(logs.get(&id(run)).expect("there").kept().len(), 51, "its watchers are to read its end");
    }
    let log = logs.get(&id(1)).expect("remembered");
    assert_eq!(log.after(0, 1).map(|_| ()), Err(Expired { oldest: 52, newest: 51 }));
    assert_eq!(log.after(51, 1).expect("all there was").len(), 0);
    assert!(log.has_ended());
}

#[test]
fn events_with_a_hole_between_them_are_told_from_behind_the_hole() {
    let logs = RunLogs::bounded(100, 10);
    for sequence in [3, 4, 6, 7] {
        logs.append(&id(1), sequence, UnixMillis(0), given_up(sequence));
    }
    let log = logs.get(&id(1)).expect("there");
    assert_eq!((log.oldest(), log.newest(), logs.events()), (6, 7, 2));
    logs.complete(&id(1), 9, None);
    assert_eq!(
        (log.oldest(), log.newest(), logs.events()),
        (10, 9, 0),
        "the state has seen more than there is"
    );
}
