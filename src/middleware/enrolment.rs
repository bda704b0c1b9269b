//! Authentication of node processes: an enrolment secret with every call, also on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::Request;
use tonic::body::Body;
use tower::{Layer, Service};

use super::peer::Peer;
use super::{CallFuture, bearer_token, refusal};
use crate::status::ApiError;
use crate::types::NodeId;

/// What a secret proved, in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The only node that the secret may speak for; `None` if it is shared by all.
    pub node: Option<NodeId>,
}

/// Knows the enrolment secrets. Implementations compare in constant time.
pub trait Enrolment: Send + Sync + 'static {
    /// What `secret` proves; `None` if it is not known, no longer valid or used up.
    fn check(&self, secret: &str) -> Option<Enrolled>;
}

/// Lets only calls with a valid enrolment secret (`authorization: Bearer <secret>`) through.
#[derive(Clone)]
pub struct EnrolmentLayer {
    enrolment: Arc<dyn Enrolment>,
    refused: Arc<AtomicU64>,
}

impl EnrolmentLayer {
    /// Asks `enrolment` about every call.
    pub fn new(enrolment: Arc<dyn Enrolment>) -> Self {
        Self { enrolment, refused: Arc::default() }
    }
}

impl<S> Layer<S> for EnrolmentLayer {
    type Service = Enrolling<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Enrolling { inner, enrolment: Arc::clone(&self.enrolment), refused: Arc::clone(&self.refused) }
    }
}

/// The service of [`EnrolmentLayer`].
#[derive(Clone)]
pub struct Enrolling<S> {
    inner: S,
    enrolment: Arc<dyn Enrolment>,
    refused: Arc<AtomicU64>,
}

impl<S, B> Service<Request<B>> for Enrolling<S>
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
        let enrolled = bearer_token(request.headers()).and_then(|secret| self.enrolment.check(secret));
        let Some(enrolled) = enrolled else {
            let addr = request.extensions().get::<Peer>().and_then(|peer| peer.addr);
            let error = ApiError::Unauthenticated(
                "the enrolment secret is missing or not valid; start the node with its secret",
            );
            let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(?addr, reason = error.reason(), count, "a call of a node was refused: {error}");
            return Box::pin(std::future::ready(Ok(refusal(error))));
        };
        request.extensions_mut().insert(enrolled);
        Box::pin(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, head_status, request};
    use super::*;
    use tower::ServiceExt as _;

    struct One;

    impl Enrolment for One {
        fn check(&self, secret: &str) -> Option<Enrolled> {
            (secret == "once").then(|| Enrolled { node: NodeId::new("backend-dev").ok() })
        }
    }

    #[tokio::test]
    async fn only_a_valid_secret_gets_through_and_says_for_whom() {
        let service = EnrolmentLayer::new(Arc::new(One)).layer(tower::service_fn(
            |request: Request<Body>| async move {
                let enrolled = request.extensions().get::<Enrolled>().expect("extension");
                assert_eq!(enrolled.node.as_ref().expect("bound").as_str(), "backend-dev");
                Ok::<_, std::convert::Infallible>(answer())
            },
        ));
        for (header, code) in [
            (Some("Bearer once"), tonic::Code::Ok),
            (Some("Bearer twice"), tonic::Code::Unauthenticated),
            (None, tonic::Code::Unauthenticated),
        ] {
            let mut call = request("/lintmesh.peer.v1.NodeService/Session");
            if let Some(header) = header {
                call.headers_mut().insert("authorization", header.parse().expect("header"));
            }
            let response = service.clone().oneshot(call).await.expect("infallible");
            assert_eq!(head_status(&response).code(), code, "{header:?}");
        }
    }
}
