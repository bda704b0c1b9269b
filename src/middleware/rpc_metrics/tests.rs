use std::convert::Infallible;

use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::super::testing::{data, request, streaming_answer, trailers};
use super::*;

const STREAM: &str = "lintmesh.v1.X/Watch";

fn counted() -> Arc<RpcMetrics> {
    RpcMetrics::new([STREAM.to_owned()])
}

/// Calls `path` of a service that gives this answer.
async fn call(metrics: &Arc<RpcMetrics>, path: &str, response: http::Response<Body>) -> http::Response<Body> {
    let response = Mutex::new(Some(response));
    let service = tower::service_fn(move |_: Request<Body>| {
        let response = response.lock().expect("not poisoned").take().expect("one call");
        std::future::ready(Ok::<_, Infallible>(response))
    });
    RpcMetricsLayer::new(Arc::clone(metrics)).layer(service).oneshot(request(path)).await.expect("an answer")
}

fn ended(metrics: &RpcMetrics) -> Vec<(String, &'static str, u64)> {
    let ended = metrics.snapshot().ended;
    ended.into_iter().map(|((method, code), of)| (method.to_string(), code, of.count)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_counts_until_its_trailers() {
    let metrics = counted();
    let (sender, answer) = streaming_answer();
    let mut body = call(&metrics, "/lintmesh.v1.X/Watch", answer).await.into_body();
    sender.send(data()).expect("open");
    body.frame().await.expect("a frame").expect("data");
    assert_eq!(metrics.snapshot().open[STREAM], 1);
    assert_eq!(ended(&metrics), []);
    tokio::time::advance(Duration::from_millis(80)).await;
    sender.send(trailers(Code::Aborted)).expect("open");
    body.frame().await.expect("a frame").expect("trailers");
    let snapshot = metrics.snapshot();
    assert_eq!(snapshot.open[STREAM], 0);
    let durations = snapshot.ended[&(Arc::from(STREAM), "ABORTED")];
    assert_eq!((durations.count, durations.sum), (1, 0.08));
    assert_eq!(durations.buckets.iter().position(|count| *count == 1), Some(5), "at most 0.1 s");
    drop(body);
    assert_eq!(ended(&metrics), [(STREAM.to_owned(), "ABORTED", 1)], "once only");
}

#[tokio::test]
async fn refusals_dropped_and_broken_streams_are_told_apart() {
    let metrics = counted();
    call(&metrics, "/lintmesh.v1.X/Watch", tonic::Status::unauthenticated("who").into_http()).await;
    let (_sender, answer) = streaming_answer();
    drop(call(&metrics, "/lintmesh.v1.X/Watch", answer).await);
    let (sender, answer) = streaming_answer();
    drop(sender);
    let _ = call(&metrics, "/lintmesh.v1.X/Watch", answer).await.into_body().collect().await;
    let expected = ["CANCELLED", "UNAUTHENTICATED", "UNKNOWN"].map(|code| (STREAM.to_owned(), code, 1));
    assert_eq!(ended(&metrics), expected);
}

#[tokio::test]
async fn paths_of_strangers_make_one_label() {
    let metrics = counted();
    for number in 0..10 {
        let answer = tonic::Status::unimplemented("no").into_http();
        call(&metrics, &format!("/made.up/Method{number}"), answer).await;
    }
    assert_eq!(ended(&metrics), [("_OTHER".to_owned(), "UNIMPLEMENTED", 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_let_go_before_its_answer_is_cancelled() {
    let metrics = counted();
    let service = tower::service_fn(|_: Request<Body>| {
        std::future::pending::<Result<http::Response<Body>, Infallible>>()
    });
    let mut meter = RpcMetricsLayer::new(Arc::clone(&metrics)).layer(service);
    let answer = meter.ready().await.expect("ready").call(request("/lintmesh.v1.X/Watch"));
    let waited = tokio::time::timeout(Duration::from_secs(20), answer).await;
    assert!(waited.is_err());
    let durations = metrics.snapshot().ended[&(Arc::from(STREAM), "CANCELLED")];
    assert_eq!((durations.count, durations.buckets), (1, [0; 14]), "longer than every bucket");
}
