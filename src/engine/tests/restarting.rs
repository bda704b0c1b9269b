//! An engine that takes up what an earlier one stored.

use std::collections::BTreeMap;

use super::rig::{Rig, ended, play, rig_over, start};
use crate::coordinator::event::RunEvent;
use crate::coordinator::input::Input;
use crate::coordinator::message::Message;
use crate::coordinator::settings::Settings;
use crate::coordinator::state::State;
use crate::store::{MemoryLog, MemoryStore, Store as _};
use crate::types::{Epoch, RunId, UnixMillis};

type Logs = BTreeMap<RunId, Vec<(u64, UnixMillis, RunEvent)>>;

/// The committed state as if it were of one epoch, and what watchers of its runs can read.
async fn seen(rig: &Rig) -> (State, Logs) {
    let state = rig.handle.query(|core, _| core.state().clone()).await.expect("runs");
    let logs = state.runs.keys().map(|run| {
        let log = rig.handle.logs().get(run).expect("each run has a log");
        let read = |logged: &std::sync::Arc<super::super::watch::LoggedEvent>| {
            (logged.sequence, logged.at, logged.event.clone())
        };
        (run.clone(), log.kept().iter().map(read).collect())
    });
    let logs = logs.collect();
    (State { epoch: Epoch(0), attempts: 0, ..state }, logs)
}

/// Ends a rig as a crash would: nothing more is decided.
async fn crash(rig: Rig) {
    rig.engine.abort();
    assert!(rig.engine.await.is_err_and(|error| error.is_cancelled()));
}

#[tokio::test(start_paused = true)]
async fn the_state_and_the_logs_of_runs_are_taken_up_as_they_were() {
    let log = MemoryLog::default();
    let before = {
        let rig = rig_over(Settings::default(), log.clone());
        let (_, messages) = rig.join("worker").await;
        let playing = play(rig.handle.clone(), "worker", messages);
        rig.handle.decide(start("run-a")).await.expect("runs");
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        playing.abort();
        rig.handle.decide(start("run-b")).await.expect("runs");
        let seen = seen(&rig).await;
        crash(rig).await;
        seen
    };
    assert!(!before.0.runs[&RunId::new("run-a").expect("valid")].is_open());
    let rig = rig_over(Settings::default(), log);
    let after = seen(&rig).await;
    assert_eq!(after.1, before.1);
    let cleared = |mut state: State| {
        // Nobody has joined the new one yet.
        for member in state.members.values_mut() {
            (member.status, member.cause) = (crate::types::NodeStatus::Degraded, None);
        }
        state
    };
    assert_eq!(cleared(after.0), cleared(before.0));
    let epoch = rig.handle.query(|core, _| core.state().epoch).await.expect("runs");
    assert_eq!(epoch, Epoch(2));
}

#[tokio::test(start_paused = true)]
async fn work_that_a_node_still_has_is_not_given_again() {
    let log = MemoryLog::default();
    let rig = rig_over(Settings::default(), log.clone());
    let (_, mut messages) = rig.join("worker").await;
    rig.handle.decide(start("run-a")).await.expect("runs");
    let assigned = loop {
        match messages.recv().await.expect("an assignment") {
            Message::Assign(assign) => break assign,
            _ => continue,
        }
    };
    crash(rig).await;
    let rig = rig_over(Settings::default(), log);
    let mut hello = super::rig::hello("worker");
    hello.running = vec![assigned.attempt.clone()];
    let (session, mut messages) = rig.handle.sessions().open();
    rig.handle.decide(Input::Joined { session, hello: Box::new(hello) }).await.expect("runs");
    rig.handle.decide(ended("worker", &assigned)).await.expect("runs");
    let next = loop {
        match messages.recv().await.expect("the next task") {
            Message::Assign(assign) => break assign,
            Message::Revoke { attempt, reason } => panic!("{attempt} was revoked: {reason}"),
            _ => continue,
        }
    };
    assert_ne!(next.task.id, assigned.task.id, "the first is done");
    assert_eq!(next.attempt.attempt.epoch, Epoch(2));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_gives_the_same_start_as_the_log() {
    let log = MemoryLog::default();
    let rig = rig_over(Settings::default(), log.clone());
    let (_, messages) = rig.join("worker").await;
    let playing = play(rig.handle.clone(), "worker", messages);
    for run in 0..3 {
        rig.handle.decide(start(&format!("run-{run}"))).await.expect("runs");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    playing.abort();
    crash(rig).await;
    let mut store = MemoryStore::over(log);
    let epoch = store.open_epoch().expect("opens");
    let loaded = store.load().expect("loads");
    let by_log = super::super::restore::restore(&loaded, epoch, false).expect("restores");
    let records = super::super::compaction::records(&by_log.state, &by_log.logs).expect("encodes");
    store.snapshot(epoch, loaded.position, &records).expect("taken");
    let loaded = store.load().expect("loads");
    assert!(loaded.log.is_empty());
    let by_snapshot = super::super::restore::restore(&loaded, epoch, false).expect("restores");
    assert_eq!(by_snapshot.state, by_log.state);
    let text = |logs: &super::super::watch::RunLogs| format!("{:?}", logs.all());
    assert_eq!(text(&by_snapshot.logs), text(&by_log.logs));
}
