//! An engine with nodes and clients that are played: runs of as many shards as wanted, each task answered when it should
//! be.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lintmesh::coordinator::decision::Reply;
use lintmesh::coordinator::event::RunOrder;
use lintmesh::coordinator::input::{Beat, Ending, Facts, Hello, Input};
use lintmesh::coordinator::message::{Assign, Message};
use lintmesh::coordinator::settings::Settings;
use lintmesh::engine::clock::SystemClock;
use lintmesh::engine::{Engine, EngineError, EngineOptions, Handle};
use lintmesh::store::Store;
use lintmesh::types::{
    Digest, Incarnation, Load, Measured, NodeId, NodeSpec, Outcome, Plan, RequestKind, RunId, SessionId,
    Shard, Stage, Summary, TaskOutput, ToolName, ToolPlan, TreePath,
};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

pub const TOOLS: [&str; 5] = ["bandit", "flake8", "mypy", "pylint", "ruff"];
const NODES: [&str; 4] = ["api-docs", "backend-dev", "integration-specialist", "system-architect"];
/// Tasks that a node takes at a time: there is room for every one.
const SLOTS: u32 = 4 * 1024;

/// Nodes and clients of one engine.
pub struct World {
    pub handle: Handle,
    engine: JoinHandle<Result<(), EngineError>>,
    /// Ended with the world: the engine runs as long as anybody may speak to it.
    beating: JoinSet<()>,
    pub assigned: mpsc::UnboundedReceiver<(Instant, NodeId, Assign)>,
    pub shared: Arc<Causes>,
    shards: Vec<usize>,
    started: u64,
}

/// What makes a task assignable: its run, and for CLASSIFY its tool and shard.
type Cause = (RunId, Stage, Option<ToolName>, u32);

/// When the engine was last told of each.
#[derive(Default)]
pub struct Causes(Mutex<HashMap<Cause, Instant>>);

impl Causes {
    fn told(&self, cause: Cause) {
        self.0.lock().unwrap().insert(cause, Instant::now());
    }

    /// How long after what made it assignable a task was assigned.
    pub fn delay(&self, at: Instant, assign: &Assign) -> Duration {
        let key = |stage| match stage {
            Stage::Classify => {
                (assign.attempt.run.clone(), stage, assign.task.tool.clone(), assign.task.shard)
            }
            _ => (assign.attempt.run.clone(), stage, None, 0),
        };
        at.saturating_duration_since(self.0.lock().unwrap()[&key(assign.task.stage)])
    }
}

impl World {
    pub async fn open<S: Store>(store: S, shards: Vec<usize>) -> anyhow::Result<Self> {
        let settings = Settings { max_open_runs: 1 << 20, ..Settings::default() };
        let (engine, handle) = open(store, settings)?;
        let engine = tokio::spawn(engine.run());
        let (assignments, assigned) = mpsc::unbounded_channel();
        let mut beating = JoinSet::new();
        for name in NODES {
            let node = NodeId::new(name)?;
            let (session, mut messages) = handle.sessions().open();
            let joined = Input::Joined { session, hello: Box::new(hello(&node)) };
            anyhow::ensure!(matches!(handle.decide(joined).await?, Reply::Welcome { .. }));
            beating.spawn(beats(handle.clone(), session, node.clone()));
            let assignments = assignments.clone();
            let told = handle.clone();
            beating.spawn(async move {
                while let Some(message) = messages.recv().await {
                    match message {
                        Message::Assign(assign) => {
                            let _ = assignments.send((Instant::now(), node.clone(), *assign));
                        }
                        // Without an answer it would get no work until its next heartbeat.
                        Message::Probe { number } => {
                            let (node, round_trip) = (node.clone(), Duration::ZERO);
                            let answer = Input::ProbeAnswered {
                                session,
                                node,
                                number,
                                round_trip,
                                clock_offset_ms: 0,
                            };
                            let _ = told.decide(answer).await;
                        }
                        _ => {}
                    }
                }
            });
        }
        Ok(Self { handle, engine, beating, assigned, shared: Arc::default(), shards, started: 0 })
    }

    pub fn start_run(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let run = RunId::new(&format!("run-{}", self.started))?;
        let of = |text: &str| Digest::of(text.as_bytes());
        let order = RunOrder {
            caller: "bench".to_owned(),
            request_id: run.to_string(),
            body: of(run.as_str()),
            project: format!("project-{}", self.started % 4),
            priority: Default::default(),
            supersede_key: String::new(),
            manifest: of("manifest"),
            files: 1,
            spec: of("spec"),
            tree_root: None,
            tools: tools()?.into_iter().map(|tool| (tool, Some("1".to_owned()))).collect(),
            timeout: Duration::from_secs(3600),
            source: RequestKind::Snapshot,
        };
        self.shared.told((run.clone(), Stage::Plan, None, 0));
        self.tell(Input::StartRun { run, order: Box::new(order) });
        Ok(())
    }

    /// Brings the result of a task.
    pub fn answer(&self, node: NodeId, assign: Assign) -> anyhow::Result<()> {
        let task = &assign.task;
        let (cause, facts) = match task.stage {
            Stage::Plan => ((Stage::Lint, None, 0), Facts::Plan(plan(&self.shards)?)),
            Stage::Lint => ((Stage::Classify, task.tool.clone(), task.shard), Facts::Lint { error: None }),
            Stage::Classify => ((Stage::Aggregate, None, 0), Facts::Classify),
            Stage::Aggregate => {
                let (outcome, summary) = (Outcome::Clean, Summary::default());
                (
                    (Stage::Aggregate, None, 0),
                    Facts::Aggregate { outcome, summary, tool_errors: BTreeMap::new() },
                )
            }
        };
        let (stage, tool, shard) = cause;
        self.shared.told((assign.attempt.run.clone(), stage, tool, shard));
        let made = format!("{}", assign.attempt);
        self.tell(Input::TaskEnded {
            executor: node,
            incarnation: Incarnation(1),
            ending: Ending::Made {
                output: TaskOutput { digest: Digest::of(made.as_bytes()), size: made.len() as u64 },
                facts,
            },
            attempt: assign.attempt,
            measured: Measured::default(),
            via: None,
        });
        Ok(())
    }

    /// Without waiting for the answer: whoever does would send less when the engine is slow.
    fn tell(&self, input: Input) {
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.decide(input).await });
    }

    /// The next assignment, which there must be soon.
    pub async fn next(&mut self) -> anyhow::Result<(Instant, NodeId, Assign)> {
        let next = tokio::time::timeout(Duration::from_secs(60), self.assigned.recv()).await;
        next.context("nothing is assigned")?.context("the nodes ended")
    }

    pub async fn close(self) -> anyhow::Result<()> {
        let Self { handle, engine, assigned, mut beating, .. } = self;
        beating.shutdown().await;
        drop((handle, assigned));
        Ok(engine.await??)
    }
}

/// Beats as a node does, until the engine has stopped.
async fn beats(handle: Handle, session: SessionId, node: NodeId) {
    let mut every = tokio::time::interval(Settings::default().heartbeat_interval);
    let load = Load { running_tasks: 1, ..Load::default() };
    loop {
        every.tick().await;
        let beat = Beat { load, links: Vec::new(), attempts: Vec::new(), abstaining: false };
        if handle.decide(Input::Beat { session, node: node.clone(), beat }).await.is_err() {
            return;
        }
    }
}

/// An engine over a store.
pub fn open<S: Store>(store: S, settings: Settings) -> Result<(Engine<S>, Handle), EngineError> {
    let (restarts, _) = mpsc::channel(1);
    let clock = Arc::new(SystemClock::new());
    Engine::open(EngineOptions { settings, store, clock, restarts, salvage: false })
}

fn tools() -> anyhow::Result<Vec<ToolName>> {
    TOOLS.into_iter().map(|tool| Ok(ToolName::new(tool)?)).collect()
}

/// A plan with so many shards of each tool.
fn plan(shards: &[usize]) -> anyhow::Result<Plan> {
    let shard = Shard { files: vec![TreePath::new("a.py")?], cost: 1 };
    let of = |(tool, count): (ToolName, &usize)| ToolPlan {
        tool,
        version: "1".to_owned(),
        arguments: Vec::new(),
        refused: None,
        shards: vec![shard.clone(); *count],
    };
    Ok(Plan { tools: tools()?.into_iter().zip(shards).map(of).collect(), files: 1 })
}

fn hello(node: &NodeId) -> Hello {
    let required = Settings::default().required;
    Hello {
        spec: NodeSpec {
            node_id: node.clone(),
            agent_type: "generalist".to_owned(),
            capabilities: Stage::ALL.into_iter().flat_map(|stage| required.of(stage).clone()).collect(),
            fallback_capabilities: Default::default(),
            tools_focus: Vec::new(),
            priority_weight: 1.0,
            max_concurrent_tasks: SLOTS,
        },
        incarnation: Incarnation(1),
        host_id: "bench".to_owned(),
        cpu_slots: SLOTS * 4,
        toolchain_id: "bench".to_owned(),
        tools: TOOLS.iter().map(|tool| (ToolName::new(tool).unwrap(), "1".to_owned())).collect(),
        environment_class: "any".to_owned(),
        failure_domain: "any".to_owned(),
        peer_endpoint: None,
        draining: false,
        sandbox: "none".to_owned(),
        process_id: 1,
        running: Vec::new(),
        unacknowledged: Vec::new(),
    }
}
