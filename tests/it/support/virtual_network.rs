//! A coordinator and nodes on a simulated network in virtual time: the real accept loop, layers, services, engine and
//! agent, over connections that can be cut, held and reset.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use lintmesh::config::{self, Settings, Sources};
use lintmesh::engine::clock::SystemClock;
use lintmesh::linters::process::Limits;
use lintmesh::linters::toolchain::{Toolchain, ToolchainMode};
use lintmesh::node::agent::{self, NodeOptions, NodeSettings, PeerSettings};
use lintmesh::node::link::Connector;
use lintmesh::node::secret::Secret;
use lintmesh::server::{MESH_ID, Secrets, ServerOptions, TreePolicy, start_on};
use lintmesh::store::MemoryStore;
use lintmesh::transport::listener::{Bind, Listener};
use lintmesh::types::{Digest, NodeId, NodeSpec, NodeStatus};
use tokio_util::sync::CancellationToken;
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

pub(crate) const COORDINATOR: &str = "coordinator";
pub(crate) const API_PORT: u16 = 50051;
const NODE_PORT: u16 = 50053;
const PEER_PORT: u16 = 50054;
const SECRET: &str = "open sesame";

/// Far longer than anything here lasts, in virtual time.
const LONG: Duration = Duration::from_secs(3600);

/// A change of a node's status at the coordinator, and its virtual time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub(crate) at: Duration,
    pub(crate) node: String,
    pub(crate) status: NodeStatus,
}

/// What happened, as the processes of the simulation wrote it down.
#[derive(Debug, Default)]
struct Record {
    changes: Vec<Change>,
    /// When connections to the listener of nodes were accepted.
    accepted: Vec<Duration>,
}

/// The simulation.
pub(crate) struct VirtualNetwork {
    pub(crate) sim: Sim<'static>,
    record: Arc<Mutex<Record>>,
    dir: tempfile::TempDir,
}

impl VirtualNetwork {
    /// With a coordinator of these settings of `server` (TOML); messages take 10 to 30 ms.
    pub(crate) fn new(seed: u64, settings: &str) -> Self {
        let sim = Builder::new()
            .rng_seed(seed)
            .simulation_duration(LONG)
            .tick_duration(Duration::from_millis(10))
            .min_message_latency(Duration::from_millis(10))
            .max_message_latency(Duration::from_millis(30))
            .build();
        let dir = tempfile::tempdir().expect("a folder");
        let mut network = Self { sim, record: Arc::default(), dir };
        let settings = network.settings(settings);
        let (record, blobs) = (Arc::clone(&network.record), network.dir.path().join("blobs"));
        network.sim.host(COORDINATOR, move || {
            let (settings, record, blobs) = (settings.clone(), Arc::clone(&record), blobs.clone());
            async move { coordinate(settings, record, &blobs).await }
        });
        network
    }

    fn settings(&self, more: &str) -> Settings {
        let file = self.dir.path().join("lintmesh.toml");
        let digest = Digest::of(SECRET.as_bytes());
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{API_PORT}\"\nnode_listen = \"127.0.0.1:{NODE_PORT}\"\n{more}\n[nodes]\nlaunch = \"external\"\n[[nodes.secrets]]\nname = \"tests\"\nsha256 = \"{digest}\"\n"
        );
        std::fs::write(&file, text).expect("written");
        config::load(&Sources { file: Some(file), ..Sources::default() }).expect("valid").settings
    }

    /// Adds a node of one of the default specialisations, or of another name.
    pub(crate) fn node(&mut self, name: &str) {
        let defaults = Settings::default().nodes.specs();
        let id = NodeId::new(name).expect("a name");
        let own = defaults.iter().find(|spec| spec.node_id == id).cloned();
        let spec = own.unwrap_or_else(|| NodeSpec { node_id: id, ..defaults[0].clone() });
        let work = self.dir.path().join(format!("{name}-work"));
        std::fs::create_dir(&work).expect("created");
        let settings = NodeSettings {
            coordinator: format!("http://{COORDINATOR}:{NODE_PORT}"),
            tls_ca: None,
            spec,
            mesh_id: MESH_ID.to_owned(),
            secret: Secret::new(SECRET),
            host_id: name.to_owned(),
            failure_domain: name.to_owned(),
            environment_class: "none".to_owned(),
            toolchain: Toolchain {
                id: Digest::of(b"no tools"),
                mode: ToolchainMode::System,
                tools: BTreeMap::new(),
            },
            limits: Limits {
                wall: LONG,
                cpu: LONG,
                memory_bytes: 1 << 30,
                file_bytes: 1 << 20,
                output_bytes: 1 << 20,
                processes: 8,
            },
            drain_timeout: Duration::from_secs(5),
            orphan_grace: Duration::ZERO,
            work_dir: work,
            state_dir: None,
            peers: PeerSettings {
                // Plain text is for loopback only; the simulated network minds the port.
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PEER_PORT)),
                advertise: Some(format!("{name}:{PEER_PORT}")),
                tls: None,
            },
            cpu_slots: 1,
            shim: env!("CARGO_BIN_EXE_lintmesh").into(),
        };
        let drawn = format!("pauses of {name}");
        self.sim.host(name, move || {
            let options = NodeOptions {
                settings: settings.clone(),
                network: Virtual { record: None },
                connector: connector(),
                drain: CancellationToken::new(),
                orphaned: CancellationToken::new(),
                random: repeatable(drawn.clone()),
            };
            async move { Ok(agent::run(options, CancellationToken::new()).await?) }
        });
    }

    /// Lets virtual time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.sim.step().expect("no process ends by itself");
        }
    }

    /// Lets virtual time pass until `done`; returns how long it took.
    pub(crate) fn until(&mut self, what: &str, most: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.sim.elapsed();
        while !done(self) {
            let took = self.sim.elapsed() - begin;
            assert!(took < most, "in vain for {took:?}: {what}; {:?}", self.changes(begin));
            self.sim.step().expect("no process ends by itself");
        }
        self.sim.elapsed() - begin
    }

    /// The status of each node, as the coordinator has it.
    pub(crate) fn statuses(&self) -> BTreeMap<String, NodeStatus> {
        let record = self.record.lock().unwrap();
        record.changes.iter().map(|change| (change.node.clone(), change.status)).collect()
    }

    /// The status of one node.
    pub(crate) fn status(&self, node: &str) -> Option<NodeStatus> {
        self.statuses().get(node).copied()
    }

    /// Whether so many nodes are ACTIVE.
    pub(crate) fn active(&self, count: usize) -> bool {
        self.statuses().values().filter(|status| **status == NodeStatus::Active).count() == count
    }

    /// The changes of status from a moment on.
    pub(crate) fn changes(&self, since: Duration) -> Vec<Change> {
        let record = self.record.lock().unwrap();
        record.changes.iter().filter(|change| change.at >= since).cloned().collect()
    }

    /// When connections of nodes were accepted, from a moment on.
    pub(crate) fn accepted(&self, since: Duration) -> Vec<Duration> {
        let record = self.record.lock().unwrap();
        record.accepted.iter().filter(|at| **at >= since).copied().collect()
    }
}

/// The coordinator's process.
async fn coordinate(settings: Settings, record: Arc<Mutex<Record>>, blobs: &Path) -> turmoil::Result {
    let options = ServerOptions {
        secrets: Arc::new(Secrets::new(&settings)),
        node_port: None,
        settings,
        trees: TreePolicy::default(),
        tokens: Vec::new(),
        admin: false,
        toolchain_mode: None,
        blob_dir: blobs.to_owned(),
        state_dir: None,
        free_bytes: Arc::new(lintmesh::server::free_bytes),
        store: MemoryStore::new(),
        salvage: false,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(|| 0x5eed),
    };
    let server = start_on(&Virtual { record: Some(Arc::clone(&record)) }, options).await?;
    let (engine, mut revision) = (server.engine(), server.engine().revision());
    let mut known = BTreeMap::new();
    loop {
        let members = engine
            .query(|core, _| {
                let members = core.state().members.iter();
                members.map(|(id, member)| (id.to_string(), member.status)).collect::<BTreeMap<_, _>>()
            })
            .await?;
        for (node, status) in members {
            if known.insert(node.clone(), status) != Some(status) {
                let at = turmoil::sim_elapsed().expect("in the simulation");
                record.lock().unwrap().changes.push(Change { at, node, status });
            }
        }
        revision.changed().await?;
    }
}

/// The simulated network, as one host sees it.
struct Virtual {
    record: Option<Arc<Mutex<Record>>>,
}

impl Bind for Virtual {
    type Listener = VirtualListener;

    async fn bind(&self, address: SocketAddr) -> io::Result<(VirtualListener, SocketAddr)> {
        // Its hosts have one address each.
        let inner = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?;
        let record = self.record.clone().filter(|_| address.port() == NODE_PORT);
        Ok((VirtualListener { inner, record }, address))
    }
}

struct VirtualListener {
    inner: TcpListener,
    record: Option<Arc<Mutex<Record>>>,
}

impl Listener for VirtualListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, address) = self.inner.accept().await?;
        if let Some(record) = &self.record {
            record.lock().unwrap().accepted.push(turmoil::sim_elapsed().expect("in the simulation"));
        }
        Ok((stream, Some(address)))
    }
}

/// Connects on the simulated network.
pub(crate) fn connector() -> Connector {
    Arc::new(|endpoint| endpoint.connect_with_connector_lazy(tower::service_fn(connect)))
}

async fn connect(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let host = uri.host().unwrap_or_default().to_owned();
    let port = uri.port_u16().unwrap_or_default();
    Ok(TokioIo::new(TcpStream::connect((host, port)).await?))
}

/// Numbers from 0 to 1 that are the same in every execution, and differ between names.
fn repeatable(name: String) -> Arc<dyn Fn() -> f64 + Send + Sync> {
    let count = AtomicU32::new(0);
    Arc::new(move || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let digest = Digest::of(format!("{name} {number}").as_bytes());
        let [a, b, c, d, ..] = *digest.as_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX)
    })
}
