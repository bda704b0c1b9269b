//! Authentication of node processes: an enrolment secret with every call, also on loopback.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::Request;
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service};

use super::peer::Peer;
use super::refusals::Reasons;
use super::token_bucket::{Rate, TokenBucket};
use super::{CallFuture, bearer_token, refusal};
use crate::status::ApiError;
use crate::types::NodeId;

/// Refusals that are warned of: anybody who reaches the port can cause them, and none may fill the disk with them. Each
/// warning has the count of all.
const WARNINGS: Rate = Rate { burst: 10, per_second: 1 };

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
    refused: Reasons,
    warnings: Arc<Mutex<TokenBucket>>,
}

impl EnrolmentLayer {
    /// Asks `enrolment` about every call, and counts in `refused` those that are not let through.
    pub fn new(enrolment: Arc<dyn Enrolment>, refused: Reasons) -> Self {
        let warnings = Arc::new(Mutex::new(TokenBucket::new(WARNINGS, Instant::now())));
        Self { enrolment, refused, warnings }
    }

    fn refuse(&self, peer: Option<&Peer>) -> http::Response<Body> {
        let addr = peer.and_then(|peer| peer.addr);
        let error = ApiError::Unauthenticated(
            "the enrolment secret is missing or not valid; start the node with its secret",
        );
        let count = self.refused.count(error.reason());
        if self.warnings.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            tracing::warn!(?addr, reason = error.reason(), count, "a call of a node was refused: {error}");
        }
        refusal(error)
    }
}

impl<S> Layer<S> for EnrolmentLayer {
    type Service = Enrolling<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Enrolling { inner, shared: self.clone() }
    }
}

/// The service of [`EnrolmentLayer`].
#[derive(Clone)]
pub struct Enrolling<S> {
    inner: S,
    shared: EnrolmentLayer,
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
        let secret = bearer_token(request.headers());
        let Some(enrolled) = secret.and_then(|secret| self.shared.enrolment.check(secret)) else {
            let refusal = self.shared.refuse(request.extensions().get::<Peer>());
            return Box::pin(std::future::ready(Ok(refusal)));
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
        let refused = Reasons::default();
        let layer = EnrolmentLayer::new(Arc::new(One), refused.clone());
        let service = layer.layer(tower::service_fn(|request: Request<Body>| async move {
            let enrolled = request.extensions().get::<Enrolled>().expect("extension");
            assert_eq!(enrolled.node.as_ref().expect("bound").as_str(), "backend-dev");
            Ok::<_, std::convert::Infallible>(answer())
        }));
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
        assert_eq!(refused.counts(), [("CREDENTIALS_REFUSED", 2)].into());
    }
}
