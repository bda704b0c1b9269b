//! Load shedding: a bound on the unary requests at work in the whole server, over all connections.
//!
//! Streams do not count, in whichever direction: they last as long as their callers like, so a few callers could hold
//! every slot, with uploads that trickle for example. They have a limit of their own for each caller.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service};

use super::method::{is_infrastructure, is_streaming};
use super::{CallFuture, refusal};
use crate::status::ApiError;

/// What a shed caller is told to wait: long enough for unary calls in flight to end.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Refuses unary calls beyond a number at work with RESOURCE_EXHAUSTED, at once. Health checks are let
/// through: a busy server is alive.
#[derive(Clone)]
pub struct LoadShedLayer {
    slots: Arc<Semaphore>,
    limit: usize,
}

impl LoadShedLayer {
    /// At most `limit` unary requests at work; clones share the limit.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(limit)), limit }
    }
}

impl<S> Layer<S> for LoadShedLayer {
    type Service = LoadShed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LoadShed { inner, shared: self.clone() }
    }
}

/// The service of [`LoadShedLayer`].
#[derive(Clone)]
pub struct LoadShed<S> {
    inner: S,
    shared: LoadShedLayer,
}

impl<S, B> Service<Request<B>> for LoadShed<S>
where
    S: Service<Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = CallFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if is_infrastructure(path) || is_streaming(path) {
            return Box::pin(self.inner.call(request));
        }
        match Arc::clone(&self.shared.slots).try_acquire_owned() {
            Ok(slot) => {
                let call = self.inner.call(request);
                Box::pin(async move {
                    let response = call.await;
                    drop(slot);
                    response
                })
            }
            Err(_) => {
                let error = ApiError::ResourceExhausted {
                    what: "requests in flight",
                    limit: self.shared.limit as u64,
                    retry: RETRY_AFTER,
                };
                Box::pin(std::future::ready(Ok(refusal(error))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, head_status, request};
    use super::*;
    use tower_test::mock;

    #[tokio::test]
    async fn calls_beyond_the_limit_are_shed_and_a_finished_call_makes_room() {
        let (mut service, mut handle) = mock::spawn_layer(LoadShedLayer::new(1));
        handle.allow(10);
        assert!(service.poll_ready().is_ready());
        let first = tokio::spawn(service.call(request("/lintmesh.v1.X/GetA")));
        let (_, reply) = handle.next_request().await.expect("the first call");

        assert!(service.poll_ready().is_ready());
        let shed = service.call(request("/lintmesh.v1.X/GetB")).await.expect("an answer, not an error");
        assert_eq!(head_status(&shed).code(), tonic::Code::ResourceExhausted);

        reply.send_response(answer());
        first.await.expect("task").expect("answer");
        assert!(service.poll_ready().is_ready());
        let third = tokio::spawn(service.call(request("/lintmesh.v1.X/GetC")));
        let (_, reply) = handle.next_request().await.expect("room again");
        reply.send_response(answer());
        assert_eq!(head_status(&third.await.expect("task").expect("answer")).code(), tonic::Code::Ok);
    }

    #[tokio::test]
    async fn streams_in_either_direction_hold_no_slot() {
        let (mut service, mut handle) = mock::spawn_layer(LoadShedLayer::new(1));
        handle.allow(10);
        let mut open = Vec::new();
        for path in
            ["/lintmesh.v1.WorkspaceService/UploadBlobs", "/lintmesh.v1.CoordinatorService/Coordinate"]
        {
            assert!(service.poll_ready().is_ready());
            open.push((
                tokio::spawn(service.call(request(path))),
                handle.next_request().await.expect("let through"),
            ));
        }
        assert!(service.poll_ready().is_ready());
        let unary = tokio::spawn(service.call(request("/lintmesh.v1.CoordinatorService/GetRun")));
        let (_, reply) = handle.next_request().await.expect("there is a slot");
        reply.send_response(answer());
        assert_eq!(head_status(&unary.await.expect("task").expect("answer")).code(), tonic::Code::Ok);
    }

    #[tokio::test]
    async fn a_cancelled_call_frees_its_slot_and_health_checks_need_none() {
        let (mut service, mut handle) = mock::spawn_layer(LoadShedLayer::new(1));
        handle.allow(10);
        assert!(service.poll_ready().is_ready());
        let first = service.call(request("/lintmesh.v1.X/GetA"));
        assert!(service.poll_ready().is_ready());
        let probe = tokio::spawn(service.call(request("/grpc.health.v1.Health/Check")));
        let _ = handle.next_request().await.expect("the first call");
        let (_, reply) = handle.next_request().await.expect("the probe");
        reply.send_response(answer());
        probe.await.expect("task").expect("answer");

        drop(first);
        assert!(service.poll_ready().is_ready());
        let next = tokio::spawn(service.call(request("/lintmesh.v1.X/GetB")));
        let (_, reply) = handle.next_request().await.expect("the slot is free");
        reply.send_response(answer());
        next.await.expect("task").expect("answer");
    }
}
