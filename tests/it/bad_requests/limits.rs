//! Requests beyond the limits: refused with the limit, and nothing of them is kept.

use lintmesh::proto::v1::*;
use lintmesh::types::Digest;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::refused;
use crate::support::calls::*;
use crate::support::linters::GatedRuff;
use crate::support::serve::{Serve, until};

const LIMITS: &str = "[workspace]\n\
    max_file_bytes = 1000\nmax_inline_bytes = 1500\nmax_snapshot_bytes = 2000\nmax_snapshot_files = 3\n\
    max_blob_bytes = 2000\nmax_store_bytes = 5000\n\
    [server]\nmax_message_bytes = 10000\n";

fn text(length: usize) -> String {
    "#".repeat(length)
}

#[tokio::test]
async fn files_and_trees_beyond_the_limits_are_refused_with_the_limit() {
    let serve = Serve::start(LIMITS).await;
    let (large, half) = (text(1001), text(800));
    for (files, field, limit) in [
        (vec![("a.py", large.as_str())], "workspace.inline.files[0]", "1000"),
        (vec![("a.py", &half), ("b.py", &half)], "workspace.inline.files", "1500"),
        (vec![("a.py", ""), ("b.py", ""), ("c.py", ""), ("d.py", "")], "workspace.inline.files", "3"),
    ] {
        let status = refused(&serve, request(inline(&files), &["ruff"])).await;
        assert_eq!(bad_fields(&status), [field]);
        assert!(status.message().contains(limit), "{status:?}");
        let blobs: Vec<Vec<u8>> = files.iter().map(|(_, text)| text.as_bytes().to_vec()).collect();
        let asked = missing(&mut serve.workspace(), &blobs).await;
        let distinct: std::collections::BTreeSet<_> = blobs.iter().map(|blob| Digest::of(blob)).collect();
        assert_eq!(asked.len(), distinct.len(), "nothing of it was stored");
    }
    let other = "x".repeat(900);
    let third = "y".repeat(900);
    let files = [("a.py", half.as_bytes()), ("b.py", other.as_bytes()), ("c.py", third.as_bytes())];
    let (manifest, mut blobs) = manifest_of(&files);
    blobs.push(manifest.clone());
    upload(&mut serve.workspace(), &blobs).await.expect("each is within the limit");
    let asked = request(snapshot(&Digest::of(&manifest).to_string()), &["ruff"]);
    let status = refused(&serve, asked).await;
    assert_eq!(bad_fields(&status), ["workspace.snapshot.files"]);
    assert!(status.message().contains("2000"), "{status:?}");
}

#[tokio::test]
async fn a_blob_or_a_message_beyond_the_limit_is_refused_with_the_limit() {
    let serve = Serve::start(LIMITS).await;
    let mut store = serve.workspace();
    let blob = vec![7; 2001];
    let status = upload(&mut store, std::slice::from_ref(&blob)).await.expect_err("too large");
    assert_eq!(bad_fields(&status), ["data"]);
    assert!(status.message().contains("2000"), "{status:?}");
    assert_eq!(missing(&mut store, &[blob]).await.len(), 1);

    // Unary and streamed: the message does not get as far as a handler.
    let long = CoordinateRequest { project: text(20_000), ..Default::default() };
    let unary = serve.coordinator().start_run(start(long.clone())).await.expect_err("too large");
    let streaming = serve.coordinator().coordinate(long).await.expect_err("too large");
    let uploaded = upload(&mut store, &[vec![7; 20_000]]).await.expect_err("too large");
    for status in [unary, streaming, uploaded] {
        assert_error(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("info").metadata["limit"], "10000");
    }
}

#[tokio::test]
async fn a_full_store_takes_no_more() {
    let serve = Serve::start(LIMITS).await;
    let mut store = serve.workspace();
    let blobs: Vec<Vec<u8>> = (0..5).map(|byte| vec![byte; 1900]).collect();
    // Asked about, so kept: there is nothing to make room with.
    missing(&mut store, &blobs).await;
    upload(&mut store, &blobs[..2]).await.expect("there is room");
    let status = upload(&mut store, &blobs[2..]).await.expect_err("full");
    assert_error(&status, Code::ResourceExhausted, "LIMIT_REACHED");
    let details = status.get_error_details();
    // 7/8 of what there is: the rest is for what runs make.
    assert_eq!(details.error_info().expect("info").metadata["limit"], "4375");
    assert!(details.retry_info().is_some());
    assert_eq!(missing(&mut store, &blobs).await.len(), 3, "what was whole before is still there");
}

#[tokio::test]
async fn open_runs_are_bounded_and_make_room_when_they_end() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&format!("{}[runs]\nmax_open = 2\n", ruff.settings())).await;
    let mut client = serve.coordinator();
    let asked = |text: &str, id: &str| CoordinateRequest {
        request_id: id.into(),
        ..request(inline(&[("a.py", text)]), &["ruff"])
    };
    let first = started(&mut client, asked("1\n", "one")).await;
    started(&mut client, asked("2\n", "two")).await;
    let status = client.start_run(start(asked("3\n", "three"))).await.expect_err("no room");
    assert_error(&status, Code::ResourceExhausted, "LIMIT_REACHED");
    let details = status.get_error_details();
    let metadata = &details.error_info().expect("info").metadata;
    assert_eq!((&*metadata["what"], &*metadata["limit"]), ("open runs", "2"));
    assert!(details.retry_info().is_some());
    assert_eq!(missing(&mut serve.workspace(), &[b"3\n".to_vec()]).await.len(), 1, "nothing was stored");
    assert_eq!(started(&mut client, asked("1\n", "one")).await, first, "an open run can be found again");
    client.cancel_run(CancelRunRequest { run_id: first }).await.expect("cancelled");
    let third = started(&mut client, asked("3\n", "three")).await;
    until("both run", || ruff.running() == 4).await;
    ruff.open();
    assert_eq!(finished(&watched(&mut client, &third, 0).await).outcome(), Outcome::Clean);
}

#[tokio::test]
async fn limits_for_clients_do_not_stop_the_results_of_nodes() {
    let limits =
        "[workspace]\nmax_file_bytes = 2000\nmax_inline_bytes = 2000\n[server]\nmax_message_bytes = 3000\n";
    let serve = Serve::start(limits).await;
    let names: String = (0..200).map(|number| format!("u{number}\n")).collect();
    let asked = CoordinateRequest {
        timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..request(inline(&[("a.py", &names)]), &["ruff"])
    };
    let events = run(&mut serve.coordinator(), asked).await;
    let finished = finished(&events);
    assert_eq!(finished.outcome(), Outcome::Findings);
    assert!(finished.summary.expect("counts").reported >= 200, "each name is undefined");
}
