//! Each bad input of the API has its documented answer, with everything wrong named at once, and leaves nothing behind.

mod limits;

use std::os::unix::fs::PermissionsExt as _;

use lintmesh::proto::v1::*;
use lintmesh::types::Digest;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::support::calls::*;
use super::support::serve::Serve;

async fn refused(serve: &Serve, asked: CoordinateRequest) -> Status {
    let mut client = serve.coordinator();
    let streamed = client.coordinate(asked.clone()).await.expect_err("refused");
    let unary = client.start_run(start(asked)).await.expect_err("refused");
    assert_eq!((streamed.code(), streamed.message()), (unary.code(), unary.message()));
    let listed = client.list_runs(ListRunsRequest::default()).await.expect("listed").into_inner();
    assert!(listed.runs.is_empty(), "no run was started");
    unary
}

/// A manifest as a client that does not check anything would write it.
fn unchecked_manifest(paths: &[&str], digest: &Digest, size: usize) -> Vec<u8> {
    let files = paths.iter().map(|path| serde_json::json!({ "path": path, "digest": digest, "size": size }));
    let manifest = serde_json::json!({ "version": 1, "files": files.collect::<Vec<_>>() });
    serde_json::to_vec(&manifest).expect("JSON")
}

const BAD_PATHS: [&str; 9] = [
    "/etc/passwd",
    "../a.py",
    "a/../b.py",
    "",
    "a//b.py",
    "./c.py",
    "good.py",
    "good.py",
    "good.py/beneath.py",
];

#[tokio::test]
async fn each_bad_path_of_inline_files_and_of_a_manifest_is_named() {
    let serve = Serve::start("").await;
    let files = BAD_PATHS.map(|path| (path, "secret = 1\n"));
    let status = refused(&serve, request(inline(&files), &["ruff"])).await;
    let bad = bad_fields(&status);
    // The first `good.py` is good; what repeats it or lies beneath it is not.
    let expected = [0, 1, 2, 3, 4, 5, 7, 8].map(|index| format!("workspace.inline.files[{index}].path"));
    assert_eq!(bad, expected, "{status:?}");

    let content = b"secret = 1\n".to_vec();
    let manifest = unchecked_manifest(&BAD_PATHS, &Digest::of(&content), content.len());
    let mut store = serve.workspace();
    assert_eq!(
        missing(&mut store, std::slice::from_ref(&content)).await.len(),
        1,
        "nothing of it was stored"
    );
    upload(&mut store, &[content, manifest.clone()]).await.expect("any bytes are a blob");
    let asked = request(snapshot(&Digest::of(&manifest).to_string()), &["ruff"]);
    let status = refused(&serve, asked).await;
    let expected = [0, 1, 2, 3, 4, 5, 7, 8].map(|index| format!("workspace.snapshot.files[{index}].path"));
    assert_eq!(bad_fields(&status), expected, "{status:?}");
}

#[tokio::test]
async fn all_bad_fields_of_a_request_are_named_at_once() {
    let serve = Serve::start("").await;
    let mut options = std::collections::HashMap::new();
    options.insert("no-such-option".to_owned(), "1".to_owned());
    let nothing = InlineFile { path: "../x.py".into(), content: None };
    let asked = CoordinateRequest {
        request_id: "x".repeat(37),
        project: "line\nbreak".into(),
        workspace: Some(Workspace {
            source: Some(workspace::Source::Inline(InlineSource { files: vec![nothing] })),
        }),
        tools: vec![
            ToolSelection { tool: "flake9".into(), ..Default::default() },
            ToolSelection { tool: "Not A Name".into(), ..Default::default() },
            ToolSelection { tool: "ruff".into(), options: options.into_iter().collect() },
            ToolSelection { tool: "ruff".into(), ..Default::default() },
        ],
        timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        environment: Some(Environment {
            interpreter: Some(environment::Interpreter::Name("no-such-name".into())),
        }),
        severities: [("F401".to_owned(), Severity::High.into())].into(),
        cancel_on_disconnect: false,
        disconnect_grace: None,
        priority: 11,
        supersede_key: "k".repeat(129),
    };
    let status = refused(&serve, asked).await;
    let expected = [
        "environment.name",
        "priority",
        "project",
        "request_id",
        "severities[F401]",
        "supersede_key",
        "timeout",
        "tools[0].tool",
        "tools[1].tool",
        "tools[2].options[no-such-option]",
        "tools[3]",
        "workspace.inline.files[0]",
        "workspace.inline.files[0].path",
    ];
    assert_eq!(bad_fields(&status), expected, "{status:?}");
    let details = status.get_error_details();
    let bad = &details.bad_request().expect("details").field_violations;
    let said = |field: &str| &bad.iter().find(|bad| bad.field == field).expect("named").description;
    assert!(said("tools[0].tool").contains("bandit") && said("tools[0].tool").contains("flake9"), "{bad:?}");
    assert!(said("tools[2].options[no-such-option]").contains("line-length"), "the allowed ones: {bad:?}");
    assert!(said("timeout").contains("3600"), "the limit: {bad:?}");
}

#[tokio::test]
async fn nobody_comes_back_in_less_than_no_time() {
    let serve = Serve::start("").await;
    let disconnect_grace = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let asked = CoordinateRequest { disconnect_grace, ..request(inline(&[("a.py", "")]), &["ruff"]) };
    let status = serve.coordinator().coordinate(asked).await.expect_err("not a time");
    assert_eq!(bad_fields(&status), ["disconnect_grace"]);
}

#[tokio::test]
async fn a_request_needs_a_tree_and_the_tree_a_sensible_source() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path().canonicalize().expect("there");
    let (allowed, outside) = (root.join("allowed"), root.join("outside"));
    for folder in [&allowed, &outside] {
        std::fs::create_dir(folder).expect("created");
    }
    std::fs::write(allowed.join("a.py"), "").expect("written");
    std::os::unix::fs::symlink(&outside, allowed.join("way-out")).expect("linked");
    std::fs::write(outside.join("secret.py"), "").expect("written");
    std::fs::create_dir(outside.join("closed")).expect("created");
    let allow =
        |mode| std::fs::set_permissions(outside.join("closed"), std::fs::Permissions::from_mode(mode));
    allow(0o000).expect("closed");
    let serve = Serve::start(&format!("[workspace]\nallowed_roots = [{allowed:?}]\n")).await;
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let empty = Workspace { source: Some(workspace::Source::Inline(InlineSource::default())) };
    for (workspace, field) in [
        (Workspace { source: None }, "workspace"),
        (empty, "workspace.inline.files"),
        (snapshot("not a digest"), "workspace.snapshot.digest"),
        (path("relative"), "workspace.path.root"),
        (path(&text(&outside)), "workspace.path.root"),
        (path(&text(&allowed.join("../outside"))), "workspace.path.root"),
        (path(&text(&allowed.join("way-out"))), "workspace.path.root"),
        (path(&text(&allowed.join("missing"))), "workspace.path.root"),
        (path(&text(&allowed.join("a.py"))), "workspace.path.root"),
        (path("/"), "workspace.path.root"),
    ] {
        let status = refused(&serve, request(workspace.clone(), &["ruff"])).await;
        assert_eq!(bad_fields(&status), [field], "{workspace:?}");
    }
    let source = |paths: &[&str], exclude: &[&str]| Workspace {
        source: Some(workspace::Source::Path(PathSource {
            root: text(&allowed),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            exclude: exclude.iter().map(|glob| (*glob).to_owned()).collect(),
        })),
    };
    for (workspace, field) in [
        (source(&["missing.py"], &[]), "workspace.path.paths[0]"),
        (source(&["a.py", "../outside"], &[]), "workspace.path.paths[1]"),
        (source(&[], &["[unclosed"]), "workspace.path.exclude"),
    ] {
        let status = refused(&serve, request(workspace.clone(), &["ruff"])).await;
        assert_eq!(bad_fields(&status), [field], "{workspace:?}");
    }
    // Not a word about what is where the server may not look, however it is asked.
    let words = async |path: &str| {
        let refused = refused(&serve, request(source(&[path], &[]), &["ruff"])).await;
        assert_eq!(bad_fields(&refused), ["workspace.path.paths[0]"], "{path}");
        refused.message().replace(path, "PATH")
    };
    for (there, other) in [
        (text(&outside.join("secret.py")), text(&outside.join("missing.py"))),
        ("../outside/secret.py".to_owned(), "../outside/missing.py".to_owned()),
        ("way-out/secret.py".to_owned(), "way-out/missing.py".to_owned()),
        ("way-out/closed".to_owned(), "way-out/closed/any.py".to_owned()),
    ] {
        assert_eq!(words(&there).await, words(&other).await);
    }
    allow(0o700).expect("so that it can be removed");
    let python =
        Environment { interpreter: Some(environment::Interpreter::Python("/usr/bin/python3".into())) };
    let asked =
        CoordinateRequest { environment: Some(python), ..request(inline(&[("a.py", "")]), &["mypy"]) };
    assert_eq!(bad_fields(&refused(&serve, asked).await), ["environment.python"]);
}

#[tokio::test]
async fn blobs_are_what_their_digests_say_or_are_not_stored() {
    let serve = Serve::start("").await;
    let mut store = serve.workspace();
    let (good, wanted) = (b"good".to_vec(), b"wanted".to_vec());
    let piece = |digest: &str, data: &[u8]| UploadBlobsRequest { digest: digest.into(), data: data.into() };
    let pieces = vec![
        piece(&Digest::of(&good).to_string(), b"go"),
        piece("", b"od"),
        piece(&Digest::of(&wanted).to_string(), b"forged"),
    ];
    let status = store.upload_blobs(tokio_stream::iter(pieces)).await.expect_err("forged");
    assert_eq!(bad_fields(&status), ["data"]);
    assert!(status.message().contains(&Digest::of(&wanted).to_string()), "{status:?}");
    let left = missing(&mut store, &[good.clone(), wanted.clone(), b"forged".to_vec()]).await;
    assert_eq!(left, [Digest::of(&wanted).to_string(), Digest::of(b"forged").to_string()]);

    for pieces in [vec![piece("", b"x")], vec![piece("abc", b"x")]] {
        let status = store.upload_blobs(tokio_stream::iter(pieces)).await.expect_err("no digest");
        assert_eq!(bad_fields(&status), ["digest"]);
    }
    let asked =
        FindMissingBlobsRequest { digests: vec!["z".into(), Digest::of(&good).to_string(), "".into()] };
    let status = store.find_missing_blobs(asked).await.expect_err("no digests");
    assert_eq!(bad_fields(&status), ["digests[0]", "digests[2]"]);
    let many = vec![Digest::of(&good).to_string(); 15_001];
    let status = store.find_missing_blobs(FindMissingBlobsRequest { digests: many }).await.expect_err("many");
    assert_eq!(bad_fields(&status), ["digests"]);
    assert!(status.message().contains("15000"), "{status:?}");

    let asked = DownloadBlobsRequest { digests: vec![Digest::of(&wanted).to_string()] };
    let mut stream = store.download_blobs(asked).await.expect("a stream").into_inner();
    let status = stream.message().await.expect_err("not there");
    assert_error(&status, Code::NotFound, "RESOURCE_NOT_FOUND");
}

#[tokio::test]
async fn a_snapshot_whose_blobs_are_missing_says_which() {
    let serve = Serve::start("").await;
    let (manifest, blobs) = manifest_of(&[("a.py", b"a = 1\n"), ("b.py", b"b = 1\n"), ("c.py", b"c = 1\n")]);
    let asked = request(snapshot(&Digest::of(&manifest).to_string()), &["ruff"]);
    let subjects = |status: &Status| -> Vec<String> {
        assert_error(status, Code::FailedPrecondition, "BLOB_MISSING");
        let details = status.get_error_details();
        let broken = &details.precondition_failure().expect("PreconditionFailure").violations;
        let mut subjects: Vec<_> = broken.iter().map(|broken| broken.subject.clone()).collect();
        subjects.sort();
        subjects
    };
    let named = |blobs: &[&Vec<u8>]| {
        let mut names: Vec<_> = blobs.iter().map(|blob| format!("blobs/{}", Digest::of(blob))).collect();
        names.sort();
        names
    };
    assert_eq!(subjects(&refused(&serve, asked.clone()).await), named(&[&manifest]));
    let mut store = serve.workspace();
    upload(&mut store, &[manifest.clone(), blobs[1].clone()]).await.expect("stored");
    assert_eq!(subjects(&refused(&serve, asked.clone()).await), named(&[&blobs[0], &blobs[2]]));
    upload(&mut store, &blobs).await.expect("stored");
    started(&mut serve.coordinator(), asked).await;

    // A manifest that is none, and one that lies about a size.
    let serve = Serve::start("").await;
    let lying = unchecked_manifest(&["a.py"], &Digest::of(&blobs[0]), 7);
    let mut store = serve.workspace();
    upload(&mut store, &[b"{}".to_vec(), lying.clone(), blobs[0].clone()]).await.expect("stored");
    for (bytes, field) in
        [(b"{}".to_vec(), "workspace.snapshot.manifest"), (lying, "workspace.snapshot.files[0].size")]
    {
        let asked = request(snapshot(&Digest::of(&bytes).to_string()), &["ruff"]);
        assert_eq!(bad_fields(&refused(&serve, asked).await), [field]);
    }
}

#[tokio::test]
async fn ids_pages_and_states_that_cannot_be_are_refused_by_name() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let listed = |page_size, page_token: &str, state| ListRunsRequest {
        page_size,
        page_token: page_token.into(),
        state,
        ..Default::default()
    };
    let status = client.list_runs(listed(-1, "No Token", 99)).await.expect_err("three bad fields");
    assert_eq!(bad_fields(&status), ["page_size", "page_token", "state"]);
    let empty = [
        client.get_run(GetRunRequest::default()).await.expect_err("empty"),
        client.cancel_run(CancelRunRequest::default()).await.expect_err("empty"),
        client.watch_run(WatchRunRequest::default()).await.expect_err("empty"),
        client.explain_task(ExplainTaskRequest::default()).await.expect_err("empty"),
        report(&mut client, "", ReportFormat::Json).await.expect_err("empty"),
    ];
    for status in empty {
        assert_eq!(bad_fields(&status), ["run_id"]);
    }
    for id in ["run-unknown", "No Such Run", &"x".repeat(10_000)] {
        let unknown = [
            client.get_run(GetRunRequest { run_id: id.into() }).await.expect_err("unknown"),
            client.cancel_run(CancelRunRequest { run_id: id.into() }).await.expect_err("unknown"),
            client
                .watch_run(WatchRunRequest { run_id: id.into(), after_sequence: 0 })
                .await
                .expect_err("unknown"),
            client
                .explain_task(ExplainTaskRequest { run_id: id.into(), ..Default::default() })
                .await
                .expect_err("unknown"),
            report(&mut client, id, ReportFormat::Json).await.expect_err("unknown"),
        ];
        for status in unknown {
            assert_error(&status, Code::NotFound, "RESOURCE_NOT_FOUND");
            let details = status.get_error_details();
            assert_eq!(details.resource_info().expect("ResourceInfo").resource_type, "run");
        }
    }
}

/// Calls a method with a message of another type.
async fn call<M: prost::Message + 'static>(serve: &Serve, path: &'static str, message: M) -> Status {
    let mut raw = tonic::client::Grpc::new(serve.channel());
    raw.ready().await.expect("it listens");
    let codec = tonic_prost::ProstCodec::<M, ()>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    raw.unary(tonic::Request::new(message), path, codec).await.expect_err("refused")
}

#[tokio::test]
async fn calls_that_no_handler_takes_have_a_reason_too() {
    let serve = Serve::launch("", &["--launch", "external"]).await;
    let no_text = prost_types::Duration { seconds: 5, nanos: 5 };
    for (path, code, reason) in [
        ("/lintmesh.v1.CoordinatorService/NoSuchMethod", Code::Unimplemented, "METHOD_UNKNOWN"),
        ("/no.such.Service/Method", Code::Unimplemented, "METHOD_UNKNOWN"),
        ("/lintmesh.v1.CoordinatorService/GetRun", Code::InvalidArgument, "MESSAGE_UNREADABLE"),
        ("/lintmesh.v1.CoordinatorService/StartRun", Code::InvalidArgument, "MESSAGE_UNREADABLE"),
        ("/lintmesh.v1.WorkspaceService/UploadBlobs", Code::InvalidArgument, "MESSAGE_UNREADABLE"),
    ] {
        assert_error(&call(&serve, path, no_text).await, code, reason);
    }
    // Nothing can be linted without a node, and the caller is told to try again.
    let asked = start(request(inline(&[("a.py", "")]), &["ruff"]));
    let status = serve.coordinator().start_run(asked).await.expect_err("no node");
    assert_error(&status, Code::Unavailable, "NO_ACTIVE_NODE");
    assert!(status.get_error_details().retry_info().is_some());
    assert_eq!(missing(&mut serve.workspace(), &[b"".to_vec()]).await.len(), 1, "nothing was stored");
}
