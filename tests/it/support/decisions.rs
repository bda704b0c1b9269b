//! A script of decisions played to an engine over a store that fails, through as many starts of it as that takes; then
//! what it said is held against what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lintmesh::coordinator::decision::Reply;
use lintmesh::coordinator::event::{Event, RunEvent, RunOrder};
use lintmesh::coordinator::input::{Ending, Facts, Hello, Input};
use lintmesh::coordinator::message::{Assign, Message};
use lintmesh::coordinator::settings::Settings;
use lintmesh::coordinator::state::State;
use lintmesh::engine::clock::SystemClock;
use lintmesh::engine::codec::{self, Kept};
use lintmesh::engine::{Engine, EngineError, EngineOptions, Handle, Stopped};
use lintmesh::store::{Record, Store};
use lintmesh::types::{
    Digest, Epoch, Incarnation, Measured, NodeId, NodeSpec, NodeStatus, Outcome, Plan, RequestKind, RunId,
    Stage, Summary, TaskId, TaskOutput, UnixMillis,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::faulty_store::{Faults, FaultyStore};
use super::stores::Place;

const WORKER: &str = "worker";
/// Starts in a row that may fail.
const STARTS: usize = 5;
/// Of virtual time, in which a message comes if it comes.
const QUIET: Duration = Duration::from_millis(500);

type Logs = BTreeMap<RunId, Vec<(u64, UnixMillis, RunEvent)>>;

/// An engine that runs, and its node.
struct Life {
    handle: Handle,
    engine: JoinHandle<Result<(), EngineError>>,
    messages: mpsc::Receiver<Message>,
}

/// A place, what goes wrong in it, and what the engine has said so far.
pub(crate) struct Script<P: Place> {
    place: P,
    faults: Faults,
    started: BTreeSet<RunId>,
    accepted: BTreeSet<(RunId, TaskId)>,
    /// What still comes of these is heard and not accepted.
    cancelled: BTreeSet<RunId>,
}

impl<P: Place> Script<P> {
    pub(crate) fn new(faults: &Faults) -> Self {
        let place = P::new();
        let mut store = place.open().expect("opens");
        let epoch = store.open_epoch().expect("opens");
        // Nobody can read it: an engine that may leave it out takes a snapshot at once.
        let unreadable = Record { version: 1, bytes: Vec::new() };
        store.append(epoch, 0, &[unreadable]).expect("appends");
        Self {
            place,
            faults: faults.clone(),
            started: BTreeSet::new(),
            accepted: BTreeSet::new(),
            cancelled: BTreeSet::new(),
        }
    }

    fn open(&self, faults: &Faults) -> Result<Life, EngineError> {
        let store = FaultyStore::open(&self.place, faults)?;
        let (restarts, _) = mpsc::channel(1);
        let clock = Arc::new(SystemClock::new());
        let settings = Settings::default();
        let options = EngineOptions { settings, store, clock, restarts, salvage: true };
        let (engine, handle) = Engine::open(options)?;
        let (_, messages) = mpsc::channel(1);
        Ok(Life { handle, engine: tokio::spawn(engine.run()), messages })
    }

    /// Starts an engine, and its node joins it, with nothing left of what it was doing.
    async fn start(&self) -> Life {
        for _ in 0..STARTS {
            let Ok(mut life) = self.open(&self.faults) else { continue };
            let (session, messages) = life.handle.sessions().open();
            life.messages = messages;
            match life.handle.decide(Input::Joined { session, hello: Box::new(hello()) }).await {
                Ok(reply) => {
                    assert!(matches!(reply, Reply::Welcome { .. }), "{reply:?}");
                    return life;
                }
                Err(Stopped) => end(life).await,
            }
        }
        panic!("it does not start");
    }

    /// Has something decided, if need be by a later start.
    async fn decide(&self, life: &mut Life, input: impl Fn() -> Input) -> Reply {
        for _ in 0..STARTS {
            if let Ok(reply) = life.handle.decide(input()).await {
                return reply;
            }
            let next = self.start_after(life).await;
            *life = next;
        }
        panic!("it is never decided");
    }

    async fn start_after(&self, life: &mut Life) -> Life {
        let ended = (&mut life.engine).await.expect("no panic");
        assert!(ended.is_err(), "it stopped since its store failed");
        self.start().await
    }

    /// Plays the node until nothing more comes.
    async fn work(&mut self, life: &mut Life) {
        loop {
            match tokio::time::timeout(QUIET, life.messages.recv()).await {
                Err(_) => return,
                Ok(Some(Message::Assign(assign))) => match life.handle.decide(ended(&assign)).await {
                    Ok(_) if self.cancelled.contains(&assign.attempt.run) => {}
                    Ok(_) => {
                        self.accepted.insert((assign.attempt.run, assign.attempt.task));
                    }
                    Err(Stopped) => *life = self.start_after(life).await,
                },
                Ok(Some(_)) => {}
                Ok(None) => *life = self.start_after(life).await,
            }
        }
    }
}

/// Plays some decisions; the calls of the store that they took.
pub(crate) async fn play<P: Place>(mut script: Script<P>) -> Vec<&'static str> {
    let mut life = script.start().await;
    for name in ["run-a", "run-b", "run-c"] {
        let run = RunId::new(name).expect("valid");
        let reply = script.decide(&mut life, || start(&run)).await;
        assert_eq!(reply, Reply::Run(run.clone()), "however often it is asked for");
        script.started.insert(run.clone());
        if name == "run-b" {
            script.decide(&mut life, || Input::CancelRun { run: run.clone(), reason: "enough".into() }).await;
            script.cancelled.insert(run.clone());
        }
        if name != "run-c" {
            script.work(&mut life).await;
        }
    }
    let (lived, calls) = (seen(&life.handle).await, script.faults.calls());
    life.engine.abort();
    assert!((&mut life.engine).await.is_err_and(|error| error.is_cancelled()));
    drop(life);
    script.check_stored();
    let again = script.open(&Faults::default()).expect("opens");
    let restored = seen(&again.handle).await;
    end(again).await;
    assert_eq!(restored, lived, "what is restored is what was lived through");
    assert!(!lived.0.runs[&RunId::new("run-a").expect("valid")].is_open());
    calls
}

impl<P: Place> Script<P> {
    /// Holds what is stored against what was said.
    fn check_stored(&self) {
        let mut store = self.place.open().expect("opens");
        let loaded = store.load().expect("loads");
        let kept =
            loaded.snapshot.iter().filter_map(|record| match codec::decode_kept(record).expect("readable") {
                Kept::Event { run, sequence, event, .. } => Some((run, sequence, event)),
                Kept::State(_) => None,
            });
        let loose = loaded.log.iter().filter_map(|record| match codec::decode(record) {
            Ok(Event::Run { run, sequence, event, .. }) => Some((run, sequence, event)),
            _ => None,
        });
        let (mut started, mut accepted) = (Vec::new(), Vec::new());
        let mut newest: BTreeMap<RunId, u64> = BTreeMap::new();
        for (run, sequence, event) in kept.chain(loose) {
            let before = newest.insert(run.clone(), sequence).unwrap_or(0);
            assert_eq!(sequence, before + 1, "each event of {run} is there once");
            match event {
                RunEvent::Started { .. } => started.push(run),
                RunEvent::TaskAccepted { task, .. } => accepted.push((run, task.id)),
                _ => {}
            }
        }
        let once = |all: usize, different: usize| assert_eq!(all, different, "nothing is there twice");
        once(started.len(), started.iter().collect::<BTreeSet<_>>().len());
        once(accepted.len(), accepted.iter().collect::<BTreeSet<_>>().len());
        assert!(self.started.iter().all(|run| started.contains(run)), "{started:?}");
        assert!(self.accepted.iter().all(|done| accepted.contains(done)), "{accepted:?}");
        assert!(!self.accepted.is_empty());
    }
}

/// Ends a life, so that its store is free.
async fn end(life: Life) {
    life.engine.abort();
    // It may have stopped by itself.
    let _ = life.engine.await;
}

/// The committed state as any start would have it, and the logs of its runs.
async fn seen(handle: &Handle) -> (State, Logs) {
    let mut state = handle.query(|core, _| core.state().clone()).await.expect("runs");
    let logs = state.runs.keys().map(|run| {
        let log = handle.logs().get(run).expect("each run has a log");
        let events = log.kept();
        let events = events.iter().map(|logged| (logged.sequence, logged.at, logged.event.clone()));
        (run.clone(), events.collect())
    });
    let logs = logs.collect();
    (state.epoch, state.attempts) = (Epoch(0), 0);
    for member in state.members.values_mut() {
        // Nobody has joined a new one yet.
        (member.status, member.cause) = (NodeStatus::Degraded, None);
    }
    (state, logs)
}

fn hello() -> Hello {
    let required = Settings::default().required;
    let capabilities = Stage::ALL.into_iter().flat_map(|stage| required.of(stage).clone()).collect();
    Hello {
        spec: NodeSpec {
            node_id: NodeId::new(WORKER).expect("valid"),
            agent_type: "generalist".into(),
            capabilities,
            fallback_capabilities: BTreeSet::default(),
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

fn start(run: &RunId) -> Input {
    let digest = Digest::of(run.as_str().as_bytes());
    let order = RunOrder {
        caller: "tester".into(),
        request_id: run.as_str().into(),
        body: digest,
        project: "project".into(),
        priority: Default::default(),
        supersede_key: String::new(),
        manifest: digest,
        files: 0,
        spec: digest,
        tree_root: None,
        tools: BTreeMap::new(),
        timeout: Duration::from_secs(3600),
        source: RequestKind::InPlace,
    };
    Input::StartRun { run: run.clone(), order: Box::new(order) }
}

fn ended(assign: &Assign) -> Input {
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
        executor: NodeId::new(WORKER).expect("valid"),
        incarnation: Incarnation(1),
        attempt: assign.attempt.clone(),
        ending: Ending::Made { output: TaskOutput { digest: Digest::of(b"blob"), size: 4 }, facts },
        measured: Measured::default(),
        via: None,
    }
}
