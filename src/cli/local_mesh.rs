//! A coordinator in this process, and the nodes it launches on this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::linters;
use super::reserve::Reserve;
use super::state_dir::StateDir;
use super::supervisor::{End, Supervisor};
use crate::config::{Launch, Settings};
use crate::engine::clock::SystemClock;
use crate::linters::toolchain::Toolchain;
use crate::middleware::auth::Token;
use crate::node::host;
use crate::node::launcher::command::RestartCommand;
use crate::node::launcher::{Inheritance, LaunchOptions, Launcher, Record, Survival};
use crate::node::secret::Secret;
use crate::server::{self, MESH_ID, RunningServer, Secrets, ServerOptions, TreePolicy};
use crate::store::{EmbeddedOptions, EmbeddedStore, MemoryStore, Store};
use crate::types::Epoch;

/// How long nodes may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// What a local mesh is made of.
pub(super) struct MeshOptions {
    /// The settings.
    pub(super) settings: Settings,
    /// What trees may be read where.
    pub(super) trees: TreePolicy,
    /// Who may call, beside those the settings name.
    pub(super) tokens: Vec<Token>,
    /// Whether there is an admin listener.
    pub(super) admin: bool,
    /// The linters of the nodes that are launched; none if nodes are external.
    pub(super) toolchain: Option<Toolchain>,
    /// What outlives the process.
    pub(super) keeping: Keeping,
}

/// What of a mesh outlives its process.
pub(super) enum Keeping {
    /// Nothing: it is in memory and in a temporary folder, and its nodes end with it.
    Nothing,
    /// The state, the blobs, and for a while the nodes.
    State {
        /// Where.
        dir: StateDir,
        /// Go on without what is damaged.
        salvage: bool,
    },
}

impl Keeping {
    /// The store. Nobody else can open it until it is dropped, so that all else in the folder is ours too.
    fn store(&self) -> anyhow::Result<Box<dyn Store>> {
        Ok(match self {
            Keeping::Nothing => Box::new(MemoryStore::new()),
            Keeping::State { dir, salvage } => {
                Box::new(EmbeddedStore::open(&dir.store(), EmbeddedOptions { salvage: *salvage })?)
            }
        })
    }

    const fn dir(&self) -> Option<&StateDir> {
        match self {
            Keeping::Nothing => None,
            Keeping::State { dir, .. } => Some(dir),
        }
    }

    const fn salvage(&self) -> bool {
        matches!(self, Keeping::State { salvage: true, .. })
    }
}

/// What a coordinator has at its start.
pub(super) struct Holdings {
    /// Its epoch.
    pub(super) epoch: Epoch,
    /// Runs that go on.
    pub(super) open: usize,
    /// Runs that have ended.
    pub(super) finished: usize,
}

/// A running coordinator and the nodes it launched.
pub(super) struct LocalMesh {
    server: Arc<RunningServer>,
    supervisor: JoinHandle<()>,
    end: oneshot::Sender<End>,
    /// What is not kept; gone with the mesh.
    _folder: TempDir,
}

impl LocalMesh {
    /// Starts the coordinator, then its nodes. Does not wait for them.
    pub(super) async fn start(options: MeshOptions) -> anyhow::Result<Self> {
        let MeshOptions { settings, trees, tokens, admin, toolchain, keeping } = options;
        let folder = tempfile::Builder::new()
            .prefix("lintmesh-")
            .tempdir()
            .context("a folder for temporary files cannot be made; is the disk full, or TMPDIR wrong?")?;
        // First of all: who has it may touch what is beside it.
        let store = keeping.store()?;
        let toolchain_mode = toolchain.as_ref().map(|toolchain| toolchain.mode.clone());
        let secrets = Arc::new(Secrets::new(&settings));
        let specs = settings.nodes.specs();
        let launched = toolchain.filter(|_| settings.nodes.launch == Launch::Local);
        let mut launch = match launched {
            None => None,
            Some(toolchain) => Some(launch_options(&settings, &secrets, toolchain, folder.path(), &keeping)?),
        };
        let inheritance = match keeping.dir() {
            None => None,
            Some(dir) => Some(inherit(dir, &settings, launch.as_mut()).await),
        };
        for (node, secret) in inheritance.iter().flat_map(Inheritance::secrets) {
            secrets.inherit(node, secret);
        }
        let blob_dir = settings.workspace.blob_dir.clone();
        let server = server::start(ServerOptions {
            settings: settings.clone(),
            trees,
            tokens,
            admin,
            toolchain_mode,
            blob_dir: blob_dir.unwrap_or_else(|| {
                keeping.dir().map_or_else(|| folder.path().join("blobs"), StateDir::blobs)
            }),
            store,
            salvage: keeping.salvage(),
            secrets,
            node_port: inheritance.as_ref().and_then(Inheritance::node_listener).map(|at| at.port()),
            state_dir: keeping.dir().map(|dir| dir.path().to_owned()),
            free_bytes: Arc::new(server::free_bytes),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(random),
        })
        .await?;
        let address = server.node_address();
        let launched = match (launch, inheritance) {
            (None, _) => None,
            (Some(mut launch), inheritance) => {
                launch.coordinator = coordinator_url(&settings, address);
                Some(match inheritance {
                    None => Launcher::start(specs, launch)?,
                    Some(left) => Launcher::succeed(specs, launch, left, address).await?,
                })
            }
        };
        let command = RestartCommand {
            words: settings.nodes.restart_command.clone(),
            bound: settings.nodes.restart_timeout,
        };
        let command = Some(command).filter(|command| !command.words.is_empty());
        let (end, told) = oneshot::channel();
        let server = Arc::new(server);
        if let Some(dir) = keeping.dir() {
            let reserve = Reserve::new(dir.path(), settings.state.min_free_bytes);
            tokio::spawn(reserve.keep(server.engine().storage_changes(), server.blob_shortages()));
        }
        let supervisor = Supervisor::new(server.clone(), launched, command);
        let supervisor = tokio::spawn(supervisor.run(told));
        Ok(Self { server, supervisor, end, _folder: folder })
    }

    /// How many runs are open and how many have ended, and the epoch of this start.
    pub(super) async fn holdings(&self) -> anyhow::Result<Holdings> {
        let engine = self.server.engine();
        // Answered without room for facts, too: whoever starts it is about to listen for its end.
        let held = engine.observe(|core, _| {
            let state = core.state();
            let open = state.open.len();
            Holdings { epoch: state.epoch, open, finished: state.runs.len() - open }
        });
        Ok(held.await?)
    }

    /// Where clients call.
    pub(super) fn api_address(&self) -> SocketAddr {
        self.server.api_address()
    }

    /// Where nodes join.
    pub(super) fn node_address(&self) -> SocketAddr {
        self.server.node_address()
    }

    /// Where probes look.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        self.server.admin_address()
    }

    /// Waits until every node is ACTIVE; an error says which are not.
    pub(super) async fn wait_ready(&self) -> anyhow::Result<()> {
        if self.server.wait_ready(JOIN_TIMEOUT).await {
            return Ok(());
        }
        let missing = self
            .server
            .engine()
            .query(|core, _| {
                let members = core.state().members.iter();
                let missing = members.filter(|(_, member)| member.status != crate::types::NodeStatus::Active);
                let words = |member: &crate::coordinator::node::Member| match member.detail.as_str() {
                    "" => member.status.to_string(),
                    detail => format!("{} ({detail})", member.status),
                };
                missing.map(|(id, member)| format!("{id} is {}", words(member))).collect::<Vec<_>>()
            })
            .await?;
        bail!(
            "not all nodes joined within {} s: {}; MESH_LOG_LEVEL=debug shows why",
            JOIN_TIMEOUT.as_secs(),
            missing.join(", ")
        )
    }

    /// Completes when the coordinator has failed, with the reason.
    pub(super) async fn failed(&self) -> String {
        self.server.failed().await
    }

    /// Lets open runs end, within the bound, and takes no new ones.
    pub(super) async fn drain(&self, bound: Duration) {
        self.server.drain(bound).await;
    }

    /// Ends everything in order, within a bound: clients first, then the nodes, then the listeners. Answers why the
    /// coordinator had failed before, if it had and [`LocalMesh::failed`] did not say so.
    pub(super) async fn stop(self) -> Option<String> {
        self.end(End::Stop).await
    }

    /// The same after the coordinator has failed: nodes that may outlive it are left to the next one.
    pub(super) async fn leave(self) {
        self.end(End::Leave).await;
    }

    async fn end(self, end: End) -> Option<String> {
        self.server.retire().await;
        // Told to nobody only if the supervisor panicked, which is told below.
        let _ = self.end.send(end);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the launcher failed");
        }
        self.server.shutdown().await
    }
}

/// Text that cannot be guessed, fit for a header.
pub(super) fn secret() -> String {
    format!("{:032x}{:032x}", random(), random())
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // Without randomness there is no secret: better no service than one that can be guessed.
    if let Err(error) = getrandom::fill(&mut bytes) {
        unreachable!("the system has no randomness: {error}");
    }
    u128::from_ne_bytes(bytes)
}

/// What an earlier coordinator with this folder left, after the end of those nodes that this one has no use for.
async fn inherit(dir: &StateDir, settings: &Settings, launch: Option<&mut LaunchOptions>) -> Inheritance {
    let record = Record::read(&dir.launched());
    let wanted = match (launch, record.node_listener()) {
        (Some(launch), Some(known)) => {
            let mut expected = settings.server.node_listen;
            if expected.port() == 0 {
                expected.set_port(known.port());
            }
            launch.coordinator = coordinator_url(settings, expected);
            launch.survivors(&settings.nodes.specs())
        }
        _ => BTreeMap::new(),
    };
    Inheritance::take(record, &wanted, &dir.nodes()).await
}

/// Where launched nodes look for the coordinator whose node listener has this address.
fn coordinator_url(settings: &Settings, address: SocketAddr) -> String {
    let beyond_loopback = !address.ip().is_loopback();
    let authority = settings.server.advertise.clone().filter(|_| beyond_loopback);
    let scheme = if beyond_loopback { "https" } else { "http" };
    format!("{scheme}://{}", authority.unwrap_or_else(|| address.to_string()))
}

/// All but the coordinator's address, which is not known before it listens.
fn launch_options(
    settings: &Settings,
    secrets: &Arc<Secrets>,
    toolchain: Toolchain,
    temporary: &Path,
    keeping: &Keeping,
) -> anyhow::Result<LaunchOptions> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let host_id = host::host_id();
    let beyond_loopback = !settings.server.node_listen.ip().is_loopback();
    let secrets = secrets.clone();
    Ok(LaunchOptions {
        shim: program.clone(),
        program,
        arguments: vec!["node".into(), "--launched".into()],
        coordinator: String::new(),
        tls_ca: settings.server.tls.cert.clone().filter(|_| beyond_loopback),
        mesh_id: MESH_ID.to_owned(),
        failure_domain: host_id.clone(),
        host_id,
        environment_class: host::environment_class(&linters::interpreter(&toolchain)),
        toolchain,
        limits: linters::limits(settings),
        drain_timeout: settings.nodes.drain_timeout,
        work_dir: temporary.to_owned(),
        survival: keeping.dir().map(|dir| Survival { dir: dir.nodes(), grace: settings.nodes.orphan_grace }),
        cpu_slots: host::cpu_slots(),
        make_secret: Box::new(move |node| {
            let text = secret();
            secrets.expect(node, &text);
            Secret::new(text)
        }),
    })
}
