//! Starts, watches and ends the nodes of this machine, each a process of its own.

mod child;
pub mod command;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::child::Child;
use super::agent::{NodeSettings, PeerSettings};
use super::secret::Secret;
use crate::linters::process::Limits;
use crate::linters::toolchain::Toolchain;
use crate::types::{NodeId, NodeSpec};

/// Exits that wait for whoever listens; a node exits once per launch, so this is never full in practice.
const EXITS: usize = 256;

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
    /// Where nodes make their private folders.
    pub work_dir: PathBuf,
    /// The cores that linters may use.
    pub cpu_slots: u32,
    /// The shim around linters; normally [`LaunchOptions::program`].
    pub shim: PathBuf,
    /// See [`MakeSecret`].
    pub make_secret: MakeSecret,
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

/// The nodes launched by this process. Dropped without [`Launcher::stop_all`], it kills them.
pub struct Launcher {
    options: LaunchOptions,
    nodes: BTreeMap<NodeId, Launched>,
    exits: mpsc::Sender<NodeExited>,
}

struct Launched {
    spec: NodeSpec,
    child: Option<Child>,
}

impl Launcher {
    /// Launches a process for each node; their exits arrive at the receiver. If one cannot be started, the others are
    /// killed.
    pub fn start(
        specs: Vec<NodeSpec>,
        options: LaunchOptions,
    ) -> Result<(Self, mpsc::Receiver<NodeExited>), LaunchError> {
        let (exits, exited) = mpsc::channel(EXITS);
        let nodes = specs
            .into_iter()
            .map(|spec| (spec.node_id.clone(), Launched { spec, child: None }))
            .collect::<BTreeMap<_, _>>();
        let ids: Vec<NodeId> = nodes.keys().cloned().collect();
        let mut launcher = Self { options, nodes, exits };
        for node_id in &ids {
            launcher.launch(node_id)?;
        }
        Ok((launcher, exited))
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
    }

    /// Starts a process for the node, with a new secret, and answers its id. One that is left of it is killed.
    pub fn launch(&mut self, node_id: &NodeId) -> Result<u32, LaunchError> {
        let node = self.nodes.get_mut(node_id).ok_or_else(|| LaunchError::Unknown(node_id.clone()))?;
        let options = &mut self.options;
        let settings = NodeSettings {
            coordinator: options.coordinator.clone(),
            tls_ca: options.tls_ca.clone(),
            spec: node.spec.clone(),
            mesh_id: options.mesh_id.clone(),
            secret: (options.make_secret)(node_id),
            host_id: options.host_id.clone(),
            failure_domain: options.failure_domain.clone(),
            environment_class: options.environment_class.clone(),
            toolchain: options.toolchain.clone(),
            limits: options.limits.clone(),
            drain_timeout: options.drain_timeout,
            work_dir: options.work_dir.clone(),
            state_dir: None,
            cpu_slots: options.cpu_slots,
            shim: options.shim.clone(),
            // All on this machine: its peers are there too.
            peers: PeerSettings::default(),
        };
        let exits = self.exits.clone();
        let exited_node = node_id.clone();
        let on_exit = move |Exit { pid, status, ordered }| {
            let ended = status.map(tracing::field::display);
            tracing::info!(node = %exited_node, pid, status = ended, "node process ended");
            let event = NodeExited { node_id: exited_node, pid, status, ordered };
            if exits.try_send(event).is_err() {
                // Whoever listens finds out by the node's silence as well.
                tracing::debug!("nobody took the exit of a node");
            }
        };
        let child =
            Child::start(&options.program, &options.arguments, &settings, on_exit).map_err(|source| {
                LaunchError::Start { node_id: node_id.clone(), program: options.program.clone(), source }
            })?;
        let pid = child.pid();
        tracing::info!(node = %node_id, pid, "node process started");
        node.child = Some(child);
        Ok(pid)
    }
}
