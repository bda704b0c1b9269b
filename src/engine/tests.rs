//! Tests of the engine in paused time: what is seen when, and by whom.

mod ownership;
mod restarting;
mod rig;
mod salvaging;

use crate::coordinator::input::{Beat, SessionEnding};
use std::time::Duration;

use tokio::time::timeout;

use super::{EngineError, QUEUE, RestartOrder, Stopped};
use crate::coordinator::decision::{Refusal, Reply};
use crate::coordinator::event::{Event, RunEvent};
use crate::coordinator::input::{Ending, FaultAction, FaultRequest, FaultTarget, Input};
use crate::coordinator::message::Message;
use crate::coordinator::settings::Settings;
use crate::store::StoreError;
use crate::types::{AttemptRef, Digest, Epoch, FaultCause, Incarnation, Measured, NodeStatus, RunId};
use rig::{answer_probes, ended, node, play, rig, start};

#[tokio::test(start_paused = true)]
async fn a_message_is_seen_only_after_its_facts_are_stored() {
    let rig = rig(Settings::default());
    let (_, mut messages) = rig.join("worker").await;
    rig.handle.decide(start("run-a")).await.expect("runs");
    for _ in 0..2 {
        let message = messages.recv().await.expect("a message");
        let Message::Assign(assign) = message else { continue };
        let is_it = |event: &Event| {
            matches!(event, Event::Run { event: RunEvent::TaskAssigned { attempt, .. }, .. }
                if *attempt == assign.attempt.attempt)
        };
        assert!(rig.stored().iter().any(is_it), "{assign:?}");
        rig.handle.decide(ended("worker", &assign)).await.expect("runs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_stops_the_engine_and_nothing_of_the_decision_is_seen() {
    let mut rig = rig(Settings::default());
    let (_, mut messages) = rig.join("worker").await;
    let before = rig.stored();
    *rig.broken.lock().expect("no panic") = true;
    assert_eq!(rig.handle.decide(start("run-a")).await, Err(Stopped));
    let ended = rig.engine.await.expect("no panic");
    assert!(matches!(ended, Err(EngineError::Store(StoreError::Fenced { .. }))), "{ended:?}");
    assert_eq!(messages.recv().await, None, "no assignment went out, and the connection is closed");
    assert!(rig.handle.logs().get(&RunId::new("run-a").expect("valid")).is_none(), "no watcher saw it");
    assert_eq!(rig.handle.query(|_, now| now).await, Err(Stopped));
    assert!(rig.restarts.try_recv().is_err());
    let after = rig.appended.lock().expect("no panic").concat();
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_together_is_committed_together() {
    let rig = rig(Settings { max_open_runs: 100, ..Settings::default() });
    rig.handle.query(|_, _| ()).await.expect("the engine waits for commands");
    let before = rig.appended.lock().expect("no panic").len();
    let handle = rig.handle.clone();
    let names: Vec<String> = (0..50).map(|number| format!("run-{number}")).collect();
    // Polled in turn before the engine is: all are in the queue when it wakes.
    let mut waiting = tokio::task::JoinSet::new();
    for name in names {
        let handle = handle.clone();
        waiting.spawn(async move { handle.decide(start(&name)).await });
    }
    while let Some(reply) = waiting.join_next().await {
        assert!(matches!(reply.expect("no panic"), Ok(Reply::Run(_))));
    }
    let appends = rig.appended.lock().expect("no panic").len() - before;
    assert!((1..=3).contains(&appends), "{appends} appends for 50 inputs");
    let started = rig
        .stored()
        .iter()
        .filter(|event| matches!(event, Event::Run { event: RunEvent::Started { .. }, .. }))
        .count();
    assert_eq!(started, 50);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_nothing_is_failed_at_the_message_timeout_with_no_other_input() {
    let rig = rig(Settings::default());
    let (_session, _messages) = rig.join("silent").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.status("silent").await, (NodeStatus::Active, None));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let late = Some(FaultCause::Silent);
    assert!(
        rig.stored()
            .iter()
            .any(|event| matches!(event, Event::NodeStatusChanged { status: NodeStatus::Degraded, .. }))
    );
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(rig.status("silent").await, (NodeStatus::Degraded, late));
    let before = rig.stored().len();
    let mut revision = rig.handle.revision();
    revision.mark_unchanged();
    // Nothing is asked of the engine from here on: it wakes by itself.
    timeout(Duration::from_secs(2), revision.changed()).await.expect("in time").expect("runs");
    // And nothing here starts it again, which is told too.
    assert!(matches!(
        rig.stored()[before..],
        [
            Event::NodeStatusChanged { status: NodeStatus::Failed, .. },
            Event::NodeBreaker { trip: Some(_), .. },
            Event::NodeRecovery { .. },
        ]
    ));
}

#[tokio::test(start_paused = true)]
async fn a_node_with_heartbeats_stays_active_for_an_hour() {
    let rig = rig(Settings::default());
    let (session, messages) = rig.join("steady").await;
    answer_probes(rig.handle.clone(), "steady", session, messages);
    let joined = rig.stored().len();
    for _ in 0..720 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let beat = Input::Beat { session, node: node("steady"), beat: Beat::default() };
        rig.handle.decide(beat).await.expect("runs");
    }
    assert_eq!(rig.stored().len(), joined, "heartbeats are no facts");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_keep_up_is_closed_and_nobody_else_notices() {
    let rig = rig(Settings::default());
    let (session, mut slow) = rig.join("slow").await;
    let (_, mut other) = rig.join("other").await;
    let stale = |number| Input::TaskEnded {
        executor: node("slow"),
        incarnation: Incarnation(1),
        attempt: AttemptRef {
            run: RunId::new("gone").expect("valid"),
            task: crate::types::TaskId(number),
            attempt: crate::types::AttemptId { epoch: Epoch(1), number },
        },
        ending: Ending::Failed(String::new()),
        measured: Measured::default(),
        via: None,
    };
    for number in 0..QUEUE as u64 + 10 {
        rig.handle.decide(stale(number)).await.expect("the engine does not wait for it");
    }
    let mut read = 0;
    while slow.recv().await.is_some() {
        read += 1;
    }
    assert_eq!(read, QUEUE, "what was queued is kept, then it ends");
    rig.handle
        .decide(Input::SessionClosed { session, node: node("slow"), ending: SessionEnding::Reset })
        .await
        .expect("runs");
    assert_eq!(rig.status("slow").await, (NodeStatus::Degraded, Some(FaultCause::SessionLost)));
    rig.handle.decide(start("run-a")).await.expect("runs");
    assert!(matches!(other.recv().await, Some(Message::Assign(_))));
}

#[tokio::test(start_paused = true)]
async fn watchers_read_every_event_once_in_order_whenever_they_come() {
    let rig = rig(Settings::default());
    let (_, messages) = rig.join("worker").await;
    let run = RunId::new("run-a").expect("valid");
    rig.handle.decide(start("run-a")).await.expect("runs");
    let log = rig.handle.logs().get(&run).expect("has begun");
    let watch = |most: usize, from: u64| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut changes = log.changes();
            let mut seen = Vec::new();
            let mut last = from;
            loop {
                changes.mark_unchanged();
                loop {
                    let events = log.after(last, most).expect("kept");
                    let Some(newest) = events.last() else { break };
                    last = newest.sequence;
                    seen.extend(events.iter().map(|event| event.sequence));
                }
                if log.has_ended() && last == log.newest() {
                    return seen;
                }
                changes.changed().await.expect("the log stays");
            }
        })
    };
    let watchers = [watch(1, 0), watch(100, 0), watch(3, 2)];
    let worker = play(rig.handle.clone(), "worker", messages);
    let mut seen = Vec::new();
    for watcher in watchers {
        seen.push(timeout(Duration::from_secs(60), watcher).await.expect("ends").expect("no panic"));
    }
    let late = watch(2, 0).await.expect("no panic");
    let all: Vec<u64> = (1..=late.len() as u64).collect();
    assert!(all.len() >= 7, "{all:?}");
    assert_eq!((&late, &seen[0], &seen[1]), (&all, &all, &all));
    assert_eq!(seen[2], all[2..], "a resumed watcher gets what is after its point");
    let stored: Vec<_> = rig
        .stored()
        .into_iter()
        .filter_map(|event| match event {
            Event::Run { event, .. } => Some(event),
            _ => None,
        })
        .collect();
    let logged: Vec<_> = log.kept().iter().map(|event| event.event.clone()).collect();
    assert_eq!(logged, stored, "the log is what was committed");
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn watchers_of_a_run_that_ends_and_is_forgotten_at_once_see_its_end() {
    let rig = rig(Settings { kept_runs: 0, ..Settings::default() });
    rig.handle.decide(start("run-a")).await.expect("runs");
    let run = RunId::new("run-a").expect("valid");
    let log = rig.handle.logs().get(&run).expect("has begun");
    let mut changes = log.changes();
    changes.mark_unchanged();
    let cancel = Input::CancelRun { run: run.clone(), reason: "enough".into() };
    let (cancelled, started) = tokio::join!(rig.handle.decide(cancel), rig.handle.decide(start("run-b")));
    assert!(matches!((cancelled, started), (Ok(Reply::Run(_)), Ok(Reply::Run(_)))));
    timeout(Duration::from_secs(1), changes.changed()).await.expect("told").expect("the log is there");
    let last = log.kept().last().map(|event| event.event.clone());
    assert!(matches!(last, Some(RunEvent::Finished { .. })), "{last:?}");
    assert!(rig.handle.logs().get(&run).is_none(), "forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_moves_up_in_the_queue_is_told_so_though_nothing_happened_in_it() {
    let rig = rig(Settings::default());
    let ids = ["run-a", "run-b", "run-c"].map(|name| RunId::new(name).expect("valid"));
    for id in &ids {
        rig.handle.decide(start(id.as_str())).await.expect("runs");
    }
    let logs = ids.clone().map(|id| rig.handle.logs().get(&id).expect("has begun"));
    let ahead = async |at: usize| {
        let progress = rig.handle.progress(&ids[at], &logs[at]).await.expect("runs");
        assert_eq!((progress.waiting_tasks, progress.running_tasks), (1, 0));
        progress.runs_ahead
    };
    assert_eq!((ahead(0).await, ahead(1).await, ahead(2).await), (0, 1, 2));
    let (first, mut last) = (logs[0].changes(), logs[2].changes());
    last.mark_unchanged();
    let events = logs[2].newest();
    let cancel = Input::CancelRun { run: ids[1].clone(), reason: "enough".into() };
    rig.handle.decide(cancel).await.expect("runs");
    timeout(Duration::from_secs(1), last.changed()).await.expect("told").expect("the log is there");
    assert_eq!((ahead(0).await, ahead(2).await), (0, 1));
    assert_eq!(logs[2].newest(), events, "nothing happened in it");
    assert!(!first.has_changed().expect("the log is there"), "who did not move is not told");
}

#[tokio::test(start_paused = true)]
async fn progress_is_made_once_for_all_who_ask_and_anew_after_a_change() {
    let rig = rig(Settings::default());
    let run = RunId::new("run-a").expect("valid");
    rig.handle.decide(start("run-a")).await.expect("runs");
    let log = rig.handle.logs().get(&run).expect("has begun");
    let ask = async || rig.handle.progress(&run, &log).await.expect("runs");
    let (first, second) = tokio::join!(ask(), ask());
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert_eq!((first.waiting_tasks, first.nodes.len()), (1, 0));
    rig.join("worker").await;
    let then = ask().await;
    assert_eq!((then.waiting_tasks, then.running_tasks), (0, 1));
    let part = &then.nodes[&node("worker")];
    assert_eq!((&*part.tasks[0], part.status.as_str()), ("plan", "assigned"));
}

#[tokio::test(start_paused = true)]
async fn a_query_sees_the_committed_state_of_what_was_asked_before() {
    let rig = rig(Settings::default());
    let appended = rig.appended.clone();
    let (reply, seen) = tokio::join!(
        rig.handle.decide(start("run-a")),
        rig.handle
            .query(move |core, _| { (core.state().runs.len(), appended.lock().expect("no panic").len()) })
    );
    assert!(matches!(reply, Ok(Reply::Run(_))));
    assert_eq!(seen, Ok((1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reaches_its_caller_and_stores_nothing() {
    let rig = rig(Settings::default());
    let reply = rig.handle.decide(fault(FaultAction::Fail, "nobody")).await;
    assert_eq!(reply, Ok(Reply::Refused(Refusal::UnknownNode(node("nobody")))));
    assert_eq!(rig.stored(), []);
}

fn fault(action: FaultAction, name: &str) -> Input {
    let (body, target) = (Digest::of(name.as_bytes()), FaultTarget::Node(node(name)));
    Input::HandleFault(FaultRequest { fault_id: "f".into(), body, action, target })
}

#[tokio::test(start_paused = true)]
async fn the_launcher_is_asked_to_start_a_node_that_is_recovered() {
    let mut settings = Settings::default();
    settings.restart.has_command = true;
    settings.restart.budget = 0;
    let mut rig = rig(settings);
    let (session, _messages) = rig.join("worker").await;
    rig.handle
        .decide(Input::SessionClosed { session, node: node("worker"), ending: SessionEnding::Reset })
        .await
        .expect("runs");
    tokio::time::sleep(Duration::from_secs(31)).await;
    let gone = (NodeStatus::Failed, Some(FaultCause::SessionLost));
    assert_eq!(rig.status("worker").await, gone);
    rig.handle.decide(fault(FaultAction::Recover, "worker")).await.expect("runs");
    let order = RestartOrder { node: node("worker"), start: 1, cause: "SESSION_LOST".into() };
    assert_eq!(rig.restarts.recv().await, Some(order));
}

#[tokio::test(start_paused = true)]
async fn the_engine_ends_when_nobody_can_speak_to_it() {
    let rig = rig(Settings::default());
    drop(rig.handle);
    assert!(matches!(timeout(Duration::from_secs(1), rig.engine).await, Ok(Ok(Ok(())))));
}
