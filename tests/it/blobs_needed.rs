//! No blob that a live run or a kept report needs is dropped, whatever else is; what is lost all the same is said.

use std::fs;

use lintmesh::proto::v1::{DownloadBlobsRequest, Outcome, ReportFormat};
use lintmesh::server::RunningServer;
use lintmesh::types::Digest;
use tonic::Code;

use super::support::calls::*;
use super::support::in_process::{InProcess, coordinator, tasks, workspace};
use super::support::serve::DEADLINE;

const FILES: [(&str, &[u8]); 2] = [("a.py", b"import os\n"), ("b.py", b"import sys\n")];

/// Uploads the tree, and one blob that nobody needs; answers the run's id once its linter runs.
async fn running(server: &RunningServer) -> String {
    let (manifest, mut blobs) = manifest_of(&FILES);
    let digest = Digest::of(&manifest).to_string();
    blobs.extend([manifest, b"needed by nobody".to_vec()]);
    upload(&mut workspace(server), &blobs).await.expect("uploaded");
    let id = started(&mut coordinator(server), request(snapshot(&digest), &["ruff"])).await;
    let linting = async {
        let mut revision = server.engine().revision();
        while !tasks(server, &id).await.values().any(|state| state.starts_with("Running"))
            || tasks(server, &id).await.len() < 2
        {
            revision.changed().await.expect("runs");
        }
    };
    tokio::time::timeout(DEADLINE, linting).await.expect("it lints in time");
    id
}

async fn has(server: &RunningServer, bytes: &[u8]) -> bool {
    let request = DownloadBlobsRequest { digests: vec![Digest::of(bytes).to_string()] };
    let mut pieces = workspace(server).download_blobs(request).await.expect("a stream").into_inner();
    matches!(pieces.message().await, Ok(Some(piece)) if piece.data == bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_run_goes_on_and_a_report_is_kept_after_starts_with_room_for_nothing() {
    let (mesh, first) = InProcess::start().await;
    let id = running(&first).await;
    first.shutdown().await;
    drop(first);

    let second = mesh.again(Some(1)).await;
    let (manifest, blobs) = manifest_of(&FILES);
    for bytes in blobs.iter().chain([&manifest]) {
        assert!(has(&second, bytes).await, "the run needs it");
    }
    assert!(!has(&second, b"needed by nobody").await, "there is no room for it");
    second.shutdown().await;
    drop(second);

    let third = mesh.again(None).await;
    mesh.let_go();
    let ended = finished(&watched(&mut coordinator(&third), &id, 0).await);
    assert_eq!(ended.outcome(), Outcome::Clean, "{ended:?}");
    let made = report(&mut coordinator(&third), &id, ReportFormat::Result).await.expect("a report");
    third.shutdown().await;
    drop(third);

    let fourth = mesh.again(Some(1)).await;
    let kept = report(&mut coordinator(&fourth), &id, ReportFormat::Result).await.expect("kept");
    assert_eq!(kept, made);
    assert!(!has(&fourth, &manifest).await, "an ended run needs its result only");

    fs::remove_file(mesh.blob(&made)).expect("deleted by somebody");
    let lost = report(&mut coordinator(&fourth), &id, ReportFormat::Result).await.expect_err("lost");
    assert_error(&lost, Code::FailedPrecondition, "REPORT_LOST");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_tree_is_lost_is_ended_with_the_reason_and_the_next_one_works() {
    let (mesh, first) = InProcess::start().await;
    let id = running(&first).await;
    first.shutdown().await;
    drop(first);
    fs::remove_file(mesh.blob(FILES[1].1)).expect("deleted by somebody");

    let second = mesh.again(None).await;
    let ended = finished(&watched(&mut coordinator(&second), &id, 0).await);
    assert_eq!(ended.outcome(), Outcome::Cancelled);
    let lost = Digest::of(FILES[1].1).to_string();
    assert!(ended.detail.contains(&lost) && ended.detail.contains("start it again"), "{}", ended.detail);

    mesh.let_go();
    assert!(second.wait_ready(DEADLINE).await, "the nodes are back");
    let (manifest, blobs) = manifest_of(&FILES);
    let absent = missing(&mut workspace(&second), &blobs).await;
    assert_eq!(absent, [lost]);
    upload(&mut workspace(&second), &blobs[1..]).await.expect("uploaded again");
    let again = request(snapshot(&Digest::of(&manifest).to_string()), &["ruff"]);
    assert_eq!(finished(&run(&mut coordinator(&second), again).await).outcome(), Outcome::Clean);
}
