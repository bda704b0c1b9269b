//! Deadlines of inbound calls, over the whole call, streams included.
//!
//! tonic's own timeout ends at the response's head and answers CANCELLED; this one answers
//! DEADLINE_EXCEEDED, and on a running stream sends it as trailers. Either way the handler is dropped
//! at once: nobody waits for its answer any more.

use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service};

use super::deadline_body::DeadlineBody;
use super::method::is_streaming;
use super::{CallFuture, grpc_timeout, refusal};
use crate::status::ApiError;

/// When a call must be over; in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// How long the call was given.
    pub allowed: Duration,
    /// Whether the caller's own wish set it, rather than this process's settings. A peer is not to blame
    /// for a caller in a hurry.
    pub by_caller: bool,
}

impl Deadline {
    /// The tighter of the caller's wish and the limit; `None` if there is neither.
    pub(super) fn tightest(now: Instant, wish: Option<Duration>, limit: Option<Duration>) -> Option<Self> {
        let (allowed, by_caller) = match (wish, limit) {
            (Some(wish), Some(limit)) if limit <= wish => (limit, false),
            (Some(wish), _) => (wish, true),
            (None, Some(limit)) => (limit, false),
            (None, None) => return None,
        };
        // A moment too far away to be represented is no deadline.
        now.checked_add(allowed).map(|at| Self { at, allowed, by_caller })
    }

    /// The answer when it has passed.
    pub fn exceeded(&self) -> ApiError {
        ApiError::DeadlineExceeded { allowed: self.allowed }
    }
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlineSettings {
    /// For unary calls that do not say.
    pub unary_default: Duration,
    /// For unary calls whatever they say.
    pub unary_max: Duration,
    /// For streams that do not say; `None` lets them run.
    pub stream_default: Option<Duration>,
    /// For streams whatever they say; `None` for no limit.
    pub stream_max: Option<Duration>,
}

impl Default for DeadlineSettings {
    fn default() -> Self {
        Self {
            unary_default: Duration::from_secs(30),
            unary_max: Duration::from_secs(600),
            stream_default: None,
            stream_max: None,
        }
    }
}

impl DeadlineSettings {
    fn deadline(&self, now: Instant, path: &str, wish: Option<Duration>) -> Option<Deadline> {
        let (default, max) = if is_streaming(path) {
            (self.stream_default, self.stream_max)
        } else {
            (Some(self.unary_default), Some(self.unary_max))
        };
        let limit = if wish.is_some() { max } else { default.into_iter().chain(max).min() };
        Deadline::tightest(now, wish, limit)
    }
}

/// Gives every call a [`Deadline`] from `grpc-timeout` and the settings, and enforces it.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer {
    settings: DeadlineSettings,
}

impl DeadlineLayer {
    /// Deadlines by these settings.
    pub fn new(settings: DeadlineSettings) -> Self {
        Self { settings }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline { inner, settings: self.settings }
    }
}

/// The service of [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct WithDeadline<S> {
    inner: S,
    settings: DeadlineSettings,
}

impl<S, B> Service<Request<B>> for WithDeadline<S>
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
        let Ok(wish) = grpc_timeout::read(request.headers()) else {
            let error =
                ApiError::invalid(grpc_timeout::HEADER, "must be 1 to 8 digits and one of H M S m u n");
            return Box::pin(std::future::ready(Ok(refusal(error))));
        };
        let Some(deadline) = self.settings.deadline(Instant::now(), request.uri().path(), wish) else {
            return Box::pin(self.inner.call(request));
        };
        request.extensions_mut().insert(deadline);
        Box::pin(enforce(self.inner.call(request), deadline))
    }
}

/// Runs `call` and its response's body until `deadline`. The clock is asked first, so that an error that
/// the deadline itself causes further in cannot win the race and hide it.
pub(super) async fn enforce<E>(
    call: impl Future<Output = Result<http::Response<Body>, E>>,
    deadline: Deadline,
) -> Result<http::Response<Body>, E> {
    tokio::select! {
        biased;
        () = tokio::time::sleep_until(deadline.at) => Ok(refusal(deadline.exceeded())),
        response = call => Ok(DeadlineBody::wrap(response?, deadline)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{data, head_status, request, streaming_answer, trailer_status};
    use super::*;
    use tonic::Code;
    use tower_test::mock;

    const UNARY: &str = "/lintmesh.v1.CoordinatorService/GetRun";
    const STREAM: &str = "/lintmesh.v1.CoordinatorService/StreamHealth";

    fn with_timeout(path: &str, timeout: &str) -> Request<Body> {
        let mut call = request(path);
        call.headers_mut().insert(grpc_timeout::HEADER, timeout.parse().expect("header"));
        call
    }

    #[tokio::test(start_paused = true)]
    async fn a_unary_call_gets_the_default_deadline_and_is_dropped_when_it_passes() {
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let held = std::sync::Mutex::new(Some(held));
        let mut service = DeadlineLayer::new(DeadlineSettings::default()).layer(tower::service_fn(
            |request: Request<Body>| {
                let held = held.lock().expect("not poisoned").take();
                let deadline = *request.extensions().get::<Deadline>().expect("extension");
                assert_eq!(deadline.allowed, Duration::from_secs(30));
                async move {
                    let _held_until_dropped = held;
                    std::future::pending::<Result<http::Response<Body>, std::convert::Infallible>>().await
                }
            },
        ));
        let start = Instant::now();
        let response = service.call(request(UNARY)).await.expect("an answer");
        assert_eq!(head_status(&response).code(), Code::DeadlineExceeded);
        assert_eq!(start.elapsed().as_secs(), 30);
        assert!(dropped.await.is_err(), "the handler is dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_the_status_in_its_trailers() {
        let (sender, streaming) = streaming_answer();
        let deadline = Deadline {
            at: Instant::now() + Duration::from_secs(2),
            allowed: Duration::from_secs(2),
            by_caller: true,
        };
        let response = enforce::<()>(std::future::ready(Ok(streaming)), deadline).await.expect("head");
        assert!(response.headers().get("grpc-status").is_none());
        sender.send(data()).expect("open");
        let status = trailer_status(response).await.expect("trailers");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(sender.is_closed(), "the inner body is dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_always_has_data_cannot_outrun_the_deadline() {
        let (sender, streaming) = streaming_answer();
        for _ in 0..3 {
            sender.send(data()).expect("open");
        }
        let deadline = Deadline { at: Instant::now(), allowed: Duration::ZERO, by_caller: true };
        let wrapped = DeadlineBody::wrap(streaming, deadline);
        assert_eq!(trailer_status(wrapped).await.expect("trailers").code(), Code::DeadlineExceeded);
    }

    #[test]
    fn the_tighter_of_wish_and_limit_holds() {
        let now = Instant::now();
        let settings =
            DeadlineSettings { stream_max: Some(Duration::from_secs(3600)), ..DeadlineSettings::default() };
        let seconds = |path, wish: Option<u64>| {
            let deadline = settings.deadline(now, path, wish.map(Duration::from_secs));
            deadline.map(|deadline| (deadline.allowed.as_secs(), deadline.by_caller))
        };
        assert_eq!(seconds(UNARY, None), Some((30, false)));
        assert_eq!(seconds(UNARY, Some(5)), Some((5, true)));
        assert_eq!(seconds(UNARY, Some(100)), Some((100, true)), "the default bounds no wish");
        assert_eq!(seconds(UNARY, Some(6000)), Some((600, false)));
        assert_eq!(seconds(STREAM, None), Some((3600, false)));
        assert_eq!(seconds(STREAM, Some(7200)), Some((3600, false)));
        let open = DeadlineSettings::default().deadline(now, STREAM, None);
        assert_eq!(open, None);
    }

    #[tokio::test]
    async fn a_malformed_header_is_refused() {
        let (mut service, _handle) =
            mock::spawn_layer::<Request<Body>, _, _>(DeadlineLayer::new(DeadlineSettings::default()));
        let response = service.call(with_timeout(UNARY, "5s")).await.expect("an answer");
        assert_eq!(head_status(&response).code(), Code::InvalidArgument);
    }
}
