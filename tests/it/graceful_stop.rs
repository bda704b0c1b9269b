//! SIGTERM ends the service in order and within a bound: probes first, then clients, then everything.

use std::time::Duration;

use lintmesh::proto::v1::*;
use nix::sys::signal::Signal;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::probes::get;
use super::support::calls::*;
use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, channel, processes_in, until};

/// What the server gives open runs, then open connections; its nodes have two seconds of their own.
const GRACE: &str = "[server]\ndrain_timeout = 1\nshutdown_grace = 1\n";
/// Nobody remembers its runs.
const FORGETFUL: &str = "[state]\nstore = \"memory\"\n";
/// Both together, and room for a busy machine.
const BOUND: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sigterm_ends_what_does_not_end_with_a_reason_and_leaves_no_process() {
    let ruff = GatedRuff::new();
    let mut serve = Serve::start(&format!("{}{GRACE}{FORGETFUL}", ruff.settings())).await;
    let mut client = serve.coordinator();
    let run = client.coordinate(request(inline(&[("a.py", "")]), &["ruff"])).await.expect("accepted");
    let run = run.into_inner();
    let hourly = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let asked = StreamHealthRequest { interval: hourly, ..Default::default() };
    let mut health = client.stream_health(asked).await.expect("open").into_inner();
    let readiness = HealthCheckRequest { service: "readiness".into() };
    let mut probe =
        HealthClient::new(channel(serve.admin)).watch(readiness).await.expect("open").into_inner();
    assert_eq!(probe.message().await.expect("alive").expect("at once").status(), ServingStatus::Serving);
    // Somebody connected and never says a word, on each listener.
    let mut silent = Vec::new();
    for address in [serve.api, serve.admin, serve.node_listener] {
        silent.push(tokio::net::TcpStream::connect(address).await.expect("it listens"));
    }
    until("ruff runs", || ruff.running() == 2).await;
    assert!(serve.processes().len() > 5, "server, nodes, linters: {:?}", serve.processes());

    let begun = Instant::now();
    serve.signal(Signal::SIGTERM);
    let mut told = Vec::new();
    let watched = async {
        while let Ok(Some(status)) = probe.message().await {
            told.push(status.status())
        }
    };
    tokio::time::timeout(DEADLINE, watched).await.expect("the probe's stream ends with its connection");
    assert_eq!(told, [ServingStatus::NotServing], "once and for good, whatever nodes are still there");
    let events = tokio::time::timeout(DEADLINE, coordinated(run)).await.expect("told");
    let cancelled = finished(&events);
    assert_eq!(cancelled.outcome(), Outcome::Cancelled);
    assert!(cancelled.detail.starts_with("the server stops; "), "{}", cancelled.detail);
    let ended = async { while let Ok(Some(_)) = health.message().await {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("told");

    let status = serve.ended().await;
    assert!(status.success(), "SIGTERM is an order, not a failure: {status}");
    assert!(begun.elapsed() < BOUND, "took {:?}", begun.elapsed());
    until("no process is left", || serve.processes().is_empty() && ruff.running() == 0).await;
    let left = std::fs::read_dir(serve.dir.path().join("tmp")).expect("there").count();
    assert_eq!(left, 0, "its temporary files are gone");
}

#[tokio::test]
async fn sigterm_lets_open_runs_end_and_takes_no_new_ones() {
    let ruff = GatedRuff::new();
    // Longer than the test waits: only the run's own end can end the server.
    let mut serve = Serve::start(&format!("{}[server]\ndrain_timeout = 3600\n", ruff.settings())).await;
    let mut client = serve.coordinator();
    let run = client.coordinate(request(inline(&[("a.py", "")]), &["ruff"])).await.expect("accepted");
    until("ruff runs", || ruff.running() == 2).await;
    let readiness = HealthCheckRequest { service: "readiness".into() };
    let mut probe =
        HealthClient::new(channel(serve.admin)).watch(readiness).await.expect("open").into_inner();
    assert_eq!(probe.message().await.expect("alive").expect("at once").status(), ServingStatus::Serving);
    assert_eq!(get(serve.admin, "/readyz").await.0, 200);
    serve.signal(Signal::SIGTERM);
    assert_eq!(probe.message().await.expect("alive").expect("told").status(), ServingStatus::NotServing);
    assert_eq!(get(serve.admin, "/readyz").await, (503, "not ready: the server stops\n".into()));
    assert_eq!(get(serve.admin, "/livez").await.0, 200, "it has runs to end");
    let refused = client.coordinate(request(inline(&[("b.py", "")]), &["ruff"])).await.expect_err("too late");
    assert_error(&refused, Code::Unavailable, "SERVER_STOPPING");
    assert!(refused.get_error_details().retry_info().is_some_and(|info| info.retry_delay.is_some()));
    assert_eq!(ruff.running(), 2, "what runs goes on");
    ruff.open();
    let events = tokio::time::timeout(DEADLINE, coordinated(run.into_inner())).await.expect("ends");
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    assert!(serve.ended().await.success());
}

#[tokio::test]
async fn an_idle_server_ends_at_once_and_frees_its_ports() {
    let mut serve = Serve::start("").await;
    let begun = Instant::now();
    serve.signal(Signal::SIGINT);
    assert!(serve.ended().await.success());
    // Far below the default grace of ten seconds: nothing was open.
    assert!(begun.elapsed() < Duration::from_secs(8), "took {:?}", begun.elapsed());
    for address in [serve.api, serve.admin, serve.node_listener] {
        std::net::TcpListener::bind(address).expect("the port is free");
    }
    until("no process is left", || serve.processes().is_empty()).await;
}

#[tokio::test]
async fn an_open_watch_does_not_hold_up_the_end() {
    // Longer than the test waits: ending by the grace would fail it.
    let mut serve = Serve::start("[server]\nshutdown_grace = 3600\n").await;
    let mut watches = Vec::new();
    for address in [serve.api, serve.admin] {
        let asked = HealthCheckRequest { service: "liveness".into() };
        let mut watch = HealthClient::new(channel(address)).watch(asked).await.expect("open").into_inner();
        watch.message().await.expect("alive").expect("at once");
        watches.push(watch);
    }
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
}

#[tokio::test]
async fn a_killed_server_takes_nodes_and_linters_along() {
    let ruff = GatedRuff::new();
    let mut serve = Serve::start(&format!("{}[nodes]\norphan_grace = 0\n", ruff.settings())).await;
    started(&mut serve.coordinator(), request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;
    serve.signal(Signal::SIGKILL);
    assert!(!serve.ended().await.success());
    until("no process is left", || processes_in(serve.dir.path()).is_empty() && ruff.running() == 0).await;
}
