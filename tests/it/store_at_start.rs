//! A coordinator whose store or blobs fail while it starts or ends says so, within a bound; it neither hangs nor passes
//! over it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use lintmesh::config::{self, Settings, Sources};
use lintmesh::coordinator::input::Input;
use lintmesh::engine::clock::SystemClock;
use lintmesh::engine::{EngineError, Stopped};
use lintmesh::server::{self, RunningServer, Secrets, ServerOptions, StartError, TreePolicy};
use lintmesh::store::{Loaded, MemoryLog, MemoryStore, Record, Store, StoreError};
use lintmesh::types::Epoch;
use lintmesh::workspace::blobs::{BlobError, LocalObjects};

use crate::support::serve::DEADLINE;

type Failure = Arc<Mutex<Option<fn() -> StoreError>>>;

/// A store that appends nothing while it is to fail.
struct Failing {
    inner: MemoryStore,
    failure: Failure,
    /// Lives as long as the store.
    _open: Arc<()>,
}

impl Store for Failing {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.inner.open_epoch()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.inner.load()
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        match *self.failure.lock().expect("no panic") {
            Some(failure) => Err(failure()),
            None => self.inner.append(epoch, expected, batch),
        }
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        self.inner.snapshot(epoch, position, records)
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        self.inner.position(epoch)
    }

    fn blocks(&self) -> bool {
        true
    }
}

fn full() -> StoreError {
    StoreError::Full { place: "a folder".to_owned() }
}

fn fenced() -> StoreError {
    StoreError::Fenced { own: Epoch(1), current: Epoch(2) }
}

struct Rig {
    dir: tempfile::TempDir,
    log: MemoryLog,
    failure: Failure,
    open: Arc<()>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Self { dir, log: MemoryLog::default(), failure: Failure::default(), open: Arc::new(()) }
    }

    fn fail(&self, failure: fn() -> StoreError) {
        *self.failure.lock().expect("no panic") = Some(failure);
    }

    fn is_closed(&self) -> bool {
        Arc::strong_count(&self.open) == 1
    }

    async fn start(&self) -> Result<RunningServer, StartError> {
        let file = self.dir.path().join("lintmesh.toml");
        let text = "[server]\nlisten = \"127.0.0.1:0\"\nnode_listen = \"127.0.0.1:0\"\n";
        std::fs::write(&file, text).expect("written");
        let settings: Settings =
            config::load(&Sources { file: Some(file), ..Sources::default() }).expect("valid").settings;
        let options = ServerOptions {
            secrets: Arc::new(Secrets::new(&settings)),
            node_port: None,
            settings,
            trees: TreePolicy::default(),
            tokens: Vec::new(),
            admin: false,
            toolchain_mode: None,
            blob_dir: self.dir.path().join("blobs"),
            state_dir: Some(self.dir.path().to_owned()),
            free_bytes: Arc::new(|_: &Path| Ok(u64::MAX)),
            store: Failing {
                inner: MemoryStore::over(self.log.clone()),
                failure: self.failure.clone(),
                _open: self.open.clone(),
            },
            salvage: false,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(|| 7),
        };
        tokio::time::timeout(DEADLINE, server::start(options)).await.expect("it does not hang")
    }
}

#[tokio::test]
async fn a_start_without_room_ends_and_says_so() {
    let rig = Rig::new();
    rig.fail(full);
    match rig.start().await {
        Err(StartError::Engine(EngineError::Store(StoreError::Full { place }))) => {
            assert_eq!(place, rig.dir.path().display().to_string());
        }
        other => panic!("{:?}", other.map(|server| server.api_address())),
    }
    assert!(rig.is_closed(), "another can have it at once");
}

#[tokio::test]
async fn a_start_that_is_refused_by_its_store_says_why() {
    let rig = Rig::new();
    rig.fail(fenced);
    match rig.start().await {
        Err(StartError::Engine(EngineError::Store(StoreError::Fenced { .. }))) => {}
        other => panic!("{:?}", other.map(|server| server.api_address())),
    }
    assert!(rig.is_closed());
}

#[tokio::test]
async fn blobs_are_there_before_there_is_a_coordinator() {
    let rig = Rig::new();
    let other = LocalObjects::open(&rig.dir.path().join("blobs")).expect("opened");
    let refused = rig.start().await.map(|server| server.api_address());
    assert!(matches!(refused, Err(StartError::Blobs(BlobError::InUse { .. }))), "{refused:?}");
    drop(other);
    // A grace that had begun would have been raised an epoch for.
    let first = MemoryStore::over(rig.log.clone()).open_epoch();
    assert_eq!(first.expect("opens"), Epoch(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_while_the_server_ends_is_told_once() {
    let rig = Rig::new();
    let server = rig.start().await.expect("starts");
    rig.fail(fenced);
    assert_eq!(server.engine().decide(Input::Configure(Vec::new())).await, Err(Stopped));
    server.drain(DEADLINE).await;
    let why = server.shutdown().await.expect("it failed");
    assert!(why.contains("was fenced"), "{why}");
    assert!(rig.is_closed());
    assert_eq!(server.shutdown().await, None, "it was told");

    let rig = Rig::new();
    let server = rig.start().await.expect("starts");
    assert_eq!(server.shutdown().await, None, "it ends since it was told to");
    assert!(rig.is_closed());
}
