//! A call never outlives its deadline, and the caller is told so by DEADLINE_EXCEEDED.

use std::sync::Arc;
use std::time::Duration;

use lintmesh::middleware::deadline::DeadlineSettings;
use lintmesh::server::stack::{self, InboundLimits};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::rig::{Caller, Server, fixed_bits, open_gate, options, request, routes};

/// Long enough for a stream to begin on a busy machine; every test here waits it out.
const SHORT: Duration = Duration::from_secs(1);

fn deadlines(unary: Duration, stream: Option<Duration>) -> InboundLimits {
    InboundLimits {
        deadlines: DeadlineSettings {
            unary_default: unary,
            stream_default: stream,
            ..DeadlineSettings::default()
        },
        ..InboundLimits::default()
    }
}

#[tokio::test]
async fn a_slow_unary_call_ends_at_the_servers_default() {
    let closed = Arc::new(Semaphore::new(0));
    let inbound = stack::api(routes(&closed), Vec::new(), deadlines(SHORT, None), fixed_bits());
    let server = Server::start(inbound, options()).await;
    let mut caller = Caller::new(server.channel().await);
    let status = caller.unary("GetRun", request()).await.expect_err("too slow");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_stream_that_is_running_ends_at_the_servers_limit() {
    let limits = deadlines(Duration::from_secs(30), Some(SHORT));
    let inbound = stack::api(routes(&open_gate()), Vec::new(), limits, fixed_bits());
    let server = Server::start(inbound, options()).await;
    let mut caller = Caller::new(server.channel().await);
    let mut stream = caller.stream(request()).await.expect("it begins");
    assert!(stream.message().await.expect("the first message").is_some());
    let status = stream.message().await.expect_err("too long");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_callers_own_timeout_covers_the_whole_stream() {
    let inbound = stack::api(routes(&open_gate()), Vec::new(), InboundLimits::default(), fixed_bits());
    let server = Server::start(inbound, options()).await;
    let mut caller = Caller::new(server.channel().await);
    let mut hurried = request();
    hurried.set_timeout(SHORT);
    let mut stream = caller.stream(hurried).await.expect("it begins");
    assert!(stream.message().await.expect("the first message").is_some());
    let status = stream.message().await.expect_err("too long");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_outbound_call_ends_though_the_peer_never_answers() {
    let closed = Arc::new(Semaphore::new(0));
    let inbound = stack::api(routes(&closed), Vec::new(), InboundLimits::default(), fixed_bits());
    let server = Server::start(inbound, options()).await;
    let settings = lintmesh::node::outbound::OutboundSettings {
        unary_deadline: SHORT,
        ..lintmesh::node::outbound::OutboundSettings::default()
    };
    let breaker = crate::circuit_breaker::breaker();
    let mut caller = Caller::new(lintmesh::node::outbound::guard(server.channel().await, breaker, settings));
    let status = caller.unary("GetRun", request()).await.expect_err("never answered");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}
