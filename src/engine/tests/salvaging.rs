//! An engine that goes on without what is damaged: what it gives up, and that it gives up no more, and nothing without a
//! copy.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::super::clock::SystemClock;
use super::super::codec;
use super::super::compaction;
use super::super::restore::{RestoreError, Restored, restore};
use super::super::{Engine, EngineError, EngineOptions, Handle};
use super::rig::{play, rig_over, start};
use crate::coordinator::event::Event;
use crate::coordinator::input::Input;
use crate::coordinator::run::Run;
use crate::coordinator::settings::Settings;
use crate::store::{EmbeddedOptions, EmbeddedStore, Loaded, MemoryLog, MemoryStore, Record, Store as _};
use crate::types::{Epoch, RunId};

fn id(name: &str) -> RunId {
    RunId::new(name).expect("valid")
}

/// What a coordinator leaves that has done one run, and has two more open.
async fn history() -> Loaded {
    let log = MemoryLog::default();
    let rig = rig_over(Settings::default(), log.clone());
    let (_, messages) = rig.join("worker").await;
    let playing = play(rig.handle.clone(), "worker", messages);
    rig.handle.decide(start("done")).await.expect("runs");
    tokio::time::sleep(Duration::from_millis(10)).await;
    playing.abort();
    for name in ["first", "second"] {
        rig.handle.decide(start(name)).await.expect("runs");
    }
    let cancel = |name| Input::CancelRun { run: id(name), reason: "enough".into() };
    rig.handle.decide(start("cancelled")).await.expect("runs");
    rig.handle.decide(cancel("cancelled")).await.expect("runs");
    rig.engine.abort();
    MemoryStore::over(log).load().expect("loads")
}

fn salvaged(loaded: &Loaded) -> Restored {
    restore(loaded, Epoch(9), true).expect("salvages")
}

/// The run that a record of the log is about.
fn run_of(record: &Record) -> Option<RunId> {
    match codec::decode(record).expect("readable") {
        Event::Run { run, .. } => Some(run),
        _ => None,
    }
}

/// A record whose checksum is right, and which says nothing all the same.
fn undecodable() -> Record {
    Record { version: 1, bytes: b"{".to_vec() }
}

#[tokio::test(start_paused = true)]
async fn a_run_of_which_a_record_is_lost_is_given_up_wherever_it_was_and_whole_ones_are_not() {
    let loaded = history().await;
    let whole = restore(&loaded, Epoch(9), true).expect("restores");
    assert!(whole.lost.is_empty() && whole.state.open.len() == 2 && whole.state.runs.len() == 4);
    let count = loaded.log.len();
    let (mut given_up, mut kept) = (0, 0);
    // Each record by itself, and each number of them at the end.
    let single = (0..count).map(|at| at..at + 1);
    for hole in single.chain((0..count).map(|at| at..count)) {
        let mut damaged = loaded.clone();
        damaged.log[hole.clone()].fill(Record::lost());
        damaged.log[hole.start] = undecodable();
        let hit: BTreeSet<RunId> = loaded.log[hole.clone()].iter().filter_map(run_of).collect();
        let rest = salvaged(&damaged);
        assert_eq!(rest.unreadable, hole.len() as u64);
        for (run, state) in &whole.state.runs {
            match rest.state.runs.get(run) {
                Some(left) => {
                    // As which it ended depends on the others.
                    let left = Run { ended_as: state.ended_as, ..left.clone() };
                    assert_eq!(left, *state, "{hole:?}: {run} is as it was");
                    assert!(!hit.contains(run), "{hole:?}: {run}");
                    kept += 1;
                }
                None => {
                    let had_ended = loaded.log[..hole.start].iter().rev().find_map(|record| {
                        (run_of(record)? == *run).then(|| codec::decode(record).expect("readable"))
                    });
                    let had_ended = matches!(
                        had_ended,
                        Some(Event::Run { event: crate::coordinator::event::RunEvent::Finished { .. }, .. })
                    );
                    assert!(!had_ended, "{hole:?}: nothing of {run} is lost");
                    given_up += 1;
                }
            }
        }
        assert_eq!(rest.logs.runs(), rest.state.runs.keys().cloned().collect::<Vec<_>>(), "{hole:?}");
        // A run that the newest event shows to be whole is not suspected.
        if let (Some(run), true) = (run_of(&loaded.log[count - 1]), hole.end < count)
            && !hit.contains(&run)
        {
            assert!(rest.state.runs.contains_key(&run), "{hole:?}");
        }
        assert!(restore(&damaged, Epoch(9), false).is_err(), "not without being told to");
    }
    assert!(given_up > count && kept > count, "both are seen: {given_up}, {kept}");
}

#[tokio::test(start_paused = true)]
async fn events_of_a_run_that_is_lost_itself_do_not_stay() {
    let loaded = history().await;
    let whole = restore(&loaded, Epoch(9), false).expect("restores");
    let records = compaction::records(&whole.state, &whole.logs).expect("encodes");
    let mut refused = 0;
    for at in 0..records.len() {
        let mut snapshot = records.to_vec();
        snapshot.remove(at);
        let left = Loaded { snapshot, log: Vec::new(), position: 0 };
        let rest = salvaged(&left);
        assert_eq!(rest.logs.runs(), rest.state.runs.keys().cloned().collect::<Vec<_>>(), "{at}");
        match restore(&left, Epoch(9), false) {
            Ok(_) => assert!(rest.lost.is_empty()),
            Err(RestoreError::NoRun { run }) => {
                assert_eq!(rest.lost, BTreeSet::from([run.clone()]));
                assert!(!rest.state.runs.contains_key(&run));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, whole.state.runs.len(), "each run once");
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_of_a_later_release_is_refused_by_name() {
    let mut loaded = history().await;
    let of_done: Vec<usize> =
        (0..loaded.log.len()).filter(|at| run_of(&loaded.log[*at]) == Some(id("done"))).collect();
    let later = Record { version: 2, bytes: b"whatever it means".to_vec() };
    for snapshot in [false, true] {
        let mut newer = loaded.clone();
        let part = if snapshot { &mut newer.snapshot } else { &mut newer.log };
        part.insert(0, later.clone());
        newer.position = newer.log.len() as u64;
        for salvage in [false, true] {
            let error = restore(&newer, Epoch(9), salvage).expect_err("refused");
            assert!(matches!(error, RestoreError::LaterRelease { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("run the release that wrote it") && !text.contains("salvage"), "{text}");
        }
    }
    loaded.log.remove(of_done[2]);
    match restore(&loaded, Epoch(9), false) {
        Err(RestoreError::Missing { run, sequence }) => assert_eq!((run, sequence), (id("done"), 3)),
        other => panic!("{:?}", other.map(|restored| restored.state)),
    }
    assert_eq!(salvaged(&loaded).lost, BTreeSet::from([id("done")]));
}

fn open(path: &Path, salvage: bool) -> Result<(Engine<EmbeddedStore>, Handle), EngineError> {
    let store = EmbeddedStore::open(path, EmbeddedOptions { salvage })?;
    let (restarts, _) = mpsc::channel(1);
    let clock = Arc::new(SystemClock::new());
    Engine::open(EngineOptions { settings: Settings::default(), store, clock, restarts, salvage })
}

#[tokio::test]
async fn before_records_are_given_up_all_of_them_are_kept_and_after_it_they_are_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.redb");
    let files = || std::fs::read_dir(dir.path()).expect("there").count();
    let mut whole = history().await;
    whole.log.push(undecodable());
    whole.position += 1;
    let mut store = EmbeddedStore::open(&path, EmbeddedOptions::default()).expect("opens");
    let epoch = store.open_epoch().expect("opens");
    store.append(epoch, 0, &whole.log).expect("appends");
    drop(store);
    let refused = open(&path, false).map(|_| ()).expect_err("refused").to_string();
    assert!(refused.contains("damaged record") && refused.contains("--salvage"), "{refused}");
    assert_eq!(files(), 1, "nothing was changed");

    let (engine, handle) = open(&path, true).expect("salvages");
    let copies: Vec<_> = std::fs::read_dir(dir.path())
        .expect("there")
        .map(|entry| entry.expect("there").path())
        .filter(|other| *other != path)
        .collect();
    let [copy] = copies.as_slice() else { panic!("{copies:?}") };
    let kept = EmbeddedStore::open(copy, EmbeddedOptions::default()).expect("opens").load().expect("loads");
    assert_eq!(kept, whole, "all of it, though nothing was decided yet");
    let engine = tokio::spawn(engine.run());
    let runs = handle.query(|core, _| core.state().runs.keys().cloned().collect::<Vec<_>>()).await;
    assert_eq!(runs, Ok(vec![id("cancelled"), id("done")]), "what was open may have lost its newest event");
    let taken = async {
        while handle.store_figures().snapshots == 0 {
            handle.query(|_, _| ()).await.expect("runs");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), taken).await.expect("a snapshot is taken at once");
    engine.abort();
    tokio::time::timeout(Duration::from_secs(60), handle.store_closed()).await.expect("it is closed");

    let (engine, _handle) = open(&path, false).expect("nothing is damaged any more");
    let runs: Vec<&RunId> = engine.core.state().runs.keys().collect();
    assert_eq!(runs, [&id("cancelled"), &id("done")]);
    assert_eq!(files(), 2, "one copy is enough");
}
