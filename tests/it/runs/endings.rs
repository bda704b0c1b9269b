//! Runs that are ended early: their linters are gone, and the run says why.

use lintmesh::proto::v1::*;
use tonic::Code;

use crate::support::calls::*;
use crate::support::linters::GatedRuff;
use crate::support::serve::{Serve, until};

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
async fn a_closed_stream_cancels_the_run_only_if_that_was_asked_for() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut ids = Vec::new();
    for cancel_on_disconnect in [false, true] {
        let mut client = serve.coordinator();
        let asked = CoordinateRequest { cancel_on_disconnect, ..endless() };
        let mut stream = client.coordinate(asked).await.expect("accepted").into_inner();
        let first = stream.message().await.expect("no error").expect("an event").event.expect("an event");
        ids.push(first.run_id);
        until("another ruff runs", || ruff.running() == 2 * ids.len()).await;
        drop((stream, client));
    }
    until("one of them is gone", || ruff.running() == 2).await;
    let gone = state(&serve, &ids[1]).await;
    assert_eq!(gone.outcome(), Outcome::Cancelled);
    let ending = finished(&watched(&mut serve.coordinator(), &ids[1], 0).await);
    assert!(ending.detail.contains("cancel_on_disconnect"), "{}", ending.detail);
    assert_eq!(state(&serve, &ids[0]).await.state(), RunState::Open);
    ruff.open();
    assert_eq!(finished(&watched(&mut serve.coordinator(), &ids[0], 0).await).outcome(), Outcome::Clean);
}
