//! The stacks that inbound calls pass through, read top-down.

use std::convert::Infallible;
use std::sync::Arc;

use http::Request;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::middleware::auth::{AuthLayer, Token};
use crate::middleware::deadline::{DeadlineLayer, DeadlineSettings};
use crate::middleware::enrolment::{Enrolment, EnrolmentLayer};
use crate::middleware::error_details::ErrorDetailsLayer;
use crate::middleware::load_shed::LoadShedLayer;
use crate::middleware::refusals::Reasons;
use crate::middleware::request_id::{RandomBits, RequestIdLayer};
use crate::middleware::rpc_metrics::{RpcMetrics, RpcMetricsLayer};
use crate::middleware::stream_limit::StreamLimitLayer;

/// A whole server as one service, ready for [`serve`](crate::transport::accept::serve).
pub type Inbound = BoxCloneSyncService<Request<Body>, http::Response<Body>, Infallible>;

/// Bounds on what callers may ask of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundLimits {
    /// Unary requests at work, over all connections.
    pub requests_in_flight: usize,
    /// Open streams of one token, or of one remote address without one.
    pub streams_per_caller: usize,
    /// How long calls may take.
    pub deadlines: DeadlineSettings,
    /// Bytes of the largest message that the services take, to be told to callers.
    pub max_message_bytes: u64,
}

impl Default for InboundLimits {
    fn default() -> Self {
        Self {
            requests_in_flight: 512,
            streams_per_caller: 64,
            deadlines: DeadlineSettings::default(),
            max_message_bytes: 4 << 20,
        }
    }
}

/// The API listener's stack.
pub fn api(routes: Routes, tokens: Vec<Token>, limits: InboundLimits, random: RandomBits) -> Inbound {
    let stack = ServiceBuilder::new()
        // First, so that every answer and every log line below has the id.
        .layer(RequestIdLayer::new(random))
        // Around all that may answer instead of a handler: no error leaves without its reason.
        .layer(ErrorDetailsLayer::new(limits.max_message_bytes))
        // Before anything that costs: strangers must not use up room.
        .layer(AuthLayer::new(tokens))
        // Refuses at once what the server has no capacity for, rather than queueing it. Streams are for the next one.
        .layer(LoadShedLayer::new(limits.requests_in_flight))
        // After auth, because it counts per identity.
        .layer(StreamLimitLayer::new(limits.streams_per_caller))
        // Innermost: dropping what is below it at the deadline frees all that is above.
        .layer(DeadlineLayer::new(limits.deadlines))
        .service(routes.prepare());
    BoxCloneSyncService::new(stack)
}

/// The node listener's stack: the same, but callers are nodes with an enrolment secret. Those without are counted in
/// `refused`.
pub fn peer(
    routes: Routes,
    enrolment: Arc<dyn Enrolment>,
    refused: Reasons,
    limits: InboundLimits,
    random: RandomBits,
) -> Inbound {
    let stack = ServiceBuilder::new()
        // First, so that every answer and every log line below has the id.
        .layer(RequestIdLayer::new(random))
        // Around all that may answer instead of a handler: no error leaves without its reason.
        .layer(ErrorDetailsLayer::new(limits.max_message_bytes))
        // A node needs its secret always, on loopback too.
        .layer(EnrolmentLayer::new(enrolment, refused))
        // One node's storm must not take the coordinator down.
        .layer(LoadShedLayer::new(limits.requests_in_flight))
        // A node needs few streams; one that opens many is broken.
        .layer(StreamLimitLayer::new(limits.streams_per_caller))
        // Sessions have no deadline of their own; calls that bring one are held to it.
        .layer(DeadlineLayer::new(limits.deadlines))
        .service(routes.prepare());
    BoxCloneSyncService::new(stack)
}

/// A stack whose calls are counted. Around all that may end a call, so that each counts with the status its caller sees.
pub fn metered(inbound: Inbound, calls: Arc<RpcMetrics>) -> Inbound {
    BoxCloneSyncService::new(ServiceBuilder::new().layer(RpcMetricsLayer::new(calls)).service(inbound))
}

/// The admin listener's stack: health for probes, and plain HTTP routes beside it.
///
/// Nothing here answers instead of a handler except for `Watch` streams: a refusal is a gRPC status
/// inside HTTP 200, which a plain HTTP probe would take for good health.
pub fn admin(routes: Routes, streams_per_caller: usize, random: RandomBits) -> Inbound {
    let stack = ServiceBuilder::new()
        // So that its log lines can be told apart.
        .layer(RequestIdLayer::new(random))
        // Anyone who can connect can open `Watch`, and it lasts as long as the client likes.
        .layer(StreamLimitLayer::new(streams_per_caller))
        .service(routes.prepare());
    BoxCloneSyncService::new(stack)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message as _;

    use crate::middleware::method::{ROLES, is_streaming};
    use crate::proto::v1::FILE_DESCRIPTOR_SET;

    /// Every method of the public services, as `Service/Method`, with whether it streams.
    fn methods() -> BTreeMap<String, bool> {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
        let files = set.file.into_iter().filter(|file| file.package() == "lintmesh.v1");
        let services = files.flat_map(|file| file.service);
        let methods = services.flat_map(|service| {
            let name = service.name().to_owned();
            let methods = service.method.into_iter();
            methods.map(move |method| {
                (format!("{name}/{}", method.name()), method.client_streaming() || method.server_streaming())
            })
        });
        methods.collect()
    }

    #[test]
    fn every_method_has_its_role_and_is_known_to_stream_or_not() {
        let methods = methods();
        assert!(methods.len() > 10, "{methods:?}");
        let named: Vec<_> = ROLES.into_iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let distinct: BTreeSet<_> = named.iter().copied().collect();
        assert_eq!(named.len(), distinct.len(), "each has one role");
        assert_eq!(distinct, methods.keys().map(String::as_str).collect());
        for (name, streams) in methods {
            assert_eq!(is_streaming(&format!("/lintmesh.v1.{name}")), streams, "{name}");
        }
    }
}
