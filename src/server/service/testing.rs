//! A server's services on a store and a folder of blobs that fail when they are told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Parts, Service, TreePolicy};
use crate::config;
use crate::coordinator::decision::Reply;
use crate::coordinator::input::{Hello, Input};
use crate::coordinator::message::Message;
use crate::coordinator::settings::Settings;
use crate::engine::clock::SystemClock;
use crate::engine::{Engine, EngineOptions, Storage};
use crate::server::needed::Pinned;
use crate::server::needed::tests::order;
use crate::server::room::{Place, Room};
use crate::store::{Loaded, MemoryStore, Record, Store, StoreError};
use crate::types::{AttemptRef, Digest, Epoch, Incarnation, NodeId, NodeSpec, RunId, SessionId, Stage};
use crate::workspace::blobs::testing::{Faults, Faulty};
use crate::workspace::blobs::{BlobLimits, BlobStore};

/// The services, and what they stand on.
pub(crate) struct Rig {
    pub(crate) service: Arc<Service>,
    /// Of the blobs.
    pub(crate) faults: Faults,
    /// Whether no fact can be stored.
    full: Arc<AtomicBool>,
    /// Bytes that are said to be free; one must be.
    pub(crate) free: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// With room for so many bytes of blobs.
    pub(crate) fn start(blob_bytes: u64) -> Self {
        let (restarts, _) = mpsc::channel(1);
        let full = Arc::new(AtomicBool::new(false));
        let store = Fillable { inner: MemoryStore::new(), full: full.clone() };
        let (settings, clock) = (Settings::default(), Arc::new(SystemClock::new()));
        let options = EngineOptions { settings, store, clock, restarts, salvage: false };
        let (engine, handle) = Engine::open(options).expect("opens");
        tokio::spawn(engine.run());
        let dir = tempfile::tempdir().expect("a folder");
        let (objects, faults) = Faulty::open(dir.path());
        let limits = BlobLimits { max_blob_bytes: blob_bytes, max_total_bytes: blob_bytes };
        let place = Place { dir: dir.path().to_owned(), what: "blobs", setting: "workspace.blob_dir" };
        let free = Arc::new(AtomicU64::new(u64::MAX));
        let told = free.clone();
        let service = Service::new(Parts {
            engine: handle,
            blobs: BlobStore::load(objects, limits).expect("loads"),
            pinned: Pinned::default(),
            settings: config::Settings::default(),
            trees: TreePolicy::default(),
            toolchain_mode: None,
            random: Arc::new(|| 7),
            draining: CancellationToken::new(),
            room: Some(Room::new(vec![place], 1, Arc::new(move |_| Ok(told.load(Ordering::SeqCst))))),
        });
        Self { service, faults, full, free, _dir: dir }
    }

    /// Has a run start.
    pub(crate) async fn start_run(&self, name: &str) -> RunId {
        let run = RunId::new(name).expect("valid");
        let reply = self.service.engine.decide(starting(&run)).await;
        assert_eq!(reply, Ok(Reply::Run(run.clone())));
        run
    }

    /// Until [`Rig::go_on`] nothing is decided any more: what was asked of the core last cannot be stored.
    pub(crate) async fn stall(&self) {
        self.full.store(true, Ordering::SeqCst);
        let engine = self.service.engine.clone();
        let run = RunId::new("the-one-that-is-too-many").expect("valid");
        tokio::spawn(async move { engine.decide(starting(&run)).await });
        let mut storage = self.service.engine.storage_changes();
        storage.wait_for(|now| *now == Storage::Full).await.expect("runs");
    }

    /// Facts can be stored again.
    pub(crate) fn go_on(&self) {
        self.full.store(false, Ordering::SeqCst);
    }

    /// Has a node join.
    pub(crate) async fn join(&self, name: &str) -> (SessionId, mpsc::Receiver<Message>) {
        let (session, messages) = self.service.engine.sessions().open();
        let reply = self.service.engine.decide(Input::Joined { session, hello: Box::new(hello(name)) }).await;
        assert!(matches!(reply, Ok(Reply::Welcome { .. })), "{reply:?}");
        (session, messages)
    }
}

/// The next attempt that a node is given.
pub(crate) async fn assigned(messages: &mut mpsc::Receiver<Message>) -> AttemptRef {
    loop {
        if let Message::Assign(assign) = messages.recv().await.expect("open") {
            return assign.attempt.clone();
        }
    }
}

fn starting(run: &RunId) -> Input {
    let order = Box::new(order(Digest::of(b"manifest"), Digest::of(b"spec"), None));
    Input::StartRun { run: run.clone(), order }
}

/// What a node says that can do all and runs nothing.
pub(crate) fn hello(name: &str) -> Hello {
    let required = Settings::default().required;
    Hello {
        spec: NodeSpec {
            node_id: NodeId::new(name).expect("valid"),
            agent_type: "generalist".into(),
            capabilities: Stage::ALL.into_iter().flat_map(|stage| required.of(stage).clone()).collect(),
            fallback_capabilities: Default::default(),
            tools_focus: Vec::new(),
            priority_weight: 1.0,
            max_concurrent_tasks: 4,
        },
        incarnation: Incarnation(1),
        host_id: "host".into(),
        cpu_slots: 2,
        toolchain_id: "toolchain".into(),
        tools: BTreeMap::new(),
        environment_class: "any".into(),
        failure_domain: "any".into(),
        peer_endpoint: None,
        draining: false,
        sandbox: "none".into(),
        process_id: 1,
        running: Vec::new(),
        unacknowledged: Vec::new(),
    }
}

/// A store that is full when it is told to be.
struct Fillable {
    inner: MemoryStore,
    full: Arc<AtomicBool>,
}

impl Store for Fillable {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.inner.open_epoch()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.inner.load()
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(StoreError::Full { place: "as a test".to_owned() }),
            false => self.inner.append(epoch, expected, batch),
        }
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        self.inner.snapshot(epoch, position, records)
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        self.inner.position(epoch)
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }
}
