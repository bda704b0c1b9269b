//! An engine over a store that shows what it is given, and nodes played by the test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::coordinator::decision::Reply;
use crate::coordinator::event::{Event, RunOrder};
use crate::coordinator::input::{Ending, Facts, Hello, Input};
use crate::coordinator::message::{Assign, Message};
use crate::coordinator::settings::Settings;
use crate::engine::clock::SystemClock;
use crate::engine::{Engine, EngineError, EngineOptions, Handle, RestartOrder, codec};
use crate::store::{Loaded, MemoryLog, MemoryStore, Record, Store, StoreError};
use crate::types::{
    Digest, Epoch, FaultCause, Incarnation, Measured, NodeId, NodeSpec, NodeStatus, Outcome, Plan, RunId,
    SessionId, Stage, Summary, TaskOutput,
};

/// What a store was given: one entry for each append.
pub(super) type Appended = Arc<Mutex<Vec<Vec<Event>>>>;

/// A store that shows what it was given, and fails when it is told to.
pub(super) struct ShownStore {
    inner: MemoryStore,
    appended: Appended,
    broken: Arc<Mutex<bool>>,
}

impl Store for ShownStore {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.inner.open_epoch()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.inner.load()
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

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        if *self.broken.lock().expect("no panic") {
            return Err(StoreError::Fenced { own: epoch, current: Epoch(epoch.0 + 1) });
        }
        let events = batch.iter().map(|record| codec::decode(record).expect("readable")).collect();
        self.appended.lock().expect("no panic").push(events);
        self.inner.append(epoch, expected, batch)
    }
}

pub(super) struct Rig {
    pub(super) handle: Handle,
    pub(super) appended: Appended,
    pub(super) broken: Arc<Mutex<bool>>,
    pub(super) restarts: mpsc::Receiver<RestartOrder>,
    pub(super) engine: JoinHandle<Result<(), EngineError>>,
}

pub(super) fn rig(settings: Settings) -> Rig {
    rig_over(settings, MemoryLog::default())
}

/// A rig that finds what is in the log.
pub(super) fn rig_over(settings: Settings, log: MemoryLog) -> Rig {
    let (appended, broken) = (Appended::default(), Arc::new(Mutex::new(false)));
    let store =
        ShownStore { inner: MemoryStore::over(log), appended: appended.clone(), broken: broken.clone() };
    let (restart, restarts) = mpsc::channel(1);
    let clock = Arc::new(SystemClock::new());
    let options = EngineOptions { settings, store, clock, restarts: restart, salvage: false };
    let (engine, handle) = Engine::open(options).expect("opens");
    Rig { handle, appended, broken, restarts, engine: tokio::spawn(engine.run()) }
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

pub(super) fn hello(name: &str) -> Hello {
    let required = Settings::default().required;
    let capabilities = Stage::ALL.into_iter().flat_map(|stage| required.of(stage).clone()).collect();
    Hello {
        spec: NodeSpec {
            node_id: node(name),
            agent_type: "generalist".into(),
            capabilities,
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

pub(super) fn start(name: &str) -> Input {
    let order = RunOrder {
        caller: "tester".into(),
        request_id: name.into(),
        body: Digest::of(name.as_bytes()),
        project: "project".into(),
        priority: Default::default(),
        supersede_key: String::new(),
        manifest: Digest::of(b"manifest"),
        files: 0,
        spec: Digest::of(b"spec"),
        tree_root: None,
        tools: BTreeMap::new(),
        timeout: Duration::from_secs(3600),
        source: crate::types::RequestKind::InPlace,
    };
    Input::StartRun { run: RunId::new(name).expect("valid"), order: Box::new(order) }
}

impl Rig {
    pub(super) async fn join(&self, name: &str) -> (SessionId, mpsc::Receiver<Message>) {
        let (session, messages) = self.handle.sessions().open();
        let reply = self.handle.decide(Input::Joined { session, hello: Box::new(hello(name)) }).await;
        assert!(matches!(reply, Ok(Reply::Welcome { .. })), "{reply:?}");
        (session, messages)
    }

    pub(super) async fn status(&self, name: &str) -> (NodeStatus, Option<FaultCause>) {
        let id = node(name);
        let read = move |core: &crate::coordinator::Coordinator, _| {
            let member = &core.state().members[&id];
            (member.status, member.cause)
        };
        self.handle.query(read).await.expect("runs")
    }

    pub(super) fn stored(&self) -> Vec<Event> {
        self.appended.lock().expect("no panic").concat()
    }
}

pub(super) fn ended(name: &str, assign: &Assign) -> Input {
    let facts = match assign.task.stage {
        Stage::Plan => Facts::Plan(Plan { tools: Vec::new(), files: 0 }),
        Stage::Lint => Facts::Lint { error: None },
        Stage::Classify => Facts::Classify,
        Stage::Aggregate => Facts::Aggregate {
            outcome: Outcome::Clean,
            summary: Summary::default(),
            tool_errors: BTreeMap::new(),
        },
    };
    Input::TaskEnded {
        executor: node(name),
        incarnation: Incarnation(1),
        attempt: assign.attempt.clone(),
        ending: Ending::Made { output: TaskOutput { digest: Digest::of(b"blob"), size: 4 }, facts },
        measured: Measured::default(),
        via: None,
    }
}

/// Plays a node that does nothing but answer probes.
pub(super) fn answer_probes(
    handle: Handle,
    name: &'static str,
    session: SessionId,
    mut messages: mpsc::Receiver<Message>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            let Message::Probe { number } = message else { continue };
            let (round_trip, clock_offset_ms) = (Duration::ZERO, 0);
            let answer =
                Input::ProbeAnswered { session, node: node(name), number, round_trip, clock_offset_ms };
            if handle.decide(answer).await.is_err() {
                return;
            }
        }
    })
}

/// Plays a node: does each assignment at once.
pub(super) fn play(
    handle: Handle,
    name: &'static str,
    mut messages: mpsc::Receiver<Message>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if let Message::Assign(assign) = message
                && handle.decide(ended(name, &assign)).await.is_err()
            {
                return;
            }
        }
    })
}
