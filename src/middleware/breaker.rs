//! The circuit breaker as a layer: a gate around [`Breaker`], in front of one peer.

mod watched_body;

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service, ServiceExt as _};

use super::deadline::Deadline;
use super::method::is_infrastructure;
use super::{CallFuture, RefusedLocally, classify, refusal};
use crate::coordinator::breaker::{Breaker, CallOutcome, Permit};
/// Re-exported, so that a node can build a [`PeerBreaker`] without naming the coordinator.
pub use crate::coordinator::breaker::{BreakerSettings, State, TripReason};
use crate::status::ApiError;
use crate::types::Tick;
use watched_body::WatchedBody;

/// A source of random numbers from 0 to 1.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// While a probe is under way nobody knows when the breaker closes: callers come back after this.
const PROBE_UNDER_WAY: Duration = Duration::from_secs(1);

/// The breaker of one peer, shared by all clients of that peer. Time is tokio's, so tests can pause it.
pub struct PeerBreaker {
    peer: String,
    breaker: Mutex<Breaker>,
    /// Tick 0.
    origin: Instant,
    jitter: Jitter,
}

impl PeerBreaker {
    /// A Closed breaker in front of `peer`, a name for messages.
    pub fn new(peer: impl Into<String>, settings: BreakerSettings, jitter: Jitter) -> Arc<Self> {
        let breaker = Mutex::new(Breaker::new(settings));
        Arc::new(Self { peer: peer.into(), breaker, origin: Instant::now(), jitter })
    }

    /// What it lets through now.
    pub fn state(&self) -> State {
        self.with(|breaker, now| breaker.state(now))
    }

    /// Why it opened; `None` while Closed.
    pub fn trip_reason(&self) -> Option<TripReason> {
        self.with(|breaker, _| breaker.trip_reason())
    }

    /// Opens it from outside.
    pub fn trip(&self, reason: TripReason) {
        let jitter = (self.jitter)();
        self.with(|breaker, now| breaker.trip(now, reason, jitter));
    }

    /// A new incarnation of the peer has proved itself: the next call is a probe.
    pub fn half_open_now(&self) {
        self.with(|breaker, _| breaker.half_open_now());
    }

    /// Closes it and forgets the past.
    pub fn reset(&self) {
        self.with(|breaker, _| breaker.reset());
    }

    fn with<T>(&self, act: impl FnOnce(&mut Breaker, Tick) -> T) -> T {
        let now = Tick::default() + self.origin.elapsed();
        // The machine is never left half changed, so a panic elsewhere does not spoil it.
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn admit(&self) -> Result<Permit, ApiError> {
        self.with(|breaker, now| {
            breaker.admit(now).map_err(|refused| {
                let wait = refused.next_probe.since(now);
                ApiError::Unavailable {
                    reason: "CIRCUIT_OPEN",
                    message: format!("the circuit to {} is open", self.peer),
                    retry: if wait.is_zero() { PROBE_UNDER_WAY } else { wait },
                }
            })
        })
    }

    fn record(&self, permit: Permit, outcome: CallOutcome) {
        let jitter = (self.jitter)();
        let change = self.with(|breaker, now| {
            let before = breaker.state(now);
            breaker.record(now, permit, outcome, jitter);
            let after = breaker.state(now);
            (before != after).then(|| (after, breaker.trip_reason()))
        });
        if let Some((state, reason)) = change {
            tracing::info!(peer = self.peer, ?state, ?reason, "circuit breaker changed");
        }
    }
}

/// One call under way. Dropped without an outcome, it was cancelled: that frees a probe's slot, and
/// counts as a failure only if this process's own deadline for the peer was the reason.
struct Watch {
    breaker: Arc<PeerBreaker>,
    permit: Option<Permit>,
    deadline: Option<Deadline>,
}

impl Watch {
    fn finish(&mut self, outcome: CallOutcome) {
        if let Some(permit) = self.permit.take() {
            self.breaker.record(permit, outcome);
        }
    }

    fn finish_with(&mut self, code: Code) {
        self.finish(classify::outcome(code, self.deadline.as_ref()));
    }

    /// The peer sent a message: enough for a probe, which may be a stream that lasts for days.
    fn saw_message(&mut self) {
        if self.permit.is_some_and(Permit::is_probe) {
            self.finish(CallOutcome::Success);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let ran_out = self.deadline.is_some_and(|deadline| Instant::now() >= deadline.at);
        if ran_out { self.finish_with(Code::DeadlineExceeded) } else { self.finish(CallOutcome::Ignored) }
    }
}

/// Answers UNAVAILABLE with RetryInfo while the peer's breaker is Open, without touching the connection.
#[derive(Clone)]
pub struct BreakerLayer {
    breaker: Arc<PeerBreaker>,
}

impl BreakerLayer {
    /// Gates calls by `breaker`.
    pub fn new(breaker: Arc<PeerBreaker>) -> Self {
        Self { breaker }
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated { inner, breaker: Arc::clone(&self.breaker) }
    }
}

/// The service of [`BreakerLayer`].
#[derive(Clone)]
pub struct Gated<S> {
    inner: S,
    breaker: Arc<PeerBreaker>,
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<tower::BoxError> + Send + 'static,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = tower::BoxError;
    type Future = CallFuture<tower::BoxError>;

    /// Always ready: an Open breaker must answer even though the connection behind it is not.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = self.inner.clone();
        if is_infrastructure(request.uri().path()) {
            return Box::pin(async move { inner.oneshot(request).await.map_err(Into::into) });
        }
        let permit = match self.breaker.admit() {
            Ok(permit) => permit,
            Err(error) => return Box::pin(std::future::ready(Ok(refusal(error)))),
        };
        let deadline = request.extensions().get::<Deadline>().copied();
        let mut watch = Watch { breaker: Arc::clone(&self.breaker), permit: Some(permit), deadline };
        Box::pin(async move {
            let response = match inner.oneshot(request).await {
                Ok(response) => response,
                Err(error) => {
                    let status = Status::from_error(error.into());
                    watch.finish_with(status.code());
                    return Err(status.into());
                }
            };
            if response.extensions().get::<RefusedLocally>().is_some() {
                watch.finish(CallOutcome::Ignored);
                return Ok(response);
            }
            match classify::status_code(response.headers()) {
                Some(code) => {
                    watch.finish_with(code);
                    Ok(response)
                }
                None => Ok(WatchedBody::wrap(response, watch)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
