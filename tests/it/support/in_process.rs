//! A coordinator in this process, over a store and a folder that outlive it, and four nodes with a scripted ruff.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lintmesh::config::{self, Settings, Sources};
use lintmesh::engine::clock::SystemClock;
use lintmesh::node::agent::{self, NodeOptions, NodeSettings, PeerSettings};
use lintmesh::node::link;
use lintmesh::node::secret::Secret;
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::workspace_service_client::WorkspaceServiceClient;
use lintmesh::server::{self, MESH_ID, RunningServer, Secrets, ServerOptions, StartError, TreePolicy};
use lintmesh::store::{MemoryLog, MemoryStore};
use lintmesh::transport::listener::Tcp;
use lintmesh::types::Digest;
use lintmesh::workspace::blobs::BlobError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::super::node_session::world::{World, limits, toolchain};
use super::serve::{DEADLINE, channel};

const SECRET: &str = "open sesame";

/// What outlives a coordinator.
pub(crate) struct InProcess {
    log: MemoryLog,
    world: World,
    node_address: SocketAddr,
    /// Bytes that are said to be free.
    pub(crate) free: Arc<AtomicU64>,
    _nodes: tokio_util::sync::DropGuard,
}

impl InProcess {
    /// Starts a coordinator and its nodes. Their ruff finds nothing, but runs until [`InProcess::let_go`].
    pub(crate) async fn start() -> (Self, RunningServer) {
        let world = World::with_script("");
        let gate = world.dir.path().join("gate");
        let script =
            format!("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done\necho '[]'\n", gate.display());
        fs::write(&world.ruff, script).expect("written");
        let nodes = CancellationToken::new();
        let mut own = Self {
            log: MemoryLog::default(),
            world,
            node_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            free: Arc::new(AtomicU64::new(u64::MAX)),
            _nodes: nodes.clone().drop_guard(),
        };
        let server = own.again(None).await;
        own.node_address = server.node_address();
        for spec in Settings::default().nodes.specs() {
            let options = NodeOptions {
                settings: own.node(spec),
                network: Tcp,
                connector: link::tcp(),
                drain: CancellationToken::new(),
                orphaned: CancellationToken::new(),
                random: Arc::new(link::jitter),
            };
            tokio::spawn(agent::run(options, nodes.clone()));
        }
        assert!(server.wait_ready(DEADLINE).await, "all nodes join");
        (own, server)
    }

    /// Starts a coordinator where an earlier one ended, perhaps with room for fewer blobs than any settings may give it.
    pub(crate) async fn again(&self, max_store_bytes: Option<u64>) -> RunningServer {
        let until = Instant::now() + DEADLINE;
        loop {
            match server::start(self.options(max_store_bytes)).await {
                Ok(server) => return server,
                // What the earlier one left open goes with its last task.
                Err(StartError::Bind { .. } | StartError::Blobs(BlobError::InUse { .. }))
                    if Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn options(&self, max_store_bytes: Option<u64>) -> ServerOptions<MemoryStore> {
        let file = self.world.dir.path().join("lintmesh.toml");
        let (nodes, digest) = (self.node_address, Digest::of(SECRET.as_bytes()));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nnode_listen = \"{nodes}\"\n[state]\nmin_free_bytes = 1000\n[nodes]\nlaunch = \"external\"\n[[nodes.secrets]]\nname = \"tests\"\nsha256 = \"{digest}\"\n"
        );
        fs::write(&file, text).expect("written");
        let mut settings =
            config::load(&Sources { file: Some(file), ..Sources::default() }).expect("valid").settings;
        settings.workspace.max_store_bytes = max_store_bytes.unwrap_or(settings.workspace.max_store_bytes);
        let free = Arc::clone(&self.free);
        ServerOptions {
            secrets: Arc::new(Secrets::new(&settings)),
            node_port: None,
            settings,
            trees: TreePolicy::default(),
            tokens: Vec::new(),
            admin: false,
            toolchain_mode: None,
            blob_dir: self.blob_dir(),
            state_dir: Some(self.world.dir.path().to_owned()),
            free_bytes: Arc::new(move |_: &Path| Ok(free.load(Ordering::SeqCst))),
            store: MemoryStore::over(self.log.clone()),
            salvage: false,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(counted),
        }
    }

    fn node(&self, spec: lintmesh::types::NodeSpec) -> NodeSettings {
        let name = spec.node_id.to_string();
        NodeSettings {
            coordinator: format!("http://{}", self.node_address),
            tls_ca: None,
            spec,
            mesh_id: MESH_ID.to_owned(),
            secret: Secret::new(SECRET),
            host_id: name.clone(),
            failure_domain: name,
            environment_class: "any".to_owned(),
            toolchain: toolchain(&self.world.ruff),
            limits: limits(),
            drain_timeout: Duration::from_secs(5),
            orphan_grace: Duration::ZERO,
            work_dir: self.world.work_dir(),
            state_dir: None,
            peers: PeerSettings::default(),
            cpu_slots: 1,
            shim: env!("CARGO_BIN_EXE_lintmesh").into(),
        }
    }

    /// Where the blobs are.
    pub(crate) fn blob_dir(&self) -> PathBuf {
        self.world.dir.path().join("blobs")
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, bytes: &[u8]) -> PathBuf {
        let name = Digest::of(bytes).to_string();
        self.blob_dir().join(&name[..2]).join(&name[2..])
    }

    /// Lets every ruff end.
    pub(crate) fn let_go(&self) {
        fs::write(self.world.dir.path().join("gate"), "").expect("written");
    }
}

/// Ids that differ.
fn counted() -> u128 {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    u128::from(COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn coordinator(server: &RunningServer) -> CoordinatorServiceClient<Channel> {
    CoordinatorServiceClient::new(channel(server.api_address()))
}

pub(crate) fn workspace(server: &RunningServer) -> WorkspaceServiceClient<Channel> {
    WorkspaceServiceClient::new(channel(server.api_address()))
}

/// The states of all tasks of a run, by their names.
pub(crate) async fn tasks(server: &RunningServer, run: &str) -> BTreeMap<String, String> {
    let id = lintmesh::types::RunId::new(run).expect("valid");
    let read = move |core: &lintmesh::coordinator::Coordinator, _| {
        let tasks = core.state().runs.get(&id).map(|run| run.tasks.clone()).unwrap_or_default();
        tasks.iter().map(|task| (task.name.to_string(), format!("{:?}", task.state))).collect()
    };
    server.engine().query(read).await.expect("runs")
}
