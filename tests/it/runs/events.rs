//! The stream of a run: order, numbers, resumption.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::FILES;
use crate::support::calls::*;
use crate::support::linters::GatedRuff;
use crate::support::serve::{DEADLINE, Serve, until};

/// What every stream from the start to the end must be.
fn assert_well_formed(events: &[RunEvent]) {
    assert!(matches!(events[0].event, Some(Event::Started(_))), "{:?}", events[0]);
    let id = &events[0].run_id;
    assert!(events.iter().all(|event| event.run_id == *id && event.time.is_some()));
    let numbers: Vec<u64> = recorded(events).iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "from 1 without gaps");
    let finals = events.iter().filter(|event| matches!(event.event, Some(Event::Finished(_)))).count();
    assert_eq!(finals, 1);
    finished(events);

    // Diagnostics come right before the event that accepts their task, and nothing of theirs after it.
    let mut accepted = BTreeSet::new();
    let mut waiting: Option<TaskRef> = None;
    for event in events {
        match event.event.as_ref().expect("an event") {
            Event::Diagnostics(batch) => {
                let task = batch.task.clone().expect("a task");
                assert_eq!(task.stage(), Stage::Classify);
                assert!(!accepted.contains(&task.task_id), "after its task was accepted");
                assert!(waiting.as_ref().is_none_or(|other| *other == task));
                waiting = Some(task);
            }
            Event::TaskAccepted(done) => {
                let task = done.task.clone().expect("a task");
                if let Some(waiting) = waiting.take() {
                    assert_eq!(waiting, task);
                }
                assert!(accepted.insert(task.task_id), "accepted once");
                assert_eq!(done.output_digest.len(), 64);
            }
            Event::Progress(_) => {}
            other => assert!(waiting.is_none(), "between diagnostics and their task: {other:?}"),
        }
    }
}

#[tokio::test]
async fn events_are_numbered_without_gaps_and_diagnostics_come_before_their_task() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let events = run(&mut client, request(inline(&FILES), &["ruff", "flake8", "bandit"])).await;
    assert_well_formed(&events);
    let Some(Event::Started(begun)) = &events[0].event else { panic!("{:?}", events[0]) };
    assert_eq!(begun.files, 2);
    let meant = &begun.assignments.as_ref().expect("assignments").nodes;
    assert_eq!(meant["system-architect"].assigned_tasks, ["plan"]);
    assert_eq!(meant["backend-dev"].status, "idle");
    let planned = events.iter().find_map(|event| match &event.event {
        Some(Event::Assignments(planned)) => Some(planned.clone()),
        _ => None,
    });
    let planned = planned.expect("told again when PLAN has made the rest");
    assert!(planned.nodes["backend-dev"].assigned_tasks.iter().any(|task| task.starts_with("lint flake8")));
    // What was streamed is what the tools reported, each in its own words.
    let mut streamed: BTreeMap<String, u32> = BTreeMap::new();
    for event in &events {
        if let Some(Event::Diagnostics(batch)) = &event.event {
            for diagnostic in &batch.diagnostics {
                assert_ne!(diagnostic.severity(), Severity::Unspecified);
                assert_eq!(diagnostic.reported_by.len(), 1, "not folded yet");
                *streamed.entry(diagnostic.tool.clone()).or_default() += 1;
            }
        }
    }
    let summary = finished(&events).summary.expect("counts");
    assert_eq!(summary.by_tool.into_iter().collect::<BTreeMap<_, _>>(), streamed);
}

#[tokio::test]
async fn a_watcher_resumes_after_any_event_and_gets_each_recorded_one_once() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let run_id = started(&mut client, request(inline(&FILES), &["ruff", "flake8"])).await;
    // Live, while it goes on; each stream is dropped after a few events and taken up where it was.
    let mut pieces: Vec<RunEvent> = Vec::new();
    'run: loop {
        let after_sequence = pieces.last().map_or(0, |event| event.sequence);
        let asked = WatchRunRequest { run_id: run_id.clone(), after_sequence };
        let mut stream = client.watch_run(asked).await.expect("a stream").into_inner();
        let mut taken = 0;
        while let Some(told) = stream.message().await.expect("no error") {
            let event = told.event.expect("an event");
            if event.sequence > 0 {
                pieces.push(event);
                taken += 1;
            }
            if taken == 2 {
                continue 'run;
            }
        }
        break;
    }
    let whole = watched(&mut client, &run_id, 0).await;
    assert_well_formed(&whole);
    let whole = recorded(&whole);
    assert_eq!(pieces, whole);
    for after in 0..=whole.len() {
        let rest = watched(&mut client, &run_id, after as u64);
        let rest = tokio::time::timeout(DEADLINE, rest).await.expect("an ended run's stream ends");
        assert_eq!(recorded(&rest), whole[after..], "after {after}");
    }
    for beyond in [whole.len() as u64 + 1, u64::MAX] {
        let asked = WatchRunRequest { run_id: run_id.clone(), after_sequence: beyond };
        let refused = client.watch_run(asked).await.expect_err("not reached");
        assert_error(&refused, Code::OutOfRange, "SEQUENCE_NOT_REACHED");
        let details = refused.get_error_details();
        let newest = &details.error_info().expect("info").metadata["newest_sequence"];
        assert_eq!(newest.parse(), Ok(whole.len()));
    }
}

#[tokio::test]
async fn a_slow_watcher_misses_progress_at_most_and_holds_up_nobody() {
    let ruff = GatedRuff::new();
    // Many events: each run has only a few, so the watcher is made slow by its flow-control window.
    let serve = Serve::start(&ruff.settings()).await;
    let names: Vec<String> = (0..300).map(|number| format!("f{number}.py")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let slow = tonic::transport::Endpoint::from_shared(serve.url())
        .expect("valid")
        .initial_stream_window_size(1024)
        .initial_connection_window_size(1024)
        .connect()
        .await
        .expect("it listens");
    let mut slow = coordinator_service_client::CoordinatorServiceClient::new(slow);
    let mut client = serve.coordinator();
    let stream = slow.coordinate(request(inline(&files), &["ruff"])).await.expect("accepted").into_inner();
    until("ruff runs", || ruff.running() >= 2).await;
    // It reads nothing, while each fault and recovery makes events of the run.
    for _ in 0..40 {
        for action in [FaultAction::Fail, FaultAction::Recover] {
            let fault = HandleFaultRequest {
                node_id: "backend-dev".into(),
                action: action.into(),
                ..Default::default()
            };
            client.handle_fault(fault).await.expect("not held up");
        }
    }
    ruff.open();
    let listed = async {
        loop {
            let runs = client.list_runs(ListRunsRequest::default()).await.expect("listed").into_inner().runs;
            if runs[0].state() == RunState::Finished {
                return runs[0].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(DEADLINE, listed).await.expect("the run ends without its watcher");
    let events = coordinated(stream).await;
    assert_well_formed(&events);
    assert_eq!(recorded(&events).len() as u64, ended.last_sequence, "it missed no recorded event");
}
