//! Requests to the API, and what is expected of its answers.

use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::workspace_service_client::WorkspaceServiceClient;
use lintmesh::proto::v1::*;
use lintmesh::types::{Digest, Manifest, ManifestEntry, TreePath};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

/// A tree in the request.
pub(crate) fn inline(files: &[(&str, &str)]) -> Workspace {
    let file = |(path, text): &(&str, &str)| InlineFile {
        path: (*path).to_owned(),
        content: Some(inline_file::Content::Text((*text).to_owned())),
    };
    let inline = InlineSource { files: files.iter().map(file).collect() };
    Workspace { source: Some(workspace::Source::Inline(inline)) }
}

pub(crate) fn snapshot(digest: &str) -> Workspace {
    let snapshot = SnapshotSource { digest: digest.to_owned() };
    Workspace { source: Some(workspace::Source::Snapshot(snapshot)) }
}

pub(crate) fn path(root: &str) -> Workspace {
    let path = PathSource { root: root.to_owned(), ..Default::default() };
    Workspace { source: Some(workspace::Source::Path(path)) }
}

/// A run of `tools` over a tree; none means all.
pub(crate) fn request(workspace: Workspace, tools: &[&str]) -> CoordinateRequest {
    let tool = |tool: &&str| ToolSelection { tool: (*tool).to_owned(), ..Default::default() };
    CoordinateRequest {
        workspace: Some(workspace),
        tools: tools.iter().map(tool).collect(),
        ..Default::default()
    }
}

/// The same as a StartRun.
pub(crate) fn start(request: CoordinateRequest) -> StartRunRequest {
    StartRunRequest {
        request_id: request.request_id,
        project: request.project,
        workspace: request.workspace,
        tools: request.tools,
        timeout: request.timeout,
        environment: request.environment,
        severities: request.severities,
        priority: request.priority,
        supersede_key: request.supersede_key,
    }
}

/// Starts a run and answers its id.
pub(crate) async fn started(
    client: &mut CoordinatorServiceClient<Channel>,
    request: CoordinateRequest,
) -> String {
    let run = client.start_run(start(request)).await.expect("started").into_inner().run;
    run.expect("a run").run_id
}

/// The events of a run from the one after `after` to the end of the stream.
pub(crate) async fn watched(
    client: &mut CoordinatorServiceClient<Channel>,
    run_id: &str,
    after_sequence: u64,
) -> Vec<RunEvent> {
    let request = WatchRunRequest { run_id: run_id.to_owned(), after_sequence };
    let mut stream = client.watch_run(request).await.expect("a stream").into_inner();
    let mut events = Vec::new();
    while let Some(told) = stream.message().await.expect("no error") {
        events.push(told.event.expect("an event"));
    }
    events
}

/// All that a Coordinate stream says.
pub(crate) async fn coordinated(mut stream: Streaming<CoordinateResponse>) -> Vec<RunEvent> {
    let mut events = Vec::new();
    while let Some(told) = stream.message().await.expect("no error") {
        events.push(told.event.expect("an event"));
    }
    events
}

/// Runs to the end; answers its events.
pub(crate) async fn run(
    client: &mut CoordinatorServiceClient<Channel>,
    request: CoordinateRequest,
) -> Vec<RunEvent> {
    coordinated(client.coordinate(request).await.expect("accepted").into_inner()).await
}

pub(crate) fn finished(events: &[RunEvent]) -> RunFinished {
    match events.last().and_then(|event| event.event.clone()) {
        Some(Event::Finished(finished)) => finished,
        other => panic!("the last event is {other:?}"),
    }
}

/// The recorded events: those with a number.
pub(crate) fn recorded(events: &[RunEvent]) -> Vec<RunEvent> {
    events.iter().filter(|event| event.sequence > 0).cloned().collect()
}

pub(crate) async fn report(
    client: &mut CoordinatorServiceClient<Channel>,
    run_id: &str,
    format: ReportFormat,
) -> Result<Vec<u8>, Status> {
    let request = DownloadReportRequest { run_id: run_id.to_owned(), format: format.into() };
    let mut stream = client.download_report(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await? {
        assert!(piece.data.len() <= 512 << 10, "pieces are at most 512 KiB");
        bytes.extend(piece.data);
    }
    Ok(bytes)
}

/// The manifest of a tree, and its blobs.
pub(crate) fn manifest_of(files: &[(&str, &[u8])]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let entry = |(path, bytes): &(&str, &[u8])| ManifestEntry {
        path: TreePath::new(path).expect("valid"),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        lint: path.ends_with(".py"),
    };
    let manifest = Manifest::new(files.iter().map(entry).collect()).expect("valid");
    (manifest.canonical_bytes(), files.iter().map(|(_, bytes)| bytes.to_vec()).collect())
}

/// Uploads blobs under their digests.
pub(crate) async fn upload(
    client: &mut WorkspaceServiceClient<Channel>,
    blobs: &[Vec<u8>],
) -> Result<UploadBlobsResponse, Status> {
    let pieces: Vec<UploadBlobsRequest> = blobs
        .iter()
        .map(|data| UploadBlobsRequest { digest: Digest::of(data).to_string(), data: data.clone() })
        .collect();
    Ok(client.upload_blobs(tokio_stream::iter(pieces)).await?.into_inner())
}

/// Which of the blobs the server lacks.
pub(crate) async fn missing(client: &mut WorkspaceServiceClient<Channel>, blobs: &[Vec<u8>]) -> Vec<String> {
    let digests = blobs.iter().map(|blob| Digest::of(blob).to_string()).collect();
    let request = FindMissingBlobsRequest { digests };
    client.find_missing_blobs(request).await.expect("answers").into_inner().missing_digests
}

/// Checks an error's code and reason, and that both are there for machines.
#[track_caller]
pub(crate) fn assert_error(status: &Status, code: Code, reason: &str) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "lintmesh", "{status:?}");
    assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{status:?}");
}

/// The bad fields of an INVALID_ARGUMENT.
#[track_caller]
pub(crate) fn bad_fields(status: &Status) -> Vec<String> {
    assert_error(status, Code::InvalidArgument, "INVALID_ARGUMENT");
    let details = status.get_error_details();
    let bad = details.bad_request().expect("BadRequest").field_violations.iter();
    let mut fields: Vec<String> = bad.map(|violation| violation.field.clone()).collect();
    fields.sort();
    fields
}
