//! The stack that this process's calls to one peer pass through, read top-down.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder};

use crate::middleware::breaker::{BreakerLayer, PeerBreaker};
use crate::middleware::in_flight::{InFlightLayer, InFlightSettings};
use crate::middleware::outbound_deadline::OutboundDeadlineLayer;

/// A guarded connection to one peer; generated clients take it in place of a channel.
pub type Outbound = BoxCloneSyncService<Request<Body>, http::Response<Body>, BoxError>;

/// How calls to one peer are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboundSettings {
    /// The most that a unary call may take (`message_timeout`).
    pub unary_deadline: Duration,
    /// The same for streams; `None` for sessions, whose liveness is told by heartbeats.
    pub stream_deadline: Option<Duration>,
    /// Calls under way and waiting.
    pub in_flight: InFlightSettings,
}

impl Default for OutboundSettings {
    fn default() -> Self {
        Self {
            unary_deadline: Duration::from_secs(30),
            stream_deadline: None,
            in_flight: InFlightSettings::default(),
        }
    }
}

/// Guards `channel`, the connection to the peer that `breaker` watches.
pub fn guard<C>(channel: C, breaker: Arc<PeerBreaker>, settings: OutboundSettings) -> Outbound
where
    C: Service<Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError> + Send + 'static,
{
    let stack = ServiceBuilder::new()
        // Outermost: it bounds waiting for a slot and for a connection too.
        .layer(OutboundDeadlineLayer::new(settings.unary_deadline, settings.stream_deadline))
        // Refuses while the peer is known to be down; sees the deadline above as the peer's failure.
        .layer(BreakerLayer::new(breaker))
        // Innermost: only calls that are really made take a slot. Its own refusals are no failures.
        .layer(InFlightLayer::new(settings.in_flight))
        .service(channel);
    BoxCloneSyncService::new(stack)
}
