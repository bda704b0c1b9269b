//! A bound on the calls to one peer that are under way, with a bounded queue in front of it.
//!
//! A call is under way until its response's body has ended: a stream uses the peer as long as it lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt as _};

use super::body::GuardedBody;
use super::{CallFuture, refusal};
use crate::status::ApiError;

/// How much of a peer one process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlightSettings {
    /// Calls under way.
    pub limit: usize,
    /// Calls that wait for one of those to end; more are refused at once.
    pub waiting: usize,
    /// How long a call waits before it is refused.
    pub patience: Duration,
}

impl Default for InFlightSettings {
    fn default() -> Self {
        Self { limit: 64, waiting: 256, patience: Duration::from_secs(5) }
    }
}

/// Lets a bounded number of calls through, holds back a bounded number, and refuses the rest with
/// RESOURCE_EXHAUSTED. Clones share the bounds.
#[derive(Clone)]
pub struct InFlightLayer {
    slots: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    settings: InFlightSettings,
}

impl InFlightLayer {
    /// Bounds by these settings.
    pub fn new(settings: InFlightSettings) -> Self {
        let slots = Arc::new(Semaphore::new(settings.limit.min(Semaphore::MAX_PERMITS)));
        Self { slots, waiting: Arc::default(), settings }
    }

    fn refused(&self) -> http::Response<Body> {
        refusal(ApiError::ResourceExhausted {
            what: "calls to one peer",
            limit: self.settings.limit as u64,
            retry: self.settings.patience,
        })
    }
}

/// A place in the queue.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let room = |n| (n < most).then_some(n + 1);
        waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Self(Arc::clone(waiting)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<S> Layer<S> for InFlightLayer {
    type Service = InFlight<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InFlight { inner, shared: self.clone() }
    }
}

/// The service of [`InFlightLayer`].
#[derive(Clone)]
pub struct InFlight<S> {
    inner: S,
    shared: InFlightLayer,
}

impl<S, B> Service<Request<B>> for InFlight<S>
where
    S: Service<Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = CallFuture<S::Error>;

    /// Always ready: waiting happens in the call, where it is bounded and can be answered with a status.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = self.inner.clone();
        let shared = self.shared.clone();
        Box::pin(async move {
            let slots = Arc::clone(&shared.slots);
            let slot = match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => slot,
                Err(_) => {
                    let Some(place) = Place::take(&shared.waiting, shared.settings.waiting) else {
                        return Ok(shared.refused());
                    };
                    let Ok(Ok(slot)) =
                        tokio::time::timeout(shared.settings.patience, slots.acquire_owned()).await
                    else {
                        return Ok(shared.refused());
                    };
                    drop(place);
                    slot
                }
            };
            Ok(GuardedBody::wrap(inner.oneshot(request).await?, slot))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{head_status, request, streaming_answer};
    use super::*;
    use std::convert::Infallible;
    use tonic::Code;

    #[tokio::test(start_paused = true)]
    async fn calls_wait_up_to_a_number_and_a_time_and_a_finished_body_makes_room() {
        let settings = InFlightSettings { limit: 1, waiting: 1, patience: Duration::from_secs(3) };
        let service = InFlightLayer::new(settings).layer(tower::service_fn(|_: Request<Body>| async {
            let (sender, response) = streaming_answer();
            // The body stays open until the response is dropped.
            std::mem::forget(sender);
            Ok::<_, Infallible>(response)
        }));
        let call = |service: &InFlight<_>| tokio::spawn(InFlight::clone(service).oneshot(request("/x.Y/Z")));
        let first = call(&service).await.expect("task").expect("answer");
        let waiting = call(&service);
        tokio::task::yield_now().await;
        let refused = call(&service).await.expect("task").expect("answer");
        assert_eq!(head_status(&refused).code(), Code::ResourceExhausted, "the queue is full");

        drop(first);
        let second = waiting.await.expect("task").expect("answer");
        assert!(second.headers().get("grpc-status").is_none(), "it got through");

        let start = tokio::time::Instant::now();
        let late = call(&service).await.expect("task").expect("answer");
        assert_eq!(head_status(&late).code(), Code::ResourceExhausted);
        assert_eq!(start.elapsed().as_secs(), 3);
    }
}
