//! A coordinator in this process, with its state in a folder: it can be killed, or stopped in order, and started anew at
//! the same address.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lintmesh::config::{self, Settings, Sources};
use lintmesh::engine::Handle;
use lintmesh::engine::clock::SystemClock;
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::server::{self, RunningServer, Secrets, ServerOptions, StartError, TreePolicy};
use lintmesh::store::{EmbeddedOptions, EmbeddedStore};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tonic::transport::{Channel, Endpoint};

use super::serve::DEADLINE;

const STATE: &str = "state.redb";

/// The coordinator, or the place where there was one.
pub(crate) struct Coordinator {
    dir: tempfile::TempDir,
    settings: Settings,
    running: Option<Running>,
    current: watch::Sender<Option<Handle>>,
}

struct Running {
    /// All of it runs in here: gone with it, as with a process.
    runtime: Runtime,
    stop: oneshot::Sender<oneshot::Sender<()>>,
}

impl Coordinator {
    /// With settings (TOML) beside its addresses; without nodes.
    pub(crate) async fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("lintmesh.toml");
        let text = format!("[server]\nlisten = \"127.0.0.1:0\"\nnode_listen = \"127.0.0.1:0\"\n{settings}");
        std::fs::write(&file, text).expect("written");
        let loaded = config::load(&Sources { file: Some(file), ..Sources::default() });
        let settings = loaded.expect("valid").settings;
        let (current, _) = watch::channel(None);
        let mut coordinator = Self { dir, settings, running: None, current };
        coordinator.begin().await;
        coordinator
    }

    /// Starts it, where and with what the one before was.
    pub(crate) async fn begin(&mut self) {
        assert!(self.running.is_none(), "there is one");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let (settings, dir) = (self.settings.clone(), self.dir.path().to_owned());
        let (begun, begins) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<oneshot::Sender<()>>();
        runtime.spawn(async move {
            let server = started(&settings, &dir).await;
            let _ = begun.send((server.api_address(), server.node_address(), server.engine()));
            // A killed one never hears of it.
            let Ok(done) = stopped.await else { return std::future::pending().await };
            server.shutdown().await;
            let _ = done.send(());
        });
        let (api, nodes, engine) =
            tokio::time::timeout(DEADLINE, begins).await.expect("it starts").expect("no panic");
        (self.settings.server.listen, self.settings.server.node_listen) = (api, nodes);
        self.running = Some(Running { runtime, stop });
        self.current.send_replace(Some(engine));
    }

    /// Kills it: what it was about to do it does not do, and its connections break.
    pub(crate) fn kill(&mut self) {
        let running = self.running.take().expect("there is one");
        self.current.send_replace(None);
        running.runtime.shutdown_background();
    }

    /// Stops it in order.
    pub(crate) async fn stop(&mut self) {
        let running = self.running.take().expect("there is one");
        let (done, stopped) = oneshot::channel();
        assert!(running.stop.send(done).is_ok(), "it listens");
        tokio::time::timeout(DEADLINE, stopped).await.expect("it ends").expect("no panic");
        self.current.send_replace(None);
        running.runtime.shutdown_background();
    }

    /// The engine of each start; none while there is no coordinator.
    pub(crate) fn engines(&self) -> watch::Receiver<Option<Handle>> {
        self.current.subscribe()
    }

    pub(crate) fn engine(&self) -> Handle {
        self.current.borrow().clone().expect("there is one")
    }

    /// Its store, while there is no coordinator.
    pub(crate) async fn store(&self) -> EmbeddedStore {
        assert!(self.running.is_none(), "the coordinator has it");
        let file = self.dir.path().join(STATE);
        let patience = tokio::time::Instant::now() + DEADLINE;
        loop {
            match EmbeddedStore::open(&file, EmbeddedOptions::default()) {
                Ok(store) => return store,
                Err(trouble) => assert!(tokio::time::Instant::now() < patience, "{trouble}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.settings.server.listen
    }

    /// Where nodes join.
    pub(crate) fn node_listener(&self) -> SocketAddr {
        self.settings.server.node_listen
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).expect("valid").connect_lazy()
    }

    pub(crate) fn client(&self) -> CoordinatorServiceClient<Channel> {
        CoordinatorServiceClient::new(self.channel())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
    }
}

/// The one before needs a moment to let go of its addresses and its files.
async fn started(settings: &Settings, dir: &Path) -> RunningServer {
    let patience = tokio::time::Instant::now() + DEADLINE;
    loop {
        let trouble = match attempt(settings, dir).await {
            Ok(server) => return server,
            Err(trouble) => trouble,
        };
        assert!(tokio::time::Instant::now() < patience, "it does not start: {trouble}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn attempt(settings: &Settings, dir: &Path) -> Result<RunningServer, String> {
    let file = dir.join(STATE);
    let store = EmbeddedStore::open(&file, EmbeddedOptions::default()).map_err(|error| error.to_string())?;
    let options = ServerOptions {
        secrets: Arc::new(Secrets::new(settings)),
        node_port: None,
        settings: settings.clone(),
        trees: TreePolicy::default(),
        tokens: Vec::new(),
        admin: false,
        toolchain_mode: None,
        blob_dir: dir.join("blobs"),
        state_dir: Some(dir.to_owned()),
        free_bytes: Arc::new(server::free_bytes),
        store,
        salvage: false,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(random),
    };
    server::start(options).await.map_err(|error: StartError| error.to_string())
}

fn random() -> u128 {
    let parts = [(); 4].map(|()| (lintmesh::node::link::jitter() * f64::from(u32::MAX)) as u32);
    parts.into_iter().fold(0, |all, part| all << 32 | u128::from(part))
}
