//! Request ids: every call has one, in its span, its extensions and its response's headers.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request};
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::CallFuture;

/// The header, or gRPC metadata key, that carries the id both ways.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

const LONGEST: usize = 64;

/// Identifies one call in logs and answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Takes an id from outside if it is 1 to 64 letters, digits, `.`, `_` or `-`: it goes into logs and
    /// headers, so nothing else is let through.
    pub fn from_caller(text: &str) -> Option<Self> {
        let sane = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        ((1..=LONGEST).contains(&text.len()) && text.bytes().all(sane)).then(|| Self(text.into()))
    }

    /// Makes an id from 128 random bits.
    pub fn from_bits(bits: u128) -> Self {
        Self(format!("{bits:032x}").into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A source of 128 random bits.
pub type RandomBits = Arc<dyn Fn() -> u128 + Send + Sync>;

/// Gives every call a [`RequestId`] and a tracing span.
#[derive(Clone)]
pub struct RequestIdLayer {
    random: RandomBits,
}

impl RequestIdLayer {
    /// `random` makes the ids of callers that bring none.
    pub fn new(random: RandomBits) -> Self {
        Self { random }
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = WithRequestId<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithRequestId { inner, random: Arc::clone(&self.random) }
    }
}

/// The service of [`RequestIdLayer`].
#[derive(Clone)]
pub struct WithRequestId<S> {
    inner: S,
    random: RandomBits,
}

impl<S, B> Service<Request<B>> for WithRequestId<S>
where
    S: Service<Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = CallFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let given = request.headers().get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
        let id =
            given.and_then(RequestId::from_caller).unwrap_or_else(|| RequestId::from_bits((self.random)()));
        let span = tracing::info_span!("call", method = request.uri().path(), request_id = id.as_str());
        request.extensions_mut().insert(id.clone());
        let call = {
            let _entered = span.enter();
            self.inner.call(request)
        };
        Box::pin(
            async move {
                let mut response = call.await?;
                if let Ok(value) = HeaderValue::from_str(id.as_str()) {
                    response.headers_mut().insert(REQUEST_ID_HEADER, value);
                }
                Ok(response)
            }
            .instrument(span),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, request};
    use super::*;
    use tower::ServiceExt as _;

    async fn id_of(request: Request<Body>) -> (String, String) {
        let service = RequestIdLayer::new(Arc::new(|| 0xabc)).layer(tower::service_fn(
            |request: Request<Body>| async move {
                let mut response = answer();
                let id = request.extensions().get::<RequestId>().expect("extension").clone();
                response.headers_mut().insert("seen", id.as_str().parse().expect("header"));
                Ok::<_, std::convert::Infallible>(response)
            },
        ));
        let response = service.oneshot(request).await.expect("infallible");
        let text = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        (text(REQUEST_ID_HEADER), text("seen"))
    }

    #[tokio::test]
    async fn a_sane_id_of_the_caller_is_kept_and_echoed() {
        let mut call = request("/x.Y/Get");
        call.headers_mut().insert(REQUEST_ID_HEADER, HeaderValue::from_static("job-7.a_B"));
        assert_eq!(id_of(call).await, ("job-7.a_B".into(), "job-7.a_B".into()));
    }

    #[tokio::test]
    async fn otherwise_one_is_made() {
        let made = format!("{:032x}", 0xabc);
        assert_eq!(id_of(request("/x.Y/Get")).await.0, made);
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            let mut call = request("/x.Y/Get");
            call.headers_mut().insert(REQUEST_ID_HEADER, bad.parse().expect("header"));
            assert_eq!(id_of(call).await.1, made, "{bad}");
        }
    }
}
