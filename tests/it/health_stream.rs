//! StreamHealth: a report at once, with each change and at the interval; resumed where it ended; slow readers are ended.

use std::time::Duration;

use lintmesh::proto::shared::Shared;
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::*;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;

use super::support::calls::{assert_error, bad_fields};
use super::support::serve::{DEADLINE, Serve};

type Stream = Streaming<StreamHealthResponse>;

fn every(interval: Duration) -> StreamHealthRequest {
    StreamHealthRequest { interval: interval.try_into().ok(), after_revision: 0 }
}

/// An hour between reports: what comes is the first one and the changes.
fn changes() -> StreamHealthRequest {
    every(Duration::from_secs(3600))
}

async fn open(serve: &Serve, request: StreamHealthRequest) -> Stream {
    serve.coordinator().stream_health(request).await.expect("a stream").into_inner()
}

async fn next(stream: &mut Stream) -> Shared<MeshHealth> {
    let told = tokio::time::timeout(DEADLINE, stream.message()).await.expect("in time");
    told.expect("alive").expect("a report").health.expect("health")
}

/// Marks a node as FAILED, or brings it back.
async fn act(serve: &Serve, action: FaultAction, node: &str) {
    let fault = HandleFaultRequest { action: action.into(), node_id: node.to_owned(), ..Default::default() };
    serve.coordinator().handle_fault(fault).await.expect("done");
}

fn is_failed(health: &Shared<MeshHealth>, node: &str) -> bool {
    health.node_health[node].status() == NodeStatus::Failed
}

#[tokio::test]
async fn a_change_is_told_at_once_and_a_report_comes_at_the_interval() {
    let serve = Serve::start("").await;
    let refused = serve.coordinator().stream_health(every(Duration::from_millis(99))).await;
    assert_eq!(bad_fields(&refused.expect_err("too often")), ["interval"]);

    let mut often = open(&serve, every(Duration::from_millis(100))).await;
    for _ in 0..3 {
        assert_eq!(next(&mut often).await.active_nodes, 4);
    }
    let mut seldom = open(&serve, changes()).await;
    let first = next(&mut seldom).await;
    assert_eq!((first.active_nodes, first.topology_type.as_str()), (4, "full_mesh"));
    assert_eq!(first.planned_connections, 12);
    act(&serve, FaultAction::Fail, "api-docs").await;
    let health = loop {
        let health = next(&mut seldom).await;
        assert!(health.revision > first.revision, "only changes are told");
        if is_failed(&health, "api-docs") {
            break health;
        }
    };
    assert_eq!((health.active_nodes, health.topology_health, health.system_health), (3, 0.75, 0.75));
    let node = &health.node_health["api-docs"];
    assert_eq!((node.cause.as_str(), node.breaker()), ("OPERATOR", BreakerState::Open));
    assert!(node.process_id > 0, "{node:?}");
    let tolerance = health.fault_tolerance.expect("told");
    assert_eq!(
        (tolerance.tolerated_nodes, tolerance.unavailable_nodes, tolerance.remaining_nodes),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn the_thirteen_figures_are_told_and_what_was_not_measured_is_absent() {
    let serve = Serve::start("").await;
    let mut stream = open(&serve, every(Duration::from_millis(100))).await;
    let measured = loop {
        let metrics = next(&mut stream).await.metrics.expect("figures");
        if metrics.total_cpu_usage.is_some() && metrics.message_throughput.is_some_and(|rate| rate > 0.0) {
            break metrics;
        }
    };
    assert_eq!((measured.active_nodes, measured.total_nodes, measured.topology_health), (4, 4, 1.0));
    assert!((0.0..=1.0).contains(&measured.total_memory_usage.expect("measured with the CPU")));
    assert!(measured.network_bandwidth_usage.expect("measured with the messages") > 0.0);
    assert_eq!(measured.node_failure_rate, Some(0.0));
    let absent =
        [measured.task_completion_rate, measured.recovery_success_rate, measured.consensus_agreement_rate];
    assert_eq!(absent, [None; 3], "no task, no recovery, no decision");
}

#[tokio::test]
async fn a_resumed_stream_begins_with_what_changed_since_and_with_nothing_else() {
    let serve = Serve::launch("", &["--launch", "external"]).await;
    let first = next(&mut open(&serve, changes()).await).await;
    let resume = StreamHealthRequest { after_revision: first.revision, ..changes() };

    let mut resumed = open(&serve, resume).await;
    act(&serve, FaultAction::Fail, "api-docs").await;
    let told = next(&mut resumed).await;
    assert!(told.revision > first.revision && is_failed(&told, "api-docs"), "not what it knew");

    let late = next(&mut open(&serve, resume).await).await;
    assert!(late.revision > first.revision && is_failed(&late, "api-docs"), "at once");

    let same = StreamHealthRequest { after_revision: late.revision, ..every(Duration::from_millis(100)) };
    let measured = next(&mut open(&serve, same).await).await;
    assert_eq!(measured.revision, late.revision, "a report at the interval repeats the revision");
    let before = late.time.expect("measured");
    let after = measured.time.expect("measured");
    assert!((after.seconds, after.nanos) > (before.seconds, before.nanos));

    // From another start of a coordinator, or made up: told at once, not waited for.
    let unknown = StreamHealthRequest { after_revision: u64::MAX, ..changes() };
    assert_eq!(next(&mut open(&serve, unknown).await).await.revision, late.revision);
}

#[tokio::test]
async fn all_watchers_are_told_of_one_change_by_the_same_revision() {
    let serve = Serve::launch("", &["--launch", "external"]).await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = open(&serve, changes()).await;
        next(&mut stream).await;
        streams.push(stream);
    }
    act(&serve, FaultAction::Fail, "api-docs").await;
    let mut revisions = Vec::new();
    for stream in &mut streams {
        let health = next(stream).await;
        assert!(is_failed(&health, "api-docs"));
        revisions.push(health.revision);
    }
    revisions.dedup();
    assert_eq!(revisions.len(), 1);
}

#[tokio::test]
async fn a_reader_that_reads_nothing_is_ended_with_the_point_to_resume_from() {
    let settings = "[mesh]\nheartbeat_interval = 0.4\nmessage_timeout = 1.0\n";
    let serve = Serve::launch(settings, &["--launch", "external"]).await;
    // Room for less than one report: everything after it waits at the server.
    let narrow = Endpoint::from_shared(serve.url()).expect("valid").initial_stream_window_size(256);
    let mut client = CoordinatorServiceClient::new(narrow.connect().await.expect("it listens"));
    let request = every(Duration::from_millis(100));
    let mut stream = client.stream_health(request).await.expect("a stream").into_inner();
    let mut others = open(&serve, changes()).await;
    next(&mut others).await;

    // The server lets go of it without its help: the word that ends it waits behind what is not read.
    let ended = async {
        while serve.logged("a reader of StreamHealth is too slow").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("the server gives it up");
    act(&serve, FaultAction::Fail, "api-docs").await;
    assert!(is_failed(&next(&mut others).await, "api-docs"), "others are told meanwhile");

    let mut read = 0;
    let error = loop {
        match tokio::time::timeout(DEADLINE, stream.message()).await.expect("it ends") {
            Ok(told) => read = told.expect("a report").health.expect("health").revision,
            Err(error) => break error,
        }
    };
    assert_error(&error, Code::Aborted, "SLOW_CONSUMER");
    let info = error.get_error_details().error_info().cloned().expect("info");
    let after_revision = info.metadata["after_revision"].parse().expect("a revision");
    assert_eq!(after_revision, read, "what was sent was read in the end");
    let resumed = StreamHealthRequest { after_revision, ..changes() };
    assert!(is_failed(&next(&mut open(&serve, resumed).await).await, "api-docs"), "nothing was missed");
}
