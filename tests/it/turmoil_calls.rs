//! Calls on a network that breaks them: none outlives its deadline, none holds its place after its caller has gone.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::{GetMeshStatusRequest, InitializeMeshRequest, StreamHealthRequest};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::support::virtual_network::{API_PORT, COORDINATOR, VirtualNetwork, connector};

/// One call at a time, so that a place that is still held shows.
const ONE_PLACE: &str = "max_concurrent_requests = 1\n";
/// What the network and the server's own work may add to a time.
const SLACK: Duration = Duration::from_millis(300);
/// Silence of a client's connection until the server asks, and until it gives up.
const KEEP_ALIVE: Duration = Duration::from_secs(20 + 10);

type Client = CoordinatorServiceClient<Channel>;

fn client() -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{COORDINATOR}:{API_PORT}"))
        .expect("valid")
        // Little is on its way to a client that does not read.
        .initial_stream_window_size(1 << 14);
    CoordinatorServiceClient::new(connector()(endpoint))
}

/// A call that waits: no node ever joins here.
fn long_call() -> Request<InitializeMeshRequest> {
    let wait = Some(prost_types::Duration { seconds: 50, nanos: 0 });
    Request::new(InitializeMeshRequest { wait, ..Default::default() })
}

async fn short_call() -> Result<(), Status> {
    client().get_mesh_status(GetMeshStatusRequest {}).await.map(drop)
}

/// Runs `test` as a process of the network until it is done.
fn perform<F>(network: &mut VirtualNetwork, name: &str, test: F)
where
    F: Future<Output = ()> + 'static,
{
    let done = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&done);
    network.sim.client(name, async move {
        test.await;
        set.store(true, Ordering::Relaxed);
        Ok(())
    });
    network.until(name, Duration::from_secs(600), move |_| done.load(Ordering::Relaxed));
}

#[test]
fn a_callers_deadline_holds_although_the_network_is_silent() {
    let mut network = VirtualNetwork::new(1, "");
    perform(&mut network, "caller", async {
        let mut client = client();
        client.get_mesh_status(GetMeshStatusRequest {}).await.expect("connected");
        let mut request = long_call();
        request.set_timeout(Duration::from_secs(5));
        let begin = Instant::now();
        let call = client.initialize_mesh(request);
        turmoil::partition("caller", COORDINATOR);
        let status = call.await.expect_err("nobody answers");
        // tonic's own client says CANCELLED where another would say DEADLINE_EXCEEDED.
        assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
        assert!(begin.elapsed() <= Duration::from_secs(5) + SLACK, "after {:?}", begin.elapsed());
    });
}

#[test]
fn the_servers_limit_ends_a_call_that_would_wait_longer() {
    let mut network = VirtualNetwork::new(2, &format!("{ONE_PLACE}request_timeout = 5.0\n"));
    perform(&mut network, "caller", async {
        let begin = Instant::now();
        let answer = client().initialize_mesh(long_call()).await.expect("this one answers what it has");
        assert!(!answer.into_inner().ready);
        assert!(begin.elapsed() <= Duration::from_secs(5) + SLACK, "after {:?}", begin.elapsed());
        short_call().await.expect("the place is free");
    });
}

#[test]
fn a_call_that_its_caller_gives_up_frees_its_place_at_once() {
    let mut network = VirtualNetwork::new(3, ONE_PLACE);
    perform(&mut network, "caller", async {
        let mut client = client();
        let call = client.initialize_mesh(long_call());
        timeout(Duration::from_secs(1), call).await.expect_err("it waits, and is dropped");
        sleep(SLACK).await;
        short_call().await.expect("the place is free");
    });
}

#[test]
fn a_call_whose_caller_vanished_frees_its_place_when_the_connection_is_given_up() {
    let mut network = VirtualNetwork::new(4, ONE_PLACE);
    // A process that ends would take its connections with it; this one stays, out of reach.
    network.sim.client("lost", async {
        let answer = client().initialize_mesh(long_call()).await;
        Err(format!("it is cut off before any answer: {answer:?}").into())
    });
    network.pass(Duration::from_secs(1));
    perform(&mut network, "early", async {
        let status = short_call().await.expect_err("the only place is taken");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    });
    network.sim.partition("lost", COORDINATOR);
    network.pass(KEEP_ALIVE + SLACK);
    perform(&mut network, "late", async { short_call().await.expect("the place is free") });
}

#[test]
fn a_reader_that_reads_nothing_is_ended_and_told_where_to_resume() {
    let mut network = VirtualNetwork::new(5, "");
    network.node("backend-dev");
    perform(&mut network, "caller", async {
        let interval = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
        let request = StreamHealthRequest { interval, ..Default::default() };
        let mut slow = client().stream_health(request).await.expect("open").into_inner();
        let mut reader = client().stream_health(request).await.expect("open").into_inner();
        let begin = Instant::now();
        let mut revision = 0;
        while begin.elapsed() < Duration::from_secs(300) {
            let next = timeout(Duration::from_secs(1), reader.message()).await.expect("told in time");
            revision = next.expect("no error").expect("open").health.expect("a report").revision;
        }
        let end = loop {
            match slow.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Aborted, "{end:?}");
        let info = end.get_details_error_info().expect("details");
        assert_eq!(info.reason, "SLOW_CONSUMER");
        let resume: u64 = info.metadata["after_revision"].parse().expect("a number");
        assert!(resume <= revision, "{resume} of {revision}");
    });
}
