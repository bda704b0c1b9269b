//! How long calls take and how they end, by method; streams count until their end.
//!
//! Names and buckets are those of OpenTelemetry's semantic conventions for RPC metrics (`rpc.server.call.duration`).

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{CallFuture, classify};

/// Upper bounds of the buckets, in seconds. Source: OpenTelemetry's semantic conventions, "RPC metrics".
pub const BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// What a method is called that this server does not have: whatever strangers ask for, the labels stay few.
const OTHER: &str = "_OTHER";

/// Durations of calls that ended alike.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Durations {
    /// Calls that took at most as long as the bucket's bound, and longer than the bound before.
    pub buckets: [u64; BUCKETS.len()],
    /// All calls.
    pub count: u64,
    /// Seconds of all of them together.
    pub sum: f64,
}

impl Durations {
    fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Calls that have ended, by method and the name of their status.
    pub ended: BTreeMap<(Arc<str>, &'static str), Durations>,
    /// Calls that have not, by method.
    pub open: BTreeMap<Arc<str>, u64>,
}

/// The counts of a server.
#[derive(Debug)]
pub struct RpcMetrics {
    methods: BTreeSet<Arc<str>>,
    counts: Mutex<Snapshot>,
}

impl RpcMetrics {
    /// For the methods named `package.Service/Method`; all others are counted as one.
    pub fn new(methods: impl IntoIterator<Item = String>) -> Arc<Self> {
        let methods = methods.into_iter().map(Arc::from).chain([Arc::from(OTHER)]).collect();
        Arc::new(Self { methods, counts: Mutex::default() })
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    fn begin(self: &Arc<Self>, path: &str) -> Call {
        let name = path.strip_prefix('/').unwrap_or(path);
        let method = self.methods.get(name).or_else(|| self.methods.get(OTHER)).cloned().unwrap_or_default();
        *self.lock().open.entry(Arc::clone(&method)).or_default() += 1;
        Call { metrics: Arc::clone(self), method, begun: Instant::now(), code: Code::Cancelled }
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way; counted when it is dropped.
struct Call {
    metrics: Arc<RpcMetrics>,
    method: Arc<str>,
    begun: Instant,
    /// How it ends. Until more is known: its caller let go of it.
    code: Code,
}

impl Call {
    /// Counts it as ended so.
    fn end(mut self, code: Code) {
        self.set(code);
    }

    const fn set(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let mut counts = self.metrics.lock();
        if let Some(open) = counts.open.get_mut(&self.method) {
            *open -= 1;
        }
        counts.ended.entry((Arc::clone(&self.method), code_name(self.code))).or_default().add(took);
    }
}

/// The name that documents and clients of every language use for a code: `INVALID_ARGUMENT`.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Counts every call, refused ones included.
#[derive(Clone)]
pub struct RpcMetricsLayer(Arc<RpcMetrics>);

impl RpcMetricsLayer {
    /// Into these counts.
    pub const fn new(metrics: Arc<RpcMetrics>) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for RpcMetricsLayer {
    type Service = RpcMeter<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RpcMeter { inner, metrics: Arc::clone(&self.0) }
    }
}

/// The service of [`RpcMetricsLayer`].
#[derive(Clone)]
pub struct RpcMeter<S> {
    inner: S,
    metrics: Arc<RpcMetrics>,
}

impl<S, B> Service<Request<B>> for RpcMeter<S>
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
        let call = self.metrics.begin(request.uri().path());
        let answered = self.inner.call(request);
        Box::pin(async move {
            let response = match answered.await {
                Ok(response) => response,
                Err(error) => {
                    call.end(Code::Unknown);
                    return Err(error);
                }
            };
            if let Some(code) = classify::status_code(response.headers()) {
                // There is nothing else to come.
                call.end(code);
                return Ok(response);
            }
            Ok(response.map(|inner| Body::new(MeteredBody { inner, call: Some(call) })))
        })
    }
}

/// A body whose trailers say how the call ended.
struct MeteredBody {
    inner: Body,
    /// `None` once it has ended.
    call: Option<Call>,
}

impl MeteredBody {
    fn end(&mut self, code: Code) {
        if let Some(call) = self.call.take() {
            call.end(code);
        }
    }
}

impl http_body::Body for MeteredBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(classify::status_code(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(status))) => self.end(status.code()),
            // Ended without a status.
            Poll::Ready(None) => self.end(Code::Unknown),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
