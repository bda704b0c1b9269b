//! A real server on loopback whose handlers are as slow as a test needs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use lintmesh::server::stack::Inbound;
use lintmesh::transport::accept::{ConnectionLimits, ServeOptions, Served, serve};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::{Service, ServiceExt as _};

/// The health service under the name of this product's own, so that every layer applies to it.
#[derive(Clone)]
pub(crate) struct Renamed<S> {
    inner: S,
    /// Taken by each call before it runs: no permits, no answers.
    gate: Arc<Semaphore>,
}

impl<S> NamedService for Renamed<S> {
    const NAME: &'static str = "lintmesh.v1.CoordinatorService";
}

impl<S> Service<Request<Body>> for Renamed<S>
where
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = match request.uri().path().rsplit('/').next() {
            Some("StreamHealth") => "/grpc.health.v1.Health/Watch",
            _ => "/grpc.health.v1.Health/Check",
        };
        *request.uri_mut() = method.parse().expect("a valid path");
        let (inner, gate) = (self.inner.clone(), Arc::clone(&self.gate));
        Box::pin(async move {
            let _permit = gate.acquire_owned().await.expect("never closed");
            inner.oneshot(request).await
        })
    }
}

/// Routes with the health service, and the same behind `gate` as `CoordinatorService`.
pub(crate) fn routes(gate: &Arc<Semaphore>) -> Routes {
    let (_reporter, health) = tonic_health::server::health_reporter();
    routes_of(health, gate)
}

fn routes_of(health: HealthServer<impl Health>, gate: &Arc<Semaphore>) -> Routes {
    Routes::new(health.clone()).add_service(Renamed { inner: health, gate: Arc::clone(gate) })
}

/// A gate that is open.
pub(crate) fn open_gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))
}

pub(crate) struct Server {
    pub(crate) addr: std::net::SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<Served>,
}

pub(crate) fn options() -> ServeOptions {
    ServeOptions {
        tls: None,
        limits: ConnectionLimits::default(),
        allow_http1: false,
        drain_timeout: Duration::from_millis(300),
        jitter: Arc::new(|| 0.0),
        refused: Default::default(),
    }
}

impl Server {
    pub(crate) async fn start(inbound: Inbound, options: ServeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(listener, inbound, options, shutdown.clone()));
        Self { addr, shutdown, served }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr)).expect("a valid address");
        endpoint.connect().await.expect("the server listens")
    }
}

/// A 128 bit source for request ids that always gives the same.
pub(crate) fn fixed_bits() -> lintmesh::middleware::request_id::RandomBits {
    Arc::new(|| 7)
}

/// Calls `method` of `lintmesh.v1.CoordinatorService` with health messages.
pub(crate) struct Caller<C>(pub(crate) tonic::client::Grpc<C>);

type Reply = tonic_health::pb::HealthCheckResponse;

impl<C> Caller<C>
where
    C: tonic::client::GrpcService<Body>,
    C::ResponseBody: http_body::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    pub(crate) fn new(channel: C) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    fn path(method: &str) -> http::uri::PathAndQuery {
        format!("/lintmesh.v1.CoordinatorService/{method}").parse().expect("a valid path")
    }

    async fn ready(&mut self) {
        if self.0.ready().await.is_err() {
            panic!("the channel is gone");
        }
    }

    pub(crate) async fn unary(
        &mut self,
        method: &str,
        request: tonic::Request<tonic_health::pb::HealthCheckRequest>,
    ) -> Result<tonic::Response<Reply>, tonic::Status> {
        self.ready().await;
        let codec = tonic_prost::ProstCodec::default();
        self.0.unary(request, Self::path(method), codec).await
    }

    pub(crate) async fn stream(
        &mut self,
        request: tonic::Request<tonic_health::pb::HealthCheckRequest>,
    ) -> Result<tonic::Streaming<Reply>, tonic::Status> {
        self.ready().await;
        let codec = tonic_prost::ProstCodec::default();
        let reply = self.0.server_streaming(request, Self::path("StreamHealth"), codec).await?;
        Ok(reply.into_inner())
    }
}

/// A request that the health service answers with SERVING.
pub(crate) fn request() -> tonic::Request<tonic_health::pb::HealthCheckRequest> {
    tonic::Request::new(tonic_health::pb::HealthCheckRequest { service: String::new() })
}
