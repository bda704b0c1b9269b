//! The life of a node process: joins, works, comes back when the connection is lost, ends in order.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, Random};
use super::envelope::Envelope;
use super::executor::{Executor, KILL_BOUND};
use super::held::Held;
use super::inputs::{Inputs, Sources};
use super::link::{Connector, Links, links};
use super::orphan;
use super::outbox::keeper::Keeper;
use super::outbox::spool::SpoolError;
use super::peers::{self, ListenError, PeerOptions, PeerTls, Peers};
use super::relay::Relay;
use super::secret::Secret;
use super::session::{self, Lasting, SessionEnd};
use super::shim::sandbox_status;
use super::stages::Stages;
use super::way::Way;
use super::work_folder::WorkFolder;
use super::workspace_cache::WorkspaceCache;
use crate::linters::process::Limits;
use crate::linters::toolchain::Toolchain;
use crate::proto::peer::v1 as pb;
use crate::transport::listener::Bind;
use crate::types::{AttemptRef, Epoch, Incarnation, NodeSpec};

/// The protocol versions that a node speaks.
pub(super) const PROTOCOL: (u32, u32) = (1, 1);
/// How long what runs may take to end when the process is asked to: longer than one attempt may.
const STOP_BOUND: Duration = KILL_BOUND.saturating_add(Duration::from_millis(500));
/// A session that lived this long was a good one: the next attempts start from the shortest pause, so that a node whose
/// connections break now and then is back within the coordinator's `mesh.reconnect_grace`.
const GOOD_SESSION: Duration = Duration::from_secs(1);
/// Results and acknowledgements of peers that may wait.
const FROM_PEERS: usize = 256;
/// Pauses between attempts to open a session. The longest is far below the coordinator's `mesh.message_timeout`, which is
/// what a node has to find its way back after a restart of it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Everything a node is told at its start, as plain data, so that a launcher can hand it over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// The coordinator's node listener: `http://HOST:PORT` or `https://HOST:PORT`.
    pub coordinator: String,
    /// A PEM file with the certificate authority of an `https` coordinator.
    pub tls_ca: Option<PathBuf>,
    /// Its declared part.
    pub spec: NodeSpec,
    /// The mesh to join.
    pub mesh_id: String,
    /// Proves that it may.
    pub secret: Secret,
    /// Its machine; see [`super::host::host_id`].
    pub host_id: String,
    /// What may fail at once with it.
    pub failure_domain: String,
    /// See [`super::host::environment_class`].
    pub environment_class: String,
    /// Its linters, with their versions: a node probes nothing, so that it starts at once.
    pub toolchain: Toolchain,
    /// What each linter may use.
    pub limits: Limits,
    /// How long it may go on with what it runs once it is asked to end.
    pub drain_timeout: Duration,
    /// How long it goes on without a session once its launcher is gone. Zero: it ends with its launcher.
    #[serde(default)]
    pub orphan_grace: Duration,
    /// Where it makes its private folder, which it removes at its end.
    pub work_dir: PathBuf,
    /// Where results that nobody acknowledged outlive its process, in a folder of the node's name; none: they are in its
    /// memory only.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// The cores of its machine that linters may use.
    pub cpu_slots: u32,
    /// The lintmesh binary, which is also the shim around linters.
    pub shim: PathBuf,
    /// Where its peers dial.
    #[serde(default)]
    pub peers: PeerSettings,
}

/// Where a node listens for its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSettings {
    /// The address; beyond loopback it needs `tls`.
    pub listen: SocketAddr,
    /// HOST:PORT that peers dial, if it is not the address itself: behind address translation, or a name that the
    /// certificate has.
    pub advertise: Option<String>,
    /// The certificate that peers are shown; without one links are in plain text.
    pub tls: Option<PeerTls>,
}

impl Default for PeerSettings {
    /// Any free port of loopback: enough for the nodes of one machine.
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), advertise: None, tls: None }
    }
}

/// What a node is made of.
pub struct NodeOptions<B> {
    /// What it is told.
    pub settings: NodeSettings,
    /// Where it listens for its peers; [`Tcp`](crate::transport::listener::Tcp) but for tests.
    pub network: B,
    /// How it connects; [`super::link::tcp`] but for tests.
    pub connector: Connector,
    /// Cancelled when it should finish what it has and then end.
    pub drain: CancellationToken,
    /// Cancelled when its launcher is gone and it may go on without; never for a node that nobody launched.
    pub orphaned: CancellationToken,
    /// Randomness for pauses; [`super::link::jitter`] but for tests.
    pub random: Random,
}

/// Why a node ended other than by order.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator's address cannot be used: fix it.
    #[error("coordinator `{uri}` {reason}")]
    Coordinator {
        /// The address.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The secret cannot be sent: give one of visible ASCII characters.
    #[error("the enrolment secret has characters that cannot be sent; use visible ASCII characters")]
    Secret,
    /// Peers cannot reach this node.
    #[error(transparent)]
    Peers(#[from] ListenError),
    /// The coordinator does not want this node, for good.
    #[error("the coordinator refused this node: {message}{}", .reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Refused {
        /// Its words.
        message: String,
        /// Its stable reason, for example `STALE_INCARNATION`.
        reason: Option<String>,
    },
    /// The folder for results that nobody acknowledged.
    #[error("no folder for unacknowledged results: {0}")]
    State(#[from] SpoolError),
    /// A file or folder of this machine.
    #[error("cannot use {}: {reason}", path.display())]
    Local {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// Who this process is.
pub(super) struct Identity {
    pub(super) spec: NodeSpec,
    pub(super) envelope: Envelope,
    hello: pb::Hello,
}

impl Identity {
    fn new(
        settings: &NodeSettings,
        incarnation: Incarnation,
        envelope: Envelope,
        peer_endpoint: String,
    ) -> Self {
        let tools = settings.toolchain.versions();
        let hello = pb::Hello {
            protocol_min: PROTOCOL.0,
            protocol_max: PROTOCOL.1,
            mesh_id: settings.mesh_id.clone(),
            specialist: Some((&settings.spec).into()),
            incarnation: incarnation.0,
            last_epoch: 0,
            host_id: settings.host_id.clone(),
            failure_domain: settings.failure_domain.clone(),
            toolchain_id: settings.toolchain.id.to_string(),
            tools: tools.into_iter().map(|(name, version)| (name.to_string(), version)).collect(),
            environment_class: settings.environment_class.clone(),
            sandbox: sandbox_status().to_string(),
            cpu_slots: settings.cpu_slots,
            running: Vec::new(),
            unacknowledged: Vec::new(),
            process_id: std::process::id(),
            peer_endpoint,
            draining: false,
            sent_at: None,
        };
        Self { spec: settings.spec.clone(), envelope, hello }
    }

    pub(super) fn hello(
        &self,
        last_epoch: Epoch,
        (running, unacknowledged): (Vec<AttemptRef>, Vec<AttemptRef>),
    ) -> pb::Hello {
        let refs = |keys: Vec<AttemptRef>| keys.iter().map(AttemptRef::to_proto).collect();
        pb::Hello {
            last_epoch: last_epoch.0,
            running: refs(running),
            unacknowledged: refs(unacknowledged),
            sent_at: Some(SystemTime::now().into()),
            ..self.hello.clone()
        }
    }
}

/// Runs a node until `stop` is cancelled, the coordinator ends it or refuses it for good. Once [`NodeOptions::drain`] is
/// cancelled it takes no more work, and ends when it has finished and delivered what it had, or its time for that is over.
///
/// Everything it started is gone when it returns, or within seconds.
pub async fn run<B: Bind>(options: NodeOptions<B>, stop: CancellationToken) -> Result<(), AgentError> {
    let NodeOptions { settings, network, connector, drain, orphaned, random } = options;
    let local = |path: &PathBuf| {
        let path = path.clone();
        move |error: &dyn std::fmt::Display| AgentError::Local { path, reason: error.to_string() }
    };
    let tls_ca = match &settings.tls_ca {
        Some(path) => Some(tokio::fs::read(path).await.map_err(|error| local(path)(&error))?),
        None => None,
    };
    let Links { session, blobs, breaker } =
        links(&settings.coordinator, tls_ca.as_deref(), &settings.secret, &connector, &random)?;
    let incarnation = incarnation();
    let spec = &settings.spec;
    let envelope = Envelope::new(spec.node_id.clone());
    // Ended with the node, however it ends.
    let linked = stop.child_token();
    let linking = linked.clone().drop_guard();
    let (held, way) = (Held::default(), Way::default());
    let (from_peers, said_by_peers) = mpsc::channel(FROM_PEERS);
    let peers = Peers::new(PeerOptions {
        node: spec.node_id.clone(),
        incarnation,
        mesh_id: settings.mesh_id.clone(),
        tls_ca,
        connector,
        random: random.clone(),
        envelope: envelope.clone(),
        held: held.clone(),
        from_peers,
        stop: linked.clone(),
    });
    let PeerSettings { listen, advertise, tls } = &settings.peers;
    let listening = peers::listen(&peers, &network, *listen, advertise.as_deref(), tls.as_ref()).await?;

    let work_dir = WorkFolder::make(&settings.work_dir).map_err(|error| local(&settings.work_dir)(&error))?;
    let inputs = Inputs::new(Sources {
        link: blobs,
        held: held.clone(),
        peers: peers.clone(),
        way: way.clone(),
        random: random.clone(),
    });
    let trees = WorkspaceCache::new(work_dir.path(), inputs.clone())
        .map_err(|error| local(&settings.work_dir)(&error))?;
    let forgetting = trees.forget_in_time();
    let stages = Stages::new(inputs.clone(), trees, work_dir.path(), &settings)
        .map_err(|error| local(&settings.work_dir)(&error))?;
    let executor =
        Executor::new(spec.node_id.clone(), incarnation, spec.max_concurrent_tasks, Arc::new(stages));
    let keeper = match &settings.state_dir {
        Some(dir) => Keeper::open(dir, &spec.node_id, &executor, &held).await?,
        None => None,
    };
    let keeping = keeper.map(|keeper| tokio::spawn(keeper.run(linked.clone())));
    let mut lasting = Lasting {
        identity: Identity::new(&settings, incarnation, envelope, listening.endpoint),
        link: session,
        breaker,
        executor: executor.clone(),
        inputs: inputs.clone(),
        meter: Arc::default(),
        idle: Arc::default(),
        peers: peers.clone(),
        way: way.clone(),
        last_epoch: Epoch(0),
        connections: 0,
        drain: drain.clone(),
    };
    let folder = settings.state_dir.as_ref().map(|dir| dir.join(spec.node_id.as_str()));
    let has_launcher =
        || folder.as_deref().is_some_and(|folder| orphan::has_launcher(folder, std::process::id()));
    let given_up = orphan::is_given_up(&orphaned, &way, settings.orphan_grace, has_launcher);
    let relay = Relay { executor: executor.clone(), inputs, peers, way: way.clone() }.run(said_by_peers);
    let passing = linked.clone();
    let relaying = tokio::spawn(async move { passing.run_until_cancelled(relay).await });
    tokio::spawn(async move { linked.run_until_cancelled(forgetting).await });
    let overdue = async {
        drain.cancelled().await;
        executor.drain();
        tokio::time::sleep(settings.drain_timeout).await;
    };
    let ended = tokio::select! {
        ended = stay_joined(&mut lasting, &random, &stop) => ended,
        () = overdue => {
            let unfinished = executor.in_use().0;
            tracing::warn!(node = %settings.spec.node_id, unfinished, "the time to finish is over");
            Ok(())
        }
        () = given_up => {
            tracing::warn!(node = %settings.spec.node_id, "no coordinator came; ending");
            Ok(())
        }
    };
    executor.stop(STOP_BOUND).await;
    drop(linking);
    if let Some(keeping) = keeping
        && let Err(error) = keeping.await
    {
        tracing::error!(%error, "keeping results on disk failed");
    }
    if let Err(error) = relaying.await {
        tracing::error!(%error, "passing results on failed");
    }
    if let Err(error) = listening.served.await {
        tracing::error!(%error, "the listener for peers failed");
    }
    drop(lasting);
    if let Err(error) = work_dir.close() {
        tracing::warn!(%error, "the node's work folder could not be removed");
    }
    ended
}

/// One session after the other, with pauses that grow while they fail.
async fn stay_joined(
    lasting: &mut Lasting,
    random: &Random,
    stop: &CancellationToken,
) -> Result<(), AgentError> {
    let node = lasting.identity.spec.node_id.clone();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let end = session::run(lasting, stop).await;
        let lasted = lasting.way.closed(Instant::now());
        match end {
            SessionEnd::Stopped => return Ok(()),
            SessionEnd::Shutdown(reason) => {
                tracing::info!(%node, reason = %reason.escape_debug(), "the coordinator ended this node");
                return Ok(());
            }
            SessionEnd::Refused(status) => {
                let reason = tonic_types::StatusExt::get_details_error_info(&status).map(|info| info.reason);
                return Err(AgentError::Refused { message: status.message().to_owned(), reason });
            }
            SessionEnd::Lost(reason) => {
                // Attempts may last long that come to nothing: those do not count.
                if lasted.is_some_and(|lasted| lasted >= GOOD_SESSION) {
                    backoff.reset();
                }
                let pause = backoff.next(random());
                tracing::warn!(%node, %reason, ?pause, "no session; trying again");
                let drained = async {
                    lasting.drain.cancelled().await;
                    lasting.executor.finished().await;
                };
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    // Nobody is there to say so, and nothing is left to hand over.
                    () = drained => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// Microseconds since 1970 at the start of the process: greater for each later start.
fn incarnation() -> Incarnation {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Incarnation(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
