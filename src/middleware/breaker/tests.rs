use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use http_body_util::BodyExt as _;
use tonic_types::StatusExt as _;
use tower::util::BoxCloneService;

use super::super::outbound_deadline::OutboundDeadlineLayer;
use super::super::testing::{data, head_status, request, streaming_answer, trailer_status, trailers};
use super::*;

const PATH: &str = "/lintmesh.peer.v1.X/Call";

type Client = BoxCloneService<Request<Body>, http::Response<Body>, tower::BoxError>;

fn breaker() -> Arc<PeerBreaker> {
    PeerBreaker::new("node `a`", BreakerSettings::default(), Arc::new(|| 0.0))
}

/// A client whose peer answers every call with `code` in the head; counts the calls.
fn answering(breaker: &Arc<PeerBreaker>, code: Code) -> (Client, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let service = tower::service_fn(move |_: Request<Body>| {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, Infallible>(Status::new(code, "").into_http()))
    });
    (BoxCloneService::new(BreakerLayer::new(Arc::clone(breaker)).layer(service)), calls)
}

/// A client whose peer never answers.
fn silent(breaker: &Arc<PeerBreaker>) -> Client {
    let service = tower::service_fn(|_: Request<Body>| {
        std::future::pending::<Result<http::Response<Body>, Infallible>>()
    });
    BoxCloneService::new(BreakerLayer::new(Arc::clone(breaker)).layer(service))
}

async fn fail_times(breaker: &Arc<PeerBreaker>, times: u32) {
    let (client, _) = answering(breaker, Code::Unavailable);
    for _ in 0..times {
        client.clone().oneshot(request(PATH)).await.expect("an answer");
    }
}

#[tokio::test(start_paused = true)]
async fn open_answers_unavailable_with_the_time_to_the_next_probe_and_calls_nobody() {
    let breaker = breaker();
    fail_times(&breaker, 5).await;
    assert_eq!(breaker.state(), State::Open);
    tokio::time::advance(Duration::from_secs(20)).await;

    let (client, calls) = answering(&breaker, Code::Ok);
    let status = head_status(&client.clone().oneshot(request(PATH)).await.expect("an answer"));
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("info").reason, "CIRCUIT_OPEN");
    assert_eq!(details.retry_info().expect("retry").retry_delay, Some(Duration::from_secs(40)));
    assert_eq!(calls.load(Ordering::Relaxed), 0);

    client.clone().oneshot(request("/grpc.health.v1.Health/Check")).await.expect("an answer");
    assert_eq!(calls.load(Ordering::Relaxed), 1, "health checks pass by");

    tokio::time::advance(Duration::from_secs(40)).await;
    assert_eq!(head_status(&client.oneshot(request(PATH)).await.expect("probe")).code(), Code::Ok);
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn open_answers_though_the_connection_is_not_ready() {
    let breaker = breaker();
    breaker.trip(TripReason::DeclaredFailed);
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, http::Response<Body>>();
    handle.allow(0);
    let gated = BreakerLayer::new(breaker).layer(service);
    let response = gated.oneshot(request(PATH)).await.expect("an answer");
    assert_eq!(head_status(&response).code(), Code::Unavailable);
}

#[tokio::test]
async fn errors_of_the_caller_never_open_it() {
    let breaker = breaker();
    for code in [Code::InvalidArgument, Code::NotFound, Code::Unauthenticated, Code::Cancelled] {
        let (client, _) = answering(&breaker, code);
        for _ in 0..30 {
            client.clone().oneshot(request(PATH)).await.expect("an answer");
        }
    }
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn failures_in_trailers_and_broken_bodies_count() {
    let breaker = breaker();
    for end in [Some(trailers(Code::Internal)), None, Some(trailers(Code::DataLoss)), None, None] {
        let (sender, response) = streaming_answer();
        sender.send(data()).expect("open");
        if let Some(end) = end {
            sender.send(end).expect("open");
        }
        drop(sender);
        let mut response = Some(response);
        let service = tower_test::mock::pair::<Request<Body>, http::Response<Body>>();
        let (inner, mut handle) = service;
        let call = tokio::spawn(BreakerLayer::new(Arc::clone(&breaker)).layer(inner).oneshot(request(PATH)));
        let (_, reply) = handle.next_request().await.expect("the call");
        reply.send_response(response.take().expect("once"));
        assert_eq!(breaker.state(), State::Closed);
        let _ = trailer_status(call.await.expect("task").expect("a head")).await;
    }
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_frees_its_slot() {
    let breaker = breaker();
    fail_times(&breaker, 5).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    let probe = silent(&breaker).oneshot(request(PATH));
    let probe = tokio::spawn(probe);
    tokio::task::yield_now().await;

    let (client, calls) = answering(&breaker, Code::Ok);
    let second = client.clone().oneshot(request(PATH)).await.expect("an answer");
    assert_eq!(head_status(&second).code(), Code::Unavailable, "one probe at a time");
    probe.abort();
    assert!(probe.await.expect_err("aborted").is_cancelled());
    client.oneshot(request(PATH)).await.expect("an answer");
    assert_eq!((calls.load(Ordering::Relaxed), breaker.state()), (1, State::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_a_stream_closes_it_with_the_first_message() {
    let breaker = breaker();
    breaker.trip(TripReason::DeclaredFailed);
    breaker.half_open_now();
    let (sender, response) = streaming_answer();
    let (inner, mut handle) = tower_test::mock::pair::<Request<Body>, http::Response<Body>>();
    let call = tokio::spawn(BreakerLayer::new(Arc::clone(&breaker)).layer(inner).oneshot(request(PATH)));
    let (_, reply) = handle.next_request().await.expect("the call");
    reply.send_response(response);
    let mut body = call.await.expect("task").expect("a head").into_body();
    assert_eq!(breaker.state(), State::HalfOpen);
    sender.send(data()).expect("open");
    body.frame().await.expect("a frame").expect("data");
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn our_own_deadline_counts_and_the_callers_does_not() {
    let breaker = breaker();
    let client = OutboundDeadlineLayer::new(Duration::from_secs(10), None).layer(silent(&breaker));
    for _ in 0..30 {
        let mut hurried = request(PATH);
        hurried.headers_mut().insert("grpc-timeout", "1S".parse().expect("header"));
        let status = head_status(&client.clone().oneshot(hurried).await.expect("an answer"));
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    assert_eq!(breaker.state(), State::Closed);
    for _ in 0..5 {
        client.clone().oneshot(request(PATH)).await.expect("an answer");
    }
    assert_eq!(breaker.state(), State::Open);
}
