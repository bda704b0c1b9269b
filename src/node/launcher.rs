//! Starts, watches and ends the nodes of this machine, each a process of its own.
//!
//! They may outlive their launcher: then the next one adopts them, which it can by what is recorded of them.

mod child;
pub mod command;
mod inheritance;
mod record;
mod stranger;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::child::{Child, Started};
use self::inheritance::Adoptable;
pub use self::inheritance::{Inheritance, Survival};
pub use self::record::{Process, Record};
use super::agent::{NodeSettings, PeerSettings};
use super::process_table;
use super::secret::Secret;
use crate::linters::process::Limits;
use crate::linters::toolchain::Toolchain;
use crate::types::{Digest, NodeId, NodeSpec};

/// Exits that wait for whoever listens; a node exits once per launch, so this is never full in practice.
const EXITS: usize = 256;
/// How long a killed process may take to be gone; only one that hangs in the kernel takes longer.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// Makes the one-time enrolment secret of each launch, known to the coordinator when it returns.
pub type MakeSecret = Box<dyn FnMut(&NodeId) -> Secret + Send>;

/// What all launched nodes have in common.
pub struct LaunchOptions {
    /// The lintmesh binary; it is the node and the shim around its linters.
    pub program: PathBuf,
    /// Its arguments: `node --launched`.
    pub arguments: Vec<OsString>,
    /// The coordinator's node listener.
    pub coordinator: String,
    /// A PEM file with the certificate authority of an `https` coordinator.
    pub tls_ca: Option<PathBuf>,
    /// The mesh to join.
    pub mesh_id: String,
    /// See [`super::host::host_id`].
    pub host_id: String,
    /// What may fail at once with them; the host, since they share it.
    pub failure_domain: String,
    /// See [`super::host::environment_class`].
    pub environment_class: String,
    /// Their linters.
    pub toolchain: Toolchain,
    /// What each linter may use.
    pub limits: Limits,
    /// How long they may go on with what they run once they are asked to end.
    pub drain_timeout: Duration,
    /// Where nodes make their private folders, if they do not survive.
    pub work_dir: PathBuf,
    /// How they outlive this process; if not, they end with it.
    pub survival: Option<Survival>,
    /// The cores that linters may use.
    pub cpu_slots: u32,
    /// The shim around linters; normally [`LaunchOptions::program`].
    pub shim: PathBuf,
    /// See [`MakeSecret`].
    pub make_secret: MakeSecret,
}

impl LaunchOptions {
    /// What a node is told at its start.
    fn node_settings(&self, spec: &NodeSpec, secret: Secret) -> NodeSettings {
        let survival = self.survival.as_ref();
        let work_dir = survival.map(|survival| survival.work_dir(&spec.node_id));
        NodeSettings {
            coordinator: self.coordinator.clone(),
            tls_ca: self.tls_ca.clone(),
            spec: spec.clone(),
            mesh_id: self.mesh_id.clone(),
            secret,
            host_id: self.host_id.clone(),
            failure_domain: self.failure_domain.clone(),
            environment_class: self.environment_class.clone(),
            toolchain: self.toolchain.clone(),
            limits: self.limits.clone(),
            drain_timeout: self.drain_timeout,
            orphan_grace: survival.map(|survival| survival.grace).unwrap_or_default(),
            work_dir: work_dir.unwrap_or_else(|| self.work_dir.clone()),
            state_dir: survival.map(|survival| survival.dir.clone()),
            cpu_slots: self.cpu_slots,
            shim: self.shim.clone(),
            // All on this machine: its peers are there too.
            peers: PeerSettings::default(),
        }
    }

    /// The nodes that may go on if an earlier launcher left them, each by what it was told then.
    pub fn survivors(&self, specs: &[NodeSpec]) -> BTreeMap<NodeId, Digest> {
        match &self.survival {
            Some(survival) if !survival.grace.is_zero() => {
                specs.iter().map(|spec| (spec.node_id.clone(), self.fingerprint(spec))).collect()
            }
            _ => BTreeMap::new(),
        }
    }

    /// Equal for two starts of a node that are told the same, by the same release. Only then is it all the same which of
    /// the two is there.
    fn fingerprint(&self, spec: &NodeSpec) -> Digest {
        let told = self.node_settings(spec, Secret::new(""));
        let told = serde_json::to_string(&told).unwrap_or_default();
        Digest::of(format!("lintmesh {}\n{told}", env!("CARGO_PKG_VERSION")).as_bytes())
    }
}

/// How a child ended; see [`NodeExited`].
struct Exit {
    pid: u32,
    status: Option<ExitStatus>,
    ordered: bool,
}

/// A node's process ended, for whatever reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeExited {
    /// Which node.
    pub node_id: NodeId,
    /// Its process id, free to be used by others now.
    pub pid: u32,
    /// How it ended; unknown if the system would not say.
    pub status: Option<ExitStatus>,
    /// Whether the launcher told it to end, for example to start it anew.
    pub ordered: bool,
}

impl std::fmt::Display for NodeExited {
    /// In words, for operators.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "process {} ended: {status}", self.pid),
            None => write!(f, "process {} ended", self.pid),
        }
    }
}

/// Why a node could not be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no such node among those to launch.
    #[error("node `{0}` is not one that is launched here")]
    Unknown(NodeId),
    /// There is no folder for it.
    #[error("cannot make the folder {} for node `{node_id}`: {source}", folder.display())]
    Folder {
        /// Which node.
        node_id: NodeId,
        /// Which folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its process could not be started.
    #[error("cannot start {} for node `{node_id}`: {source}", program.display())]
    Start {
        /// Which node.
        node_id: NodeId,
        /// What was to be run.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The nodes of this machine, launched by this process or taken over from an earlier one. Dropped without
/// [`Launcher::stop_all`] or [`Launcher::leave`], it kills them.
pub struct Launcher {
    options: LaunchOptions,
    nodes: BTreeMap<NodeId, Launched>,
    exits: mpsc::Sender<NodeExited>,
    /// For the next launcher, if nodes are to outlive this one.
    record: Option<Record>,
}

struct Launched {
    spec: NodeSpec,
    child: Option<Child>,
    /// Shows an adopted process that this one lives; one that was launched here sees it by its pipe.
    lifeline: Option<File>,
}

impl Launcher {
    /// Launches a process for each node; their exits arrive at the receiver. If one cannot be started, the others are
    /// killed.
    pub fn start(
        specs: Vec<NodeSpec>,
        options: LaunchOptions,
    ) -> Result<(Self, mpsc::Receiver<NodeExited>), LaunchError> {
        let (mut launcher, exited) = Self::new(specs, options, None);
        let ids: Vec<NodeId> = launcher.nodes.keys().cloned().collect();
        for node_id in &ids {
            launcher.launch(node_id)?;
        }
        Ok((launcher, exited))
    }

    /// The same, but for the nodes that an earlier launcher left: these go on. `listener` is where they look for their
    /// coordinator. What cannot go on there is killed first.
    pub async fn succeed(
        specs: Vec<NodeSpec>,
        options: LaunchOptions,
        inheritance: Inheritance,
        listener: SocketAddr,
    ) -> Result<(Self, mpsc::Receiver<NodeExited>), LaunchError> {
        let Inheritance { mut record, mut adoptable } = inheritance;
        let told = options.survivors(&specs);
        let is_lost = |node: &NodeId, left: &mut Adoptable| told.get(node) != Some(&left.process.settings);
        for (node, left) in adoptable.extract_if(.., is_lost) {
            tracing::warn!(%node, pid = left.process.pid, "the node cannot find this coordinator and is replaced");
            left.stranger.stop(Duration::ZERO).await;
        }
        let begun = record.begin(listener, |node| adoptable.contains_key(node));
        let record = match begun {
            Ok(()) => Some(record),
            Err(error) => {
                tracing::warn!(%error, "nodes cannot be recorded: new ones end with this process");
                None
            }
        };
        let (mut launcher, exited) = Self::new(specs, options, record);
        let ids: Vec<NodeId> = launcher.nodes.keys().cloned().collect();
        for node_id in &ids {
            match adoptable.remove(node_id) {
                Some(left) => launcher.adopt(node_id, left),
                None => drop(launcher.launch(node_id)?),
            }
        }
        Ok((launcher, exited))
    }

    fn new(
        specs: Vec<NodeSpec>,
        options: LaunchOptions,
        record: Option<Record>,
    ) -> (Self, mpsc::Receiver<NodeExited>) {
        let (exits, exited) = mpsc::channel(EXITS);
        let nodes = specs
            .into_iter()
            .map(|spec| (spec.node_id.clone(), Launched { spec, child: None, lifeline: None }))
            .collect::<BTreeMap<_, _>>();
        (Self { options, nodes, exits, record }, exited)
    }

    /// The process of a node, if it runs.
    pub fn pid(&self, node_id: &NodeId) -> Option<u32> {
        self.nodes.get(node_id)?.child.as_ref()?.running_pid()
    }

    /// Whether a node is one of those that are launched here.
    pub fn launches(&self, node_id: &NodeId) -> bool {
        self.nodes.contains_key(node_id)
    }

    /// Ends the node's process: asks it, and kills it after the bound (zero: at once). It is reaped when the answer
    /// completes, which borrows nothing: meanwhile the launcher may do other things.
    pub fn stop(
        &mut self,
        node_id: &NodeId,
        bound: Duration,
    ) -> Result<impl Future<Output = ()> + Send + use<>, LaunchError> {
        let node = self.nodes.get_mut(node_id).ok_or_else(|| LaunchError::Unknown(node_id.clone()))?;
        let child = node.child.take();
        Ok(async move {
            if let Some(child) = child {
                child.stop(bound).await;
            }
        })
    }

    /// Ends all nodes at once; see [`Launcher::stop`].
    pub async fn stop_all(&mut self, bound: Duration) {
        let mut stopping = JoinSet::new();
        for child in self.nodes.values_mut().filter_map(|node| node.child.take()) {
            stopping.spawn(child.stop(bound));
        }
        while stopping.join_next().await.is_some() {}
        if let Some(Err(error)) = self.record.as_mut().map(Record::clear) {
            // The next launcher finds out that they are dead.
            tracing::warn!(%error, "the end of the nodes could not be recorded");
        }
    }

    /// Lets all nodes go on for the next launcher, as they would if this process were killed; see
    /// [`LaunchOptions::survival`]. If they cannot survive it, they are ended; see [`Launcher::stop_all`].
    pub async fn leave(&mut self, bound: Duration) {
        let grace = self.options.survival.as_ref().map(|survival| survival.grace).unwrap_or_default();
        if grace.is_zero() || self.record.is_none() {
            return self.stop_all(bound).await;
        }
        tracing::warn!(?grace, "nodes go on by themselves and wait for the next coordinator");
        for child in self.nodes.values_mut().filter_map(|node| node.child.take()) {
            child.leave().await;
        }
    }

    /// Starts a process for the node, with a new secret, and answers its id. One that is left of it is killed.
    pub fn launch(&mut self, node_id: &NodeId) -> Result<u32, LaunchError> {
        let node = self.nodes.get_mut(node_id).ok_or_else(|| LaunchError::Unknown(node_id.clone()))?;
        let options = &mut self.options;
        if let Some(survival) = &options.survival {
            survival.prepare(node_id).map_err(|source| LaunchError::Folder {
                node_id: node_id.clone(),
                folder: survival.work_dir(node_id),
                source,
            })?;
        }
        let secret = (options.make_secret)(node_id);
        let mut settings = options.node_settings(&node.spec, secret);
        let failed = |source| LaunchError::Start {
            node_id: node_id.clone(),
            program: options.program.clone(),
            source,
        };
        let started = Started::new(&options.program, &options.arguments).map_err(failed)?;
        let pid = started.pid();
        // First the record, then the settings: without them the process is no node yet, and ends with this one.
        let is_recorded = match (&mut self.record, process_table::read_one(pid)) {
            (Some(record), Some(seen)) => {
                let process = Process {
                    pid,
                    started: seen.started,
                    secret: Digest::of(settings.secret.expose().as_bytes()),
                    settings: options.fingerprint(&node.spec),
                };
                record.note(node_id, process).inspect_err(|error| {
                    tracing::warn!(node = %node_id, %error, "the node cannot be recorded: it ends with this process");
                }).is_ok()
            }
            _ => false,
        };
        if !is_recorded {
            settings.orphan_grace = Duration::ZERO;
        }
        let child = started.told(&settings, on_exit(node_id, &self.exits)).map_err(failed)?;
        tracing::info!(node = %node_id, pid, "node process started");
        (node.child, node.lifeline) = (Some(child), None);
        Ok(pid)
    }

    fn adopt(&mut self, node_id: &NodeId, left: Adoptable) {
        let Adoptable { process, stranger, lifeline } = left;
        tracing::info!(node = %node_id, pid = process.pid, "node process adopted");
        if let Some(node) = self.nodes.get_mut(node_id) {
            let child = Child::adopted(stranger, on_exit(node_id, &self.exits));
            (node.child, node.lifeline) = (Some(child), lifeline);
        }
    }
}

/// Tells of the end of a node's process.
fn on_exit(node: &NodeId, exits: &mpsc::Sender<NodeExited>) -> impl FnOnce(Exit) + Send + 'static {
    let (node_id, exits) = (node.clone(), exits.clone());
    move |Exit { pid, status, ordered }| {
        let ended = status.map(tracing::field::display);
        tracing::info!(node = %node_id, pid, status = ended, "node process ended");
        if exits.try_send(NodeExited { node_id, pid, status, ordered }).is_err() {
            // Whoever listens finds out by the node's silence as well.
            tracing::debug!("nobody took the exit of a node");
        }
    }
}
