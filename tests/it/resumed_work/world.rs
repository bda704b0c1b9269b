//! A coordinator that can be cut off at any moment and started again on what it had stored, and its four nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lintmesh::config::{self, Settings, Sources};
use lintmesh::coordinator::Coordinator as Core;
use lintmesh::engine::clock::SystemClock;
use lintmesh::linters::toolchain::{Toolchain, ToolchainMode};
use lintmesh::node::agent::{self, NodeOptions, NodeSettings, PeerSettings};
use lintmesh::node::link;
use lintmesh::node::secret::Secret;
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::server::{self, MESH_ID, RunningServer, ServerOptions, TreePolicy};
use lintmesh::store::{MemoryLog, MemoryStore};
use lintmesh::transport::listener::Tcp;
use lintmesh::types::{Digest, NodeSpec, NodeStatus};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::super::node_session::coordinator::SECRET;
use super::super::node_session::world::{World, limits, toolchain};
use super::super::support::serve::{DEADLINE, channel};

/// A store, the folders of all processes, and the ports of the coordinator.
pub(super) struct Place {
    pub(super) log: MemoryLog,
    pub(super) tools: World,
    /// By this its linters are found among all processes.
    pub(super) mark: String,
    addresses: Option<(SocketAddr, SocketAddr)>,
}

/// A coordinator with threads of its own, so that nothing of it goes on once they are gone.
pub(super) struct Coordinator {
    pub(super) server: Arc<RunningServer>,
    runtime: Option<Runtime>,
}

/// A node's process, as far as it can be told from this one.
pub(super) struct Node {
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

impl Place {
    /// With a linter that runs until its `sleep` is ended, and then finds nothing.
    pub(super) fn new() -> Self {
        let (tools, mark) = World::with_endless_ruff();
        std::fs::write(&tools.ruff, format!("#!/bin/sh\nsleep {mark}\necho '[]'\n")).unwrap();
        Self { log: MemoryLog::default(), tools, mark, addresses: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tools.dir.path().join(name)
    }

    fn settings(&self, addresses: (SocketAddr, SocketAddr)) -> Settings {
        let file = self.path("lintmesh.toml");
        let text = format!(
            "[server]\nlisten = \"{}\"\nnode_listen = \"{}\"\n[nodes]\nlaunch = \"external\"\n\
             [[nodes.secrets]]\nname = \"tests\"\nsha256 = \"{}\"\n",
            addresses.0,
            addresses.1,
            Digest::of(SECRET.as_bytes())
        );
        std::fs::write(&file, text).expect("written");
        config::load(&Sources { file: Some(file), ..Sources::default() }).expect("valid").settings
    }

    /// Starts a coordinator on the store, on the ports of the one before.
    pub(super) async fn start(&mut self) -> Coordinator {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let started = self.start_at(self.addresses.unwrap_or((any, any)), "blobs").await;
        self.addresses = Some((started.server.api_address(), started.server.node_address()));
        started
    }

    /// Starts another one beside it on the same store.
    pub(super) async fn start_beside(&self) -> Coordinator {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        self.start_at((any, any), "more-blobs").await
    }

    async fn start_at(&self, addresses: (SocketAddr, SocketAddr), blobs: &str) -> Coordinator {
        static DRAWN: AtomicU64 = AtomicU64::new(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let (settings, store, blobs) = (self.settings(addresses), self.log.clone(), self.path(blobs));
        let starting = async {
            loop {
                let options = ServerOptions {
                    settings: settings.clone(),
                    trees: TreePolicy {
                        allowed_roots: Vec::new(),
                        allow_tree_code: false,
                        nodes_share_files: false,
                        allow_interpreter_paths: false,
                    },
                    tokens: Vec::new(),
                    admin: false,
                    toolchain_mode: None,
                    blob_dir: blobs.clone(),
                    store: MemoryStore::over(store.clone()),
                    salvage: false,
                    clock: Arc::new(SystemClock::new()),
                    random: Arc::new(|| u128::from(DRAWN.fetch_add(1, Ordering::Relaxed)) << 64),
                };
                match runtime.spawn(server::start(options)).await.expect("no panic") {
                    Ok(server) => return server,
                    // The threads of the one before may still hold its port, or its folder.
                    Err(error) => eprintln!("not started yet: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let server = tokio::time::timeout(DEADLINE, starting).await.expect("starts");
        Coordinator { server: Arc::new(server), runtime: Some(runtime) }
    }

    /// Starts the nodes.
    pub(super) fn nodes(&self) -> Vec<Node> {
        Settings::default().nodes.specs().into_iter().map(|spec| self.node(spec)).collect()
    }

    fn node(&self, spec: NodeSpec) -> Node {
        let (_, listener) = self.addresses.expect("a coordinator was started");
        let stop = CancellationToken::new();
        let settings = NodeSettings {
            coordinator: format!("http://{listener}"),
            tls_ca: None,
            spec,
            mesh_id: MESH_ID.to_owned(),
            secret: Secret::new(SECRET),
            host_id: "host".into(),
            failure_domain: "host".into(),
            environment_class: "any".into(),
            toolchain: Toolchain { mode: ToolchainMode::System, ..toolchain(&self.tools.ruff) },
            limits: limits(),
            drain_timeout: DEADLINE,
            work_dir: self.tools.work_dir(),
            state_dir: Some(self.path("state")),
            cpu_slots: 2,
            shim: env!("CARGO_BIN_EXE_lintmesh").into(),
            peers: PeerSettings::default(),
        };
        let options = NodeOptions {
            settings,
            network: Tcp,
            connector: link::tcp(),
            drain: CancellationToken::new(),
            random: Arc::new(link::jitter),
        };
        let running = agent::run(options, stop.clone());
        Node { stop, ended: tokio::spawn(async move { running.await.expect("ends in order") }) }
    }

    /// The results that nodes keep on disk.
    pub(super) fn kept(&self) -> Vec<PathBuf> {
        let nodes = std::fs::read_dir(self.path("state")).into_iter().flatten().flatten();
        let boxes = nodes.filter_map(|node| std::fs::read_dir(node.path().join("outbox")).ok());
        let files = boxes.flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "result")).collect()
    }
}

impl Coordinator {
    pub(super) fn client(&self) -> CoordinatorServiceClient<Channel> {
        CoordinatorServiceClient::new(channel(self.server.api_address()))
    }

    pub(super) async fn ask<T: Send + 'static>(&self, question: impl Fn(&Core) -> T + Send + 'static) -> T {
        self.server.engine().query(move |core, _| question(core)).await.expect("runs")
    }

    /// Waits until all nodes are connected and ACTIVE.
    pub(super) async fn until_joined(&self) {
        let waiting = async {
            loop {
                let are_here = self.ask(|core| {
                    let connected: BTreeMap<_, _> =
                        core.presences().iter().map(|(id, at)| (id.clone(), at.session.is_some())).collect();
                    core.state().members.len() == 4
                        && core.state().members.iter().all(|(id, member)| {
                            member.status == NodeStatus::Active && connected.get(id) == Some(&true)
                        })
                });
                if are_here.await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("all join");
    }

    /// Ends it without any of its doing: nobody is told, and nothing more is stored.
    pub(super) fn crash(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Node {
    /// Ends it, with whatever it runs.
    pub(super) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.ended).await.expect("ends").expect("no panic");
    }
}
