//! While there is too little room nothing new is taken, with words that help; what was taken goes on.

use std::sync::atomic::Ordering;

use lintmesh::proto::v1::{Outcome, ReportFormat};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::support::calls::*;
use super::support::in_process::{InProcess, coordinator, workspace};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_runs_and_uploads_are_refused_while_running_ones_end() {
    let (mesh, server) = InProcess::start().await;
    let (mut client, mut files) = (coordinator(&server), workspace(&server));
    let wanted = || request(inline(&[("a.py", "import os\n")]), &["ruff"]);
    let known = lintmesh::proto::v1::CoordinateRequest { request_id: "known".into(), ..wanted() };
    let id = started(&mut client, known.clone()).await;

    mesh.free.store(999, Ordering::SeqCst);
    let refused = client.start_run(start(wanted())).await.expect_err("too little room");
    assert_error(&refused, Code::ResourceExhausted, "DISK_FULL");
    for part in ["999", "1000", "state.min_free_bytes", "state.dir", "free some"] {
        assert!(refused.message().contains(part), "{part}: {}", refused.message());
    }
    let details = refused.get_error_details();
    assert!(details.retry_info().expect("when").retry_delay.is_some());
    let told = &details.error_info().expect("a reason").metadata;
    assert_eq!((told["free_bytes"].as_str(), told["needed_bytes"].as_str()), ("999", "1000"));
    let refused = upload(&mut files, &[b"new".to_vec()]).await.expect_err("too little room");
    assert_error(&refused, Code::ResourceExhausted, "DISK_FULL");
    assert_eq!(started(&mut client, known).await, id, "a repetition is no new run");

    mesh.let_go();
    let ended = finished(&watched(&mut client, &id, 0).await);
    assert_eq!(ended.outcome(), Outcome::Clean, "{ended:?}");
    report(&mut client, &id, ReportFormat::Json).await.expect("a report");

    mesh.free.store(1000, Ordering::SeqCst);
    upload(&mut files, &[b"new".to_vec()]).await.expect("there is room again");
    assert_eq!(finished(&run(&mut client, wanted()).await).outcome(), Outcome::Clean);
}
