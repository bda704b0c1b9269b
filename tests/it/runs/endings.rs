//! Runs that are ended early: their linters are gone, and the run says why.

use lintmesh::proto::v1::*;
use tonic::Code;

use crate::support::calls::*;
use crate::support::linters::GatedRuff;
use crate::support::serve::{DEADLINE, Serve, until};

fn endless() -> CoordinateRequest {
    request(inline(&[("a.py", "")]), &["ruff"])
}

async fn state(serve: &Serve, run_id: &str) -> Run {
    let asked = GetRunRequest { run_id: run_id.to_owned() };
    serve.coordinator().get_run(asked).await.expect("known").into_inner().run.expect("a run")
}

#[tokio::test]
async fn cancelling_kills_the_linters_and_may_be_repeated() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let run_id = started(&mut client, endless()).await;
    until("ruff and its child run", || ruff.running() == 2).await;
    let open = report(&mut client, &run_id, ReportFormat::Json).await.expect_err("not ended");
    assert_error(&open, Code::FailedPrecondition, "RUN_OPEN");
    let cancel = CancelRunRequest { run_id: run_id.clone() };
    for _ in 0..2 {
        let run = client.cancel_run(cancel.clone()).await.expect("no error").into_inner().run.expect("a run");
        assert_eq!((run.state(), run.outcome()), (RunState::Finished, Outcome::Cancelled));
        assert!(run.report_digest.is_empty() && run.summary.is_none());
    }
    until("no linter is left", || ruff.running() == 0).await;
    let ending = finished(&watched(&mut client, &run_id, 0).await);
    assert_eq!((ending.outcome(), ending.summary), (Outcome::Cancelled, None));
    assert!(ending.detail.contains("cancelled by"), "{}", ending.detail);
    let none = report(&mut client, &run_id, ReportFormat::Result).await.expect_err("no report");
    assert_error(&none, Code::FailedPrecondition, "NO_REPORT");

    // One that ended well stays as it is.
    ruff.open();
    let events = run(&mut client, endless()).await;
    let cancel = CancelRunRequest { run_id: events[0].run_id.clone() };
    let run = client.cancel_run(cancel).await.expect("no error").into_inner().run.expect("a run");
    assert_eq!(run.outcome(), Outcome::Clean);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_cancelled_with_its_linters() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let timeout = Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 });
    let events = run(&mut client, CoordinateRequest { timeout, ..endless() }).await;
    let ending = finished(&events);
    assert_eq!(ending.outcome(), Outcome::Cancelled);
    assert!(ending.detail.contains("1.5"), "it says which time is over: {}", ending.detail);
    until("no linter is left", || ruff.running() == 0).await;
    let status = client.get_mesh_status(GetMeshStatusRequest {}).await.expect("answers").into_inner();
    let metrics = status.metrics.expect("metrics");
    assert_eq!((metrics.open_runs, metrics.queued_tasks, metrics.running_tasks), (0, 0, 0));
}

#[tokio::test]
async fn a_closed_stream_cancels_the_run_only_if_that_was_asked_for_and_nobody_watches_it() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let (mut ids, mut watches) = (Vec::new(), Vec::new());
    let patient = Some(prost_types::Duration { seconds: 3000, nanos: 0 });
    // The last is the one to be cancelled: when it is gone, the time of the others has come too, but for the one whose
    // client has asked for longer.
    for (cancel_on_disconnect, disconnect_grace, is_watched) in
        [(false, None, false), (true, None, true), (true, patient, false), (true, None, false)]
    {
        let mut client = serve.coordinator();
        let asked = CoordinateRequest { cancel_on_disconnect, disconnect_grace, ..endless() };
        let mut stream = client.coordinate(asked).await.expect("accepted").into_inner();
        let first = stream.message().await.expect("no error").expect("an event").event.expect("an event");
        drop((stream, client));
        if is_watched {
            let asked = WatchRunRequest { run_id: first.run_id.clone(), after_sequence: 0 };
            watches.push(serve.coordinator().watch_run(asked).await.expect("comes back"));
        }
        ids.push(first.run_id);
    }
    let cancelled = async { finished(&watched(&mut serve.coordinator(), &ids[3], 0).await) };
    // Not watched from here, which would keep it: asked for again and again.
    until_ended(&serve, &ids[3]).await;
    let ending = tokio::time::timeout(DEADLINE, cancelled).await.expect("ended");
    assert_eq!(ending.outcome(), Outcome::Cancelled);
    assert!(ending.detail.contains("cancel_on_disconnect"), "{}", ending.detail);
    for id in &ids[..3] {
        assert_eq!(state(&serve, id).await.state(), RunState::Open);
    }
    ruff.open();
    for id in &ids[..3] {
        assert_eq!(finished(&watched(&mut serve.coordinator(), id, 0).await).outcome(), Outcome::Clean);
    }
    until("no linter is left", || ruff.running() == 0).await;
}

async fn until_ended(serve: &Serve, run_id: &str) {
    let ended = async {
        while state(serve, run_id).await.state() == RunState::Open {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("it ends");
}
