//! A server that has enough to do says so at once, and does what it began.

use std::sync::Arc;

use lintmesh::server::stack::{self, InboundLimits};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::rig::{Caller, Server, fixed_bits, open_gate, options, request, routes};

fn assert_exhausted(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("info").reason, "LIMIT_REACHED");
    assert!(details.retry_info().expect("retry info").retry_delay.is_some());
}

#[tokio::test]
async fn requests_beyond_the_limit_are_shed_over_all_connections() {
    let gate = Arc::new(Semaphore::new(0));
    let limits = InboundLimits { requests_in_flight: 2, ..InboundLimits::default() };
    let server = Server::start(stack::api(routes(&gate), Vec::new(), limits, fixed_bits()), options()).await;
    // Three connections, so that no limit of one connection can be what refuses.
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut caller = Caller::new(server.channel().await);
        calls.spawn(async move { caller.unary("GetRun", request()).await });
    }
    let shed = calls.join_next().await.expect("three").expect("no panic").expect_err("the third");
    assert_exhausted(&shed);

    let mut probe = HealthClient::new(server.channel().await);
    probe.check(request()).await.expect("a busy server is alive");

    gate.add_permits(2);
    while let Some(answered) = calls.join_next().await {
        answered.expect("no panic").expect("what was begun is done");
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_a_closed_one_makes_room() {
    let limits = InboundLimits { streams_per_caller: 2, ..InboundLimits::default() };
    let inbound = stack::api(routes(&open_gate()), Vec::new(), limits, fixed_bits());
    let server = Server::start(inbound, options()).await;
    let mut caller = Caller::new(server.channel().await);
    let first = caller.stream(request()).await.expect("open");
    let mut watch = HealthClient::new(server.channel().await);
    let second = watch.watch(request()).await.expect("health.Watch counts too");
    assert_exhausted(&caller.stream(request()).await.expect_err("a third"));
    assert_exhausted(&watch.watch(request()).await.expect_err("a third"));
    caller.unary("GetRun", request()).await.expect("unary calls are not streams");

    drop(first);
    // The server learns of it from the client's reset; its own answer comes after that one.
    let third = loop {
        match caller.stream(request()).await {
            Ok(stream) => break stream,
            Err(status) => assert_exhausted(&status),
        }
    };
    drop((second, third));
}
