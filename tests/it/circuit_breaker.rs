//! A peer that fails is left alone until it may have recovered; callers are told when.

use std::sync::Arc;
use std::time::Duration;

use lintmesh::coordinator::breaker::{BreakerSettings, State, TripReason};
use lintmesh::middleware::breaker::PeerBreaker;
use lintmesh::node::outbound::{OutboundSettings, guard};
use lintmesh::server::stack::{self, InboundLimits};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_types::StatusExt as _;

use crate::rig::{Caller, Server, fixed_bits, open_gate, options, request, routes};

pub(crate) fn breaker() -> Arc<PeerBreaker> {
    PeerBreaker::new("node `a`", BreakerSettings::default(), Arc::new(|| 0.0))
}

#[tokio::test]
async fn an_unreachable_peer_opens_it_and_open_means_unavailable_with_retry_info() {
    // A port that was free a moment ago and that nobody listens on.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = unused.local_addr().expect("bound");
    drop(unused);
    let breaker = breaker();
    let channel = Endpoint::from_shared(format!("http://{addr}")).expect("a valid address").connect_lazy();
    let mut caller = Caller::new(guard(channel, Arc::clone(&breaker), OutboundSettings::default()));
    for _ in 0..5 {
        assert_eq!(breaker.state(), State::Closed);
        let status = caller.unary("GetRun", request()).await.expect_err("nobody listens");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_error_details().error_info().is_none(), "the connection's own error");
    }
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(breaker.trip_reason(), Some(TripReason::ConsecutiveFailures));

    let status = caller.unary("GetRun", request()).await.expect_err("open");
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("info").reason, "CIRCUIT_OPEN");
    let delay = details.retry_info().expect("retry info").retry_delay.expect("a delay");
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(60), "{delay:?}");
}

#[tokio::test]
async fn a_new_incarnation_is_probed_and_closes_it() {
    let inbound = stack::api(routes(&open_gate()), Vec::new(), InboundLimits::default(), fixed_bits());
    let server = Server::start(inbound, options()).await;
    let breaker = breaker();
    let mut caller =
        Caller::new(guard(server.channel().await, Arc::clone(&breaker), OutboundSettings::default()));
    breaker.trip(TripReason::DeclaredFailed);
    assert_eq!(caller.unary("GetRun", request()).await.expect_err("open").code(), Code::Unavailable);
    breaker.half_open_now();
    caller.unary("GetRun", request()).await.expect("the probe gets through");
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn errors_that_the_caller_made_do_not_open_it() {
    let inbound = stack::api(routes(&open_gate()), Vec::new(), InboundLimits::default(), fixed_bits());
    let server = Server::start(inbound, options()).await;
    let breaker = breaker();
    let mut caller =
        Caller::new(guard(server.channel().await, Arc::clone(&breaker), OutboundSettings::default()));
    for _ in 0..25 {
        let unknown = tonic::Request::new(tonic_health::pb::HealthCheckRequest { service: "nobody".into() });
        assert_eq!(caller.unary("GetRun", unknown).await.expect_err("unknown").code(), Code::NotFound);
    }
    assert_eq!(breaker.state(), State::Closed);
}
