//! A server from its start to its bounded end.

mod beginning;
mod binding;
mod stop;
mod storage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use beginning::begin;
use binding::{bind, bind_again};

use super::alert_post::ClientError;
use super::alertmanager::Alertmanager;
use super::certificates::{CertificateError, Certificates};
use super::coordinator::Coordination;
use super::enrolment::Secrets;
use super::nodes::Sessions;
use super::room::FreeBytes;
use super::service::{Parts, Service, TreePolicy};
use super::stack::{self, Inbound, InboundLimits};
use super::workspace::{Callers, Workspaces};
use super::{admin, health, mesh, observe};
use crate::config::Settings;
use crate::engine::clock::Clock;
use crate::engine::{Engine, EngineError, EngineOptions, Handle, RestartOrder, Stopped};
use crate::linters::toolchain::ToolchainMode;
use crate::middleware::auth::Token;
use crate::middleware::deadline::DeadlineSettings;
use crate::middleware::request_id::RandomBits;
use crate::proto::peer::v1::node_service_server::NodeServiceServer;
use crate::proto::v1::FILE_DESCRIPTOR_SET;
use crate::proto::v1::coordinator_service_server::CoordinatorServiceServer;
use crate::proto::v1::workspace_service_server::WorkspaceServiceServer;
use crate::store::Store;
use crate::transport::accept::{ConnectionLimits, ServeOptions, Served, serve};
use crate::transport::listener::{Bind, Listener, Tcp};
use crate::workspace::blobs::BlobError;

/// Open `Watch` streams of one prober on the admin listener.
const ADMIN_STREAMS: usize = 16;
/// Streams of the nodes of one machine: their sessions, and the blobs of what they run.
const NODE_STREAMS: usize = 1024;
/// Bytes of the largest message of a node, at least. A node sends its results as large as they are: with the limit of
/// clients, a lowered one would refuse the same result for ever, and its run would never end.
const NODE_MESSAGE_BYTES: usize = 4 << 20;
/// Requests to start a node that may wait for the launcher.
const RESTARTS: usize = 1024;

/// What a server needs.
pub struct ServerOptions<S> {
    /// The settings.
    pub settings: Settings,
    /// What trees may be read where.
    pub trees: TreePolicy,
    /// Who may call, beside those the settings name.
    pub tokens: Vec<Token>,
    /// Whether there is an admin listener.
    pub admin: bool,
    /// Where the linters come from, for reports.
    pub toolchain_mode: Option<ToolchainMode>,
    /// Where blobs are kept.
    pub blob_dir: PathBuf,
    /// The folder of the store, if what is in it outlives this process. Then blobs are made durable before facts refer to
    /// them, and new runs need room in both folders.
    pub state_dir: Option<PathBuf>,
    /// How much is free in a folder; [`free_bytes`](super::free_bytes) but for tests.
    pub free_bytes: FreeBytes,
    /// Where facts are kept.
    pub store: S,
    /// Go on without what is damaged in the store.
    pub salvage: bool,
    /// The secrets by which nodes join, those of launched nodes to come included.
    pub secrets: Arc<Secrets>,
    /// Where nodes already look for the coordinator; counts if `server.node_listen` leaves the port open.
    pub node_port: Option<u16>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids and jitter.
    pub random: RandomBits,
}

/// Why a server did not start. All are for the user to fix.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The setting that names it.
        setting: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An Alertmanager.
    #[error(transparent)]
    Alertmanager(#[from] ClientError),
    /// The blob store.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The coordinator.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The coordinator, which did not say why.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A server that runs.
pub struct RunningServer {
    api: SocketAddr,
    nodes: SocketAddr,
    admin: Option<SocketAddr>,
    service: Arc<Service>,
    reporter: HealthReporter,
    health: Mutex<Option<JoinHandle<()>>>,
    restarts: Mutex<mpsc::Receiver<RestartOrder>>,
    listening: CancellationToken,
    listeners: Mutex<Vec<JoinHandle<Served>>>,
    /// None once its end was told.
    engine: Mutex<Option<JoinHandle<Result<(), EngineError>>>>,
    engine_abort: AbortHandle,
}

/// Binds every listener, then serves. Nothing is left behind if one cannot be bound.
pub async fn start<S: Store + 'static>(options: ServerOptions<S>) -> Result<RunningServer, StartError> {
    start_on(&Tcp, options).await
}

/// The same on another network than the machine's, for example a simulated one.
pub async fn start_on<S, B>(network: &B, options: ServerOptions<S>) -> Result<RunningServer, StartError>
where
    S: Store + 'static,
    B: Bind,
{
    let settings = &options.settings;
    let certificates = Certificates::read(&settings.server.tls).await?;
    let (api_tls, node_tls) = certificates.as_ref().map(Certificates::configs).unzip();
    let (api, api_address) = bind(network, settings.server.listen, "server.listen").await?;
    let (nodes, node_address) = bind_again(network, settings.server.node_listen, options.node_port).await?;
    let admin_listener = match options.admin {
        true => Some(bind(network, settings.server.admin_listen, "server.admin_listen").await?),
        false => None,
    };
    let alertmanagers = Alertmanager::all(&settings.alerts)?;
    // Before there is a coordinator: to list many blobs takes its time, and nodes that are awaited cannot join meanwhile.
    let blobs = storage::open(&options.blob_dir, settings).await?;
    let (restart, restarts) = mpsc::channel(RESTARTS);
    let core_settings = super::settings::core(settings);
    let (engine, handle) = Engine::open(EngineOptions {
        settings: core_settings,
        store: options.store,
        clock: options.clock,
        restarts: restart,
        salvage: options.salvage,
    })?;
    let engine = tokio::spawn(engine.run());
    let (nodes_declared, state_dir) = (settings.nodes.specs(), options.state_dir.as_deref());
    let (pinned, engine) = begin(engine, &handle, &blobs, nodes_declared, state_dir).await?;

    let (listening, draining) = (CancellationToken::new(), CancellationToken::new());
    let (reporter, health_service) = tonic_health::server::health_reporter();
    health::start(&reporter).await;
    let health = tokio::spawn(health::follow(reporter.clone(), handle.clone(), draining.clone()));

    let room = options
        .state_dir
        .map(|dir| storage::room(dir, options.blob_dir, settings.state.min_free_bytes, options.free_bytes));
    let service = Service::new(Parts {
        engine: handle.clone(),
        blobs,
        pinned,
        settings: options.settings.clone(),
        trees: options.trees,
        toolchain_mode: options.toolchain_mode,
        random: options.random.clone(),
        draining,
        room,
    });
    if let Some(certificates) = certificates {
        let stopping = service.stopping.clone();
        tokio::spawn(async move { stopping.run_until_cancelled(certificates.follow()).await });
    }
    tokio::spawn(release_blobs(service.clone()));
    tokio::spawn(observe::follow(service.clone(), alertmanagers));
    let calls = service.calls.clone();
    let secrets = options.secrets;
    let inbound = super::settings::inbound(settings);
    let mut tokens = super::settings::tokens(settings);
    tokens.extend(options.tokens);

    let message = usize::try_from(settings.server.max_message_bytes).unwrap_or(usize::MAX);
    let mut api_routes = Routes::new(health_service.clone())
        .add_service(
            CoordinatorServiceServer::new(Coordination::new(service.clone()))
                .max_decoding_message_size(message),
        )
        .add_service(
            WorkspaceServiceServer::new(Workspaces::new(service.clone(), Callers::Clients))
                .max_decoding_message_size(message),
        );
    if settings.server.reflection {
        api_routes = with_reflection(api_routes);
    }
    let node_message = message.max(NODE_MESSAGE_BYTES);
    let node_routes = Routes::new(
        NodeServiceServer::new(Sessions::new(service.clone())).max_decoding_message_size(node_message),
    )
    .add_service(
        WorkspaceServiceServer::new(Workspaces::new(service.clone(), Callers::Nodes))
            .max_decoding_message_size(node_message),
    );

    let random = options.random;
    let (refused_connections, refused_nodes) =
        (service.counts.refused_connections.clone(), service.counts.refused_nodes.clone());
    let serving = |limits, tls| ServeOptions {
        tls,
        limits,
        // A web page can make a browser send HTTP/1 to any port of this machine, and gRPC itself never does.
        allow_http1: false,
        drain_timeout: settings.server.shutdown_grace,
        jitter: jitter(random.clone()),
        refused: refused_connections.clone(),
    };
    let mut running = RunningServer {
        api: api_address,
        nodes: node_address,
        admin: admin_listener.as_ref().map(|(_, address)| *address),
        service,
        reporter,
        health: Mutex::new(Some(health)),
        restarts: Mutex::new(restarts),
        listening,
        listeners: Mutex::default(),
        engine_abort: engine.abort_handle(),
        engine: Mutex::new(Some(engine)),
    };
    let api_stack = stack::api(api_routes, tokens, inbound, random.clone());
    let api_stack = stack::metered(api_stack, calls.clone());
    running.listen(api, api_stack, serving(ConnectionLimits::default(), api_tls));
    let session_limits = InboundLimits {
        // A session lasts as long as its node.
        deadlines: DeadlineSettings { stream_default: None, stream_max: None, ..inbound.deadlines },
        // Counted by address, which the nodes of one machine share; the setting is about clients.
        streams_per_caller: NODE_STREAMS,
        max_message_bytes: node_message as u64,
        ..inbound
    };
    let node_stack = stack::peer(node_routes, secrets, refused_nodes, session_limits, random.clone());
    let node_stack = stack::metered(node_stack, calls);
    // On loopback the certificate's name cannot fit, and the enrolment secret never leaves the machine.
    let node_tls = node_tls.filter(|_| !settings.server.node_listen.ip().is_loopback());
    let node_limits = ConnectionLimits::for_nodes(settings.mesh.message_timeout);
    running.listen(nodes, node_stack, serving(node_limits, node_tls));
    if let Some((listener, _)) = admin_listener {
        let routes = admin::routes(health_service, running.service.clone());
        let admin_stack = stack::admin(routes, ADMIN_STREAMS, random.clone());
        // Probes and scrapers speak HTTP/1 too.
        let options = ServeOptions { allow_http1: true, ..serving(ConnectionLimits::default(), None) };
        running.listen(listener, admin_stack, options);
    }
    Ok(running)
}

impl RunningServer {
    /// Where clients call.
    pub const fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Where nodes join.
    pub const fn node_address(&self) -> SocketAddr {
        self.nodes
    }

    /// Where probes look.
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The coordinator.
    pub fn engine(&self) -> Handle {
        self.service.engine.clone()
    }

    /// The next order to start a node's process; none once the coordinator has stopped. Cancel safe.
    pub async fn next_restart(&self) -> Option<RestartOrder> {
        self.restarts.lock().await.recv().await
    }

    /// Waits until all nodes are ACTIVE, at most so long. Answers whether they are.
    pub async fn wait_ready(&self, wait: Duration) -> bool {
        mesh::wait_until_active(&self.service, wait).await.unwrap_or(false)
    }

    /// Waits until the coordinator fails, which it does if it can no longer store its facts.
    pub async fn failed(&self) -> String {
        self.ended().await.unwrap_or_else(|| "the coordinator ended".to_owned())
    }

    /// Waits for the coordinator's end, and answers why it failed, if it did and nobody was told before.
    async fn ended(&self) -> Option<String> {
        let mut engine = self.engine.lock().await;
        let ended = engine.as_mut()?.await;
        *engine = None;
        match ended {
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) if error.is_panic() => Some(error.to_string()),
            // Told to.
            Ok(Ok(())) | Err(_) => None,
        }
    }

    /// Counts the blobs for which the disk had no room.
    pub fn blob_shortages(&self) -> watch::Receiver<u64> {
        self.service.blobs.shortages()
    }

    fn listen(&mut self, listener: impl Listener + 'static, inbound: Inbound, options: ServeOptions) {
        let served = serve(listener, inbound, options, self.listening.clone());
        self.listeners.get_mut().push(tokio::spawn(served));
    }
}

/// Numbers from 0 to 1.
fn jitter(random: RandomBits) -> Arc<dyn Fn() -> f64 + Send + Sync> {
    Arc::new(move || (random() >> 64) as u64 as f64 / u64::MAX as f64)
}

fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The details that errors carry, so that clients without types of their own can show them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection is off: the embedded descriptors are not readable");
            routes
        }
    }
}

/// Lets go of blobs whenever runs have ended.
async fn release_blobs(service: Arc<Service>) {
    let mut revision = service.engine.revision();
    loop {
        service.pins.release(&service.engine, &service.blobs).await;
        tokio::select! {
            changed = revision.changed() => if changed.is_err() { return },
            () = service.stopping.cancelled() => return,
        }
    }
}
