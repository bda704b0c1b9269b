//! Deadlines of outbound calls: every call this process makes has one.

use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service};

use super::deadline::{Deadline, enforce};
use super::method::is_streaming;
use super::{CallFuture, grpc_timeout, refusal};
use crate::status::ApiError;

/// Bounds every outbound call, tells the peer by `grpc-timeout`, and answers DEADLINE_EXCEEDED.
#[derive(Debug, Clone, Copy)]
pub struct OutboundDeadlineLayer {
    unary: Duration,
    stream: Option<Duration>,
}

impl OutboundDeadlineLayer {
    /// The most that unary calls and streams may take; `None` lets streams run for as long as they live,
    /// for sessions whose liveness is told by heartbeats.
    pub fn new(unary: Duration, stream: Option<Duration>) -> Self {
        Self { unary, stream }
    }
}

impl<S> Layer<S> for OutboundDeadlineLayer {
    type Service = OutboundDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OutboundDeadline { inner, settings: *self }
    }
}

/// The service of [`OutboundDeadlineLayer`].
#[derive(Debug, Clone)]
pub struct OutboundDeadline<S> {
    inner: S,
    settings: OutboundDeadlineLayer,
}

impl<S, B> Service<Request<B>> for OutboundDeadline<S>
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let limit =
            if is_streaming(request.uri().path()) { self.settings.stream } else { Some(self.settings.unary) };
        let Ok(wish) = grpc_timeout::read(request.headers()) else {
            let error =
                ApiError::invalid(grpc_timeout::HEADER, "must be 1 to 8 digits and one of H M S m u n");
            return Box::pin(std::future::ready(Ok(refusal(error))));
        };
        let Some(deadline) = Deadline::tightest(Instant::now(), wish, limit) else {
            return Box::pin(self.inner.call(request));
        };
        grpc_timeout::write(request.headers_mut(), deadline.allowed);
        request.extensions_mut().insert(deadline);
        Box::pin(enforce(self.inner.call(request), deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{head_status, request};
    use super::*;
    use tower_test::mock;

    #[tokio::test(start_paused = true)]
    async fn the_peer_is_told_and_the_call_is_bounded() {
        let layer = OutboundDeadlineLayer::new(Duration::from_secs(5), None);
        let (mut service, mut handle) = mock::spawn_layer(layer);
        handle.allow(2);
        assert!(service.poll_ready().is_ready());
        let call = tokio::spawn(service.call(request("/lintmesh.peer.v1.X/Unary")));
        let (inner, _reply) = handle.next_request().await.expect("the call");
        assert_eq!(inner.headers()[grpc_timeout::HEADER], "5000000u");
        assert!(!inner.extensions().get::<Deadline>().expect("extension").by_caller);
        let response = call.await.expect("task").expect("an answer");
        assert_eq!(head_status(&response).code(), tonic::Code::DeadlineExceeded);

        assert!(service.poll_ready().is_ready());
        let session = service.call(request("/lintmesh.peer.v1.NodeService/Session"));
        let (inner, _reply) = handle.next_request().await.expect("the session");
        assert!(inner.headers().get(grpc_timeout::HEADER).is_none(), "a session has no end");
        drop(session);
    }
}
