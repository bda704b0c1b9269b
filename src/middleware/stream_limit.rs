//! A bound on the streams that one caller has open at the same time.
//!
//! A stream counts from its call until its body has ended or is dropped; health checks' `Watch` counts
//! too, since it needs no credentials and lasts as long as the client likes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tonic::body::Body;
use tower::{Layer, Service};

use super::auth::Identity;
use super::body::GuardedBody;
use super::method::is_streaming;
use super::peer::Peer;
use super::{CallFuture, refusal};
use crate::status::ApiError;

/// Streams end when their work does; asking more often than this would only cost.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Whose calls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// Whoever has the token of this name.
    Token(Arc<str>),
    /// Whoever calls from there without a token.
    Address(IpAddr),
    /// Whoever calls without either.
    Unknown,
}

impl Caller {
    /// Who made a call, as its extensions tell.
    pub fn of(extensions: &http::Extensions) -> Self {
        let identity = extensions.get::<Identity>().filter(|identity| identity.authenticated);
        if let Some(identity) = identity {
            return Caller::Token(Arc::clone(&identity.name));
        }
        let addr = extensions.get::<Peer>().and_then(|peer| peer.addr);
        addr.map_or(Caller::Unknown, |addr| Caller::Address(addr.ip()))
    }
}

#[derive(Debug, Default)]
struct OpenStreams(Mutex<HashMap<Caller, usize>>);

impl OpenStreams {
    fn open(self: &Arc<Self>, caller: Caller, limit: usize) -> Option<StreamGuard> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = counts.get(&caller).copied().unwrap_or(0);
        if open >= limit {
            return None;
        }
        counts.insert(caller.clone(), open + 1);
        Some(StreamGuard { streams: Arc::clone(self), caller })
    }
}

/// One open stream.
struct StreamGuard {
    streams: Arc<OpenStreams>,
    caller: Caller,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = counts.get_mut(&self.caller) {
            *open -= 1;
            // Callers come and go; only those with open streams are remembered.
            if *open == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

/// Refuses streams beyond a number per token, or per remote address for callers without one, with
/// RESOURCE_EXHAUSTED.
#[derive(Clone)]
pub struct StreamLimitLayer {
    streams: Arc<OpenStreams>,
    limit: usize,
}

impl StreamLimitLayer {
    /// At most `limit` open streams per caller; clones share the count.
    pub fn new(limit: usize) -> Self {
        Self { streams: Arc::default(), limit }
    }
}

impl<S> Layer<S> for StreamLimitLayer {
    type Service = StreamLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        StreamLimit { inner, shared: self.clone() }
    }
}

/// The service of [`StreamLimitLayer`].
#[derive(Clone)]
pub struct StreamLimit<S> {
    inner: S,
    shared: StreamLimitLayer,
}

impl<S, B> Service<Request<B>> for StreamLimit<S>
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
        if !is_streaming(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let Some(guard) = self.shared.streams.open(Caller::of(request.extensions()), self.shared.limit)
        else {
            let error = ApiError::ResourceExhausted {
                what: "open streams of this caller",
                limit: self.shared.limit as u64,
                retry: RETRY_AFTER,
            };
            return Box::pin(std::future::ready(Ok(refusal(error))));
        };
        let call = self.inner.call(request);
        Box::pin(async move { Ok(GuardedBody::wrap(call.await?, guard)) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::auth::Role;
    use super::super::testing::{head_status, request, streaming_answer, trailer_status, trailers};
    use super::*;
    use tonic::Code;
    use tower::ServiceExt as _;
    use tower::util::BoxCloneService;

    const WATCH: &str = "/grpc.health.v1.Health/Watch";

    type Calls = BoxCloneService<Request<Body>, http::Response<Body>, std::convert::Infallible>;

    /// A service whose streams end when the sender that it hands out says so.
    fn limited(
        limit: usize,
    ) -> (Calls, tokio::sync::mpsc::UnboundedReceiver<super::super::testing::FrameSender>) {
        let (senders, opened) = tokio::sync::mpsc::unbounded_channel();
        let service = StreamLimitLayer::new(limit).layer(tower::service_fn(move |_: Request<Body>| {
            let (sender, response) = streaming_answer();
            senders.send(sender).expect("the test listens");
            std::future::ready(Ok(response))
        }));
        (BoxCloneService::new(service), opened)
    }

    fn by(name: &str) -> Request<Body> {
        let mut call = request(WATCH);
        let identity = Identity { name: name.into(), role: Role::Reader, authenticated: true };
        call.extensions_mut().insert(identity);
        call
    }

    #[tokio::test]
    async fn a_stream_counts_until_its_body_ends_or_is_dropped() {
        let (service, mut opened) = limited(2);
        let first = service.clone().oneshot(by("ci")).await.expect("open");
        let second = service.clone().oneshot(by("ci")).await.expect("open");
        let refused = service.clone().oneshot(by("ci")).await.expect("an answer");
        assert_eq!(head_status(&refused).code(), Code::ResourceExhausted);

        drop(second);
        let third = service.clone().oneshot(by("ci")).await.expect("open");
        opened.recv().await.expect("first").send(trailers(Code::Ok)).expect("open");
        assert_eq!(trailer_status(first).await.expect("trailers").code(), Code::Ok);
        let fourth = service.clone().oneshot(by("ci")).await.expect("open");
        assert!(fourth.headers().get("grpc-status").is_none(), "the ended stream made room");
        drop((third, fourth));
    }

    #[tokio::test]
    async fn callers_do_not_count_for_each_other() {
        let (service, _opened) = limited(1);
        let mut from_address = request(WATCH);
        from_address.extensions_mut().insert(Peer { addr: "10.0.0.1:9".parse().ok(), tls: None });
        let mut held = Vec::new();
        for call in [by("a"), by("b"), from_address, request(WATCH)] {
            let response = service.clone().oneshot(call).await.expect("open");
            assert!(response.headers().get("grpc-status").is_none());
            held.push(response);
        }
        let mut same_host = request(WATCH);
        same_host.extensions_mut().insert(Peer { addr: "10.0.0.1:10".parse().ok(), tls: None });
        let refused = service.clone().oneshot(same_host).await.expect("an answer");
        assert_eq!(head_status(&refused).code(), Code::ResourceExhausted);
    }
}
