//! A coordinator in this process, and the nodes it launches on this machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::linters;
use super::supervisor::Supervisor;
use crate::config::{Launch, Settings};
use crate::engine::clock::SystemClock;
use crate::linters::toolchain::Toolchain;
use crate::middleware::auth::Token;
use crate::node::host;
use crate::node::launcher::command::RestartCommand;
use crate::node::launcher::{LaunchOptions, Launcher};
use crate::node::secret::Secret;
use crate::server::{self, MESH_ID, RunningServer, ServerOptions, TreePolicy};
use crate::store::MemoryStore;

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
}

/// A running coordinator and the nodes it launched.
pub(super) struct LocalMesh {
    server: Arc<RunningServer>,
    supervisor: JoinHandle<()>,
    stopping: CancellationToken,
    /// Blobs and the nodes' scratch folders; gone with the mesh.
    _folder: TempDir,
}

impl LocalMesh {
    /// Starts the coordinator, then its nodes. Does not wait for them.
    pub(super) async fn start(options: MeshOptions) -> anyhow::Result<Self> {
        let MeshOptions { settings, trees, tokens, admin, toolchain } = options;
        let folder = tempfile::Builder::new()
            .prefix("lintmesh-")
            .tempdir()
            .context("a folder for temporary files cannot be made; is the disk full, or TMPDIR wrong?")?;
        let blob_dir = settings.workspace.blob_dir.clone().unwrap_or_else(|| folder.path().join("blobs"));
        let launch = settings.nodes.launch == Launch::Local;
        let server = server::start(ServerOptions {
            settings: settings.clone(),
            trees,
            tokens,
            admin,
            toolchain_mode: toolchain.as_ref().map(|toolchain| toolchain.mode.clone()),
            blob_dir,
            state_dir: None,
            free_bytes: Arc::new(server::free_bytes),
            store: MemoryStore::new(),
            salvage: false,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(random),
        })
        .await?;
        let stopping = CancellationToken::new();
        let server = Arc::new(server);
        let launched = match toolchain.filter(|_| launch) {
            None => None,
            Some(toolchain) => {
                let work_dir = folder.path().join("nodes");
                std::fs::create_dir_all(&work_dir).context("a folder for the nodes cannot be made")?;
                let options = launch_options(&settings, &server, toolchain, work_dir)?;
                Some(Launcher::start(settings.nodes.specs(), options)?)
            }
        };
        let command = RestartCommand {
            words: settings.nodes.restart_command.clone(),
            bound: settings.nodes.restart_timeout,
        };
        let command = Some(command).filter(|command| !command.words.is_empty());
        let supervisor = Supervisor::new(server.clone(), launched, command);
        let supervisor = tokio::spawn(supervisor.run(stopping.clone()));
        Ok(Self { server, supervisor, stopping, _folder: folder })
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

    /// Ends everything in order, within a bound: clients first, then the nodes, then the listeners.
    pub(super) async fn stop(self) {
        self.server.retire().await;
        self.stopping.cancel();
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the launcher failed");
        }
        self.server.shutdown().await;
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

fn launch_options(
    settings: &Settings,
    server: &RunningServer,
    toolchain: Toolchain,
    work_dir: std::path::PathBuf,
) -> anyhow::Result<LaunchOptions> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let host_id = host::host_id();
    let secrets = server.secrets();
    let address = server.node_address();
    let beyond_loopback = !address.ip().is_loopback();
    let authority = settings.server.advertise.clone().filter(|_| beyond_loopback);
    let scheme = if beyond_loopback { "https" } else { "http" };
    Ok(LaunchOptions {
        shim: program.clone(),
        program,
        arguments: vec!["node".into(), "--launched".into()],
        coordinator: format!("{scheme}://{}", authority.unwrap_or_else(|| address.to_string())),
        tls_ca: settings.server.tls.cert.clone().filter(|_| beyond_loopback),
        mesh_id: MESH_ID.to_owned(),
        failure_domain: host_id.clone(),
        host_id,
        environment_class: host::environment_class(&linters::interpreter(&toolchain)),
        toolchain,
        limits: linters::limits(settings),
        drain_timeout: settings.nodes.drain_timeout,
        work_dir,
        cpu_slots: host::cpu_slots(),
        make_secret: Box::new(move |node| {
            let text = secret();
            secrets.expect(node, &text);
            Secret::new(text)
        }),
    })
}
