//! What `lintmesh lint --server` does with a server: uploads what is missing, follows the run over broken streams,
//! writes the report, answers with the right exit code, cancels on Ctrl-C.
//!
//! The server here is scripted, so that it breaks exactly where a test wants it to.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lintmesh::proto::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::workspace_service_server::{WorkspaceService, WorkspaceServiceServer};
use lintmesh::proto::v1::*;
use lintmesh::types::{Digest, Manifest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// How the scripted run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// To its end at once.
    Smooth,
    /// The first stream breaks after the first event, the second is refused, the third goes to the end.
    Breaks,
    /// The first stream breaks after the first event, and the server is never back.
    Vanishes,
    /// Two events, and no end until it is cancelled.
    Endless,
    /// Refused, as invalid.
    Refused,
}

/// What the server saw.
#[derive(Debug, Default)]
struct Seen {
    blobs: BTreeMap<Digest, Vec<u8>>,
    uploads: usize,
    authorization: Vec<String>,
    coordinate: Vec<CoordinateRequest>,
    watch: Vec<u64>,
    cancelled: Vec<String>,
}

#[derive(Clone)]
struct Scripted {
    script: Script,
    seen: Arc<Mutex<Seen>>,
}

fn event(sequence: u64, event: Event) -> RunEvent {
    RunEvent { run_id: "run-1".into(), sequence, time: None, event: Some(event) }
}

fn started() -> RunEvent {
    event(1, Event::Started(RunStarted { files: 1, tools: vec!["ruff".into()], assignments: None }))
}

/// Told by its watcher at once, whatever standard error is.
fn fault() -> RunEvent {
    let (node_id, detail) = ("backend-dev".to_owned(), "gone for a walk".to_owned());
    event(2, Event::Fault(Fault { node_id, detail, ..Default::default() }))
}

fn finished() -> RunEvent {
    event(2, Event::Finished(RunFinished { outcome: Outcome::Findings.into(), ..Default::default() }))
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

fn stream<T>(items: Vec<Result<T, Status>>) -> (mpsc::Sender<Result<T, Status>>, Stream<T>) {
    let (sender, receiver) = mpsc::channel(items.len().max(1));
    for item in items {
        assert!(sender.try_send(item).is_ok(), "the channel has room for all");
    }
    (sender, ReceiverStream::new(receiver))
}

/// Calls that a lint command has no reason to make.
macro_rules! never_called {
    ($($name:ident($request:ty) -> $response:ty;)*) => {$(
        // Spelt out, since the attribute on the impl does not see into a macro.
        fn $name<'s, 'a>(
            &'s self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'a>>
        where
            's: 'a,
            Self: 'a,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )*};
}

#[tonic::async_trait]
impl CoordinatorService for Scripted {
    type CoordinateStream = Stream<CoordinateResponse>;
    type WatchRunStream = Stream<WatchRunResponse>;
    type DownloadReportStream = Stream<DownloadReportResponse>;
    type StreamHealthStream = Stream<StreamHealthResponse>;

    async fn coordinate(
        &self,
        request: Request<CoordinateRequest>,
    ) -> Result<Response<Self::CoordinateStream>, Status> {
        self.seen.lock().unwrap().coordinate.push(request.into_inner());
        let wrap = |event| Ok(CoordinateResponse { event: Some(event), epoch: 1 });
        let items = match self.script {
            Script::Refused => return Err(Status::invalid_argument("tools[0]: `ruff` is not allowed here")),
            Script::Smooth => vec![wrap(started()), wrap(finished())],
            Script::Breaks | Script::Vanishes => {
                vec![wrap(started()), Err(Status::unavailable("moving house"))]
            }
            Script::Endless => vec![wrap(started()), wrap(fault())],
        };
        let (sender, stream) = stream(items);
        if self.script == Script::Endless {
            tokio::spawn(async move { sender.closed().await });
        }
        Ok(Response::new(stream))
    }

    async fn watch_run(
        &self,
        request: Request<WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let mut seen = self.seen.lock().unwrap();
        seen.watch.push(request.into_inner().after_sequence);
        if seen.watch.len() == 1 || self.script == Script::Vanishes {
            return Err(Status::unavailable("still moving"));
        }
        Ok(Response::new(stream(vec![Ok(WatchRunResponse { event: Some(finished()), epoch: 2 })]).1))
    }

    async fn cancel_run(
        &self,
        request: Request<CancelRunRequest>,
    ) -> Result<Response<CancelRunResponse>, Status> {
        self.seen.lock().unwrap().cancelled.push(request.into_inner().run_id);
        Ok(Response::new(CancelRunResponse { run: None }))
    }

    async fn download_report(
        &self,
        _: Request<DownloadReportRequest>,
    ) -> Result<Response<Self::DownloadReportStream>, Status> {
        let pieces = REPORT.as_bytes().chunks(100);
        let pieces = pieces.map(|data| Ok(DownloadReportResponse { data: data.to_vec() })).collect();
        Ok(Response::new(stream(pieces).1))
    }

    async fn stream_health(
        &self,
        _: Request<StreamHealthRequest>,
    ) -> Result<Response<Self::StreamHealthStream>, Status> {
        Err(Status::unimplemented("stream_health"))
    }

    never_called! {
        initialize_mesh(InitializeMeshRequest) -> InitializeMeshResponse;
        start_run(StartRunRequest) -> StartRunResponse;
        get_run(GetRunRequest) -> GetRunResponse;
        list_runs(ListRunsRequest) -> ListRunsResponse;
        get_mesh_status(GetMeshStatusRequest) -> GetMeshStatusResponse;
        handle_fault(HandleFaultRequest) -> HandleFaultResponse;
        explain_task(ExplainTaskRequest) -> ExplainTaskResponse;
        diagnose(DiagnoseRequest) -> DiagnoseResponse;
    }
}

#[tonic::async_trait]
impl WorkspaceService for Scripted {
    type DownloadBlobsStream = Stream<DownloadBlobsResponse>;

    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let mut seen = self.seen.lock().unwrap();
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        seen.authorization.extend(token);
        let mut missing_digests = request.into_inner().digests;
        missing_digests.retain(|digest| !seen.blobs.contains_key(&digest.parse().unwrap()));
        Ok(Response::new(FindMissingBlobsResponse { missing_digests }))
    }

    async fn upload_blobs(
        &self,
        request: Request<Streaming<UploadBlobsRequest>>,
    ) -> Result<Response<UploadBlobsResponse>, Status> {
        let first = {
            let mut seen = self.seen.lock().unwrap();
            seen.uploads += 1;
            seen.uploads == 1
        };
        let mut pieces = request.into_inner();
        let mut blobs: Vec<(Digest, Vec<u8>)> = Vec::new();
        while let Some(piece) = pieces.message().await? {
            if !piece.digest.is_empty() {
                blobs.push((piece.digest.parse().unwrap(), Vec::new()));
            }
            blobs.last_mut().unwrap().1.extend(piece.data);
            if self.script == Script::Breaks && first && blobs.len() == 2 {
                break;
            }
        }
        let whole = blobs.into_iter().filter(|(digest, bytes)| Digest::of(bytes) == *digest);
        self.seen.lock().unwrap().blobs.extend(whole);
        if self.script == Script::Breaks && first {
            return Err(Status::unavailable("out of breath"));
        }
        Ok(Response::new(UploadBlobsResponse::default()))
    }

    async fn download_blobs(
        &self,
        _: Request<DownloadBlobsRequest>,
    ) -> Result<Response<Self::DownloadBlobsStream>, Status> {
        Err(Status::unimplemented("download_blobs"))
    }
}

const REPORT: &str = r#"{"schema_version":1,"result":{"schema_version":1,"outcome":"FINDINGS",
"tools":{"ruff":{"version":"1.2.3","arguments":[],"files":1,"diagnostics":1}},
"summary":{"files":1,"diagnostics":1,"reported":1,
"by_severity":{"CRITICAL":0,"HIGH":0,"MEDIUM":1,"LOW":0,"INFO":0},"by_tool":{"ruff":1}},
"diagnostics":[{"path":"a.py","line":1,"column":8,"tool":"ruff","code":"F401","message":"`os` imported but unused",
"severity":"MEDIUM","fingerprint":"00112233445566778899aabbccddeeff",
"reported_by":[{"tool":"ruff","line":1,"column":8,"code":"F401","message":"`os` imported but unused"}]}]},
"execution":{"run_id":"run-1","started_at":"2026-03-01T12:00:00Z","ended_at":"2026-03-01T12:00:01Z","seconds":1.0,
"request":"SNAPSHOT","coordinator_version":"0.1.0","epoch":1,"tools":{},"nodes":{},"retries":0,"faults":[],
"environment_class":"CPython 3.11 linux x86_64"}}"#;

struct Rig {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    tree: tempfile::TempDir,
}

async fn rig(script: Script) -> Rig {
    let seen = Arc::<Mutex<Seen>>::default();
    let server = Scripted { script, seen: seen.clone() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = tonic::transport::Server::builder()
        .add_service(CoordinatorServiceServer::new(server.clone()))
        .add_service(WorkspaceServiceServer::new(server));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("a.py"), "import os\n").unwrap();
    std::fs::write(tree.path().join("big.py"), "x = 1\n".repeat(300_000)).unwrap();
    std::fs::write(tree.path().join("setup.cfg"), "[flake8]\n").unwrap();
    Rig { address, seen, tree }
}

fn command(folder: &Path, address: SocketAddr, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lintmesh"));
    command
        .args(["lint", "--server", &format!("http://{address}")])
        .args(more)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("LINTMESH_TOKEN", "t0ken");
    command
}

impl Rig {
    async fn lint(&self, more: &'static [&'static str]) -> Output {
        let mut command = command(self.tree.path(), self.address, more);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_tree_is_uploaded_once_and_the_report_is_written_in_every_form() {
    let rig = rig(Script::Smooth).await;
    let outputs = &["--format", "concise", "--output", "sarif=out.sarif", "--output", "json=/dev/full"];
    let output = rig.lint(outputs).await;
    assert_eq!(output.status.code(), Some(2), "one file could not be written: {}", text(&output.stderr));
    assert!(text(&output.stderr).contains("/dev/full: no space left"));
    assert!(text(&output.stdout).starts_with("a.py:1:8: MEDIUM ruff F401"), "{}", text(&output.stdout));
    let sarif = rig.tree.path().join("out.sarif");
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&sarif).unwrap()).unwrap();
    assert_eq!(written["version"], "2.1.0");

    let output = rig.lint(&["--format", "full", "--quiet"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("import os"), "an excerpt: {}", text(&output.stdout));
    assert!(output.stderr.is_empty(), "quiet: {}", text(&output.stderr));
    let output = rig
        .lint(&[
            "--fail-on",
            "high",
            "--select-tools",
            "ruff,mypy",
            "--project",
            "ledger",
            "--priority",
            "-3",
            "--supersede-key",
            "pull/7",
            "--reconnect",
            "90s",
        ])
        .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let seen = rig.seen.lock().unwrap();
    assert_eq!(seen.uploads, 1, "nothing was missing any more");
    assert!(seen.authorization.iter().all(|value| value == "Bearer t0ken"));
    let source = seen.coordinate[0].workspace.clone().unwrap().source.unwrap();
    let workspace::Source::Snapshot(snapshot) = source else { panic!("{source:?}") };
    let manifest = Manifest::parse(&seen.blobs[&snapshot.digest.parse().unwrap()]).unwrap();
    assert_eq!(manifest.targets().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a.py", "big.py"]);
    assert!(manifest.files().iter().all(|file| seen.blobs[&file.digest].len() as u64 == file.size));
    assert!(seen.coordinate[0].cancel_on_disconnect);
    // The server must not give the client up before the client does.
    let graces = [0, 2].map(|index| seen.coordinate[index].disconnect_grace.unwrap().seconds);
    assert_eq!(graces, [60, 90]);
    assert_ne!(seen.coordinate[0].request_id, seen.coordinate[1].request_id);
    assert_eq!(seen.coordinate[2].tools.iter().map(|tool| &*tool.tool).collect::<Vec<_>>(), ["mypy", "ruff"]);
    let of_queue =
        |asked: &CoordinateRequest| (asked.project.clone(), asked.priority, asked.supersede_key.clone());
    assert_eq!(of_queue(&seen.coordinate[0]), (String::new(), 0, String::new()));
    assert_eq!(of_queue(&seen.coordinate[2]), ("ledger".into(), -3, "pull/7".into()));
}

#[tokio::test]
async fn broken_streams_are_taken_up_where_they_broke() {
    let rig = rig(Script::Breaks).await;
    let output = rig.lint(&["--format", "concise"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("moving house") && text(&output.stderr).contains("still moving"));
    let seen = rig.seen.lock().unwrap();
    assert_eq!((seen.uploads, seen.blobs.len()), (2, 4));
    assert_eq!((seen.coordinate.len(), seen.watch.as_slice()), (1, &[1, 1][..]));
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let rig = rig(Script::Refused).await;
    let output = rig.lint(&[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`ruff` is not allowed here"), "{}", text(&output.stderr));
    assert_eq!(rig.seen.lock().unwrap().coordinate.len(), 1);
}

#[tokio::test]
async fn a_server_that_does_not_come_back_is_named_in_the_way_on() {
    let rig = rig(Script::Vanishes).await;
    let output = rig.lint(&["--reconnect", "1s"]).await;
    assert_eq!(output.status.code(), Some(2));
    let way_on = format!("`lintmesh watch run-1 --after 1 --server http://{}`", rig.address);
    assert!(text(&output.stderr).contains(&way_on), "{}", text(&output.stderr));
}

#[tokio::test]
async fn ctrl_c_cancels_the_run() {
    let rig = rig(Script::Endless).await;
    let mut child = command(rig.tree.path(), rig.address, &[]).stderr(Stdio::piped()).spawn().unwrap();
    let interrupted = tokio::task::spawn_blocking(move || {
        // What comes of an event is told: the run's id is known from here on.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("gone for a walk")), "the event is told");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let rest: Vec<String> = lines.collect();
        (child.wait().unwrap(), rest)
    });
    let (status, told) = tokio::time::timeout(Duration::from_secs(60), interrupted).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130), "{told:?}");
    assert_eq!(rig.seen.lock().unwrap().cancelled, ["run-1"], "{told:?}");
}
