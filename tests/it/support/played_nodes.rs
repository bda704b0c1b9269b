//! Nodes that a test plays at a coordinator of this process: they do the tasks that the test lets them, and outlive the
//! coordinator as real ones do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lintmesh::config::Settings;
use lintmesh::coordinator::input::{Beat, Ending, Facts, Hello, Input};
use lintmesh::coordinator::message::{Assign, Message};
use lintmesh::engine::{Handle, Stopped};
use lintmesh::proto::v1::workspace_service_client::WorkspaceServiceClient;
use lintmesh::types::{
    AttemptRef, ClassifiedOutput, Diagnostic, Digest, Incarnation, Measured, NodeSpec, Outcome, Plan,
    Reported, Severity, Shard, Stage, Summary, TaskOutput, ToolName, ToolPlan, TreePath,
};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::calls::upload;
use super::coordinator::Coordinator;

/// How often a node says that it is there.
const BEAT: Duration = Duration::from_millis(500);

/// The default specialists. They end with it.
pub(crate) struct PlayedNodes {
    /// The tasks that they may still do.
    pub(crate) permits: Arc<Semaphore>,
    _nodes: JoinSet<()>,
}

impl PlayedNodes {
    /// They join, again and again; each LINT run of `ruff` has so many shards, with one diagnostic in each.
    pub(crate) fn at(coordinator: &Coordinator, shards: usize) -> Self {
        let permits = Arc::new(Semaphore::new(0));
        let mut nodes = JoinSet::new();
        for spec in Settings::default().nodes.specs() {
            let node = Node {
                spec,
                shards,
                blobs: coordinator.channel(),
                permits: permits.clone(),
                running: BTreeMap::new(),
                held: BTreeMap::new(),
            };
            nodes.spawn(node.live(coordinator.engines()));
        }
        Self { permits, _nodes: nodes }
    }
}

struct Node {
    spec: NodeSpec,
    shards: usize,
    blobs: Channel,
    permits: Arc<Semaphore>,
    running: BTreeMap<AttemptRef, Assign>,
    /// Results that were not acknowledged yet.
    held: BTreeMap<AttemptRef, Assign>,
}

/// The coordinator went away.
struct Gone;

impl From<Stopped> for Gone {
    fn from(_: Stopped) -> Self {
        Gone
    }
}

impl Node {
    async fn live(mut self, mut engines: watch::Receiver<Option<Handle>>) {
        loop {
            let Ok(engine) = engines.wait_for(Option::is_some).await.map(|engine| engine.clone()) else {
                return;
            };
            tokio::select! {
                _ = self.session(engine.expect("waited for")) => {}
                _ = engines.wait_for(Option::is_none) => {}
            }
        }
    }

    async fn session(&mut self, engine: Handle) -> Result<(), Gone> {
        let (session, mut messages) = engine.sessions().open();
        engine.decide(Input::Joined { session, hello: Box::new(self.hello()) }).await?;
        // Beside the rest: results take their time, and a node hears what it is told meanwhile.
        let mut telling = JoinSet::new();
        for assign in self.held.values() {
            telling.spawn(self.tell(&engine, assign));
        }
        let (node, permits) = (self.spec.node_id.clone(), self.permits.clone());
        let mut beats = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                // Messages first: what was revoked before the test gave a permit is not done by it.
                biased;
                message = messages.recv() => match message.ok_or(Gone)? {
                    Message::Assign(assign) => {
                        self.running.insert(assign.attempt.clone(), *assign);
                    }
                    Message::Revoke { attempt, .. } => {
                        self.running.remove(&attempt);
                    }
                    Message::Acknowledge(attempt) => {
                        self.held.remove(&attempt);
                    }
                    Message::Probe { number } => {
                        let (round_trip, clock_offset_ms) = (Duration::ZERO, 0);
                        let node = node.clone();
                        let answer = Input::ProbeAnswered { session, node, number, round_trip, clock_offset_ms };
                        engine.decide(answer).await?;
                    }
                    _ => {}
                },
                permit = permits.acquire(), if !self.running.is_empty() => {
                    permit.expect("never closed").forget();
                    let (attempt, assign) = self.running.pop_first().expect("there is one");
                    telling.spawn(self.tell(&engine, &assign));
                    self.held.insert(attempt, assign);
                }
                Some(told) = telling.join_next() => told.expect("no panic")?,
                _ = beats.tick() => {
                    let attempts = self.running.keys().chain(self.held.keys());
                    let attempts = attempts.map(|attempt| (attempt.clone(), Duration::ZERO)).collect();
                    let beat = Beat { attempts, ..Beat::default() };
                    engine.decide(Input::Beat { session, node: node.clone(), beat }).await?;
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            spec: self.spec.clone(),
            incarnation: Incarnation(1),
            host_id: self.spec.node_id.to_string(),
            cpu_slots: 4,
            toolchain_id: Digest::of(b"played").to_string(),
            tools: [(ruff(), "1.0.0".to_owned())].into(),
            environment_class: "none".to_owned(),
            failure_domain: self.spec.node_id.to_string(),
            peer_endpoint: None,
            draining: false,
            sandbox: "none".to_owned(),
            process_id: 1,
            running: self.running.keys().cloned().collect(),
            unacknowledged: self.held.keys().cloned().collect(),
        }
    }

    /// Brings a result, its output first.
    fn tell(&self, engine: &Handle, assign: &Assign) -> impl Future<Output = Result<(), Gone>> + use<> {
        let (bytes, facts) = self.made(assign);
        let output = TaskOutput { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let ended = Input::TaskEnded {
            executor: self.spec.node_id.clone(),
            incarnation: Incarnation(1),
            attempt: assign.attempt.clone(),
            ending: Ending::Made { output, facts },
            measured: Measured::default(),
            via: None,
        };
        let (engine, mut blobs) = (engine.clone(), WorkspaceServiceClient::new(self.blobs.clone()));
        async move {
            // Until it works: by a connection that broke the first call fails. Ends with the session at the latest.
            while upload(&mut blobs, std::slice::from_ref(&bytes)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            engine.decide(ended).await?;
            Ok(())
        }
    }

    fn made(&self, assign: &Assign) -> (Vec<u8>, Facts) {
        let name = assign.task.to_string();
        match assign.task.stage {
            Stage::Plan => {
                let shard = Shard { files: vec![path()], cost: 1 };
                let ruff = ToolPlan {
                    tool: ruff(),
                    version: "1.0.0".to_owned(),
                    arguments: Vec::new(),
                    refused: None,
                    shards: vec![shard; self.shards],
                };
                (name.into_bytes(), Facts::Plan(Plan { tools: vec![ruff], files: 1 }))
            }
            Stage::Lint => (name.into_bytes(), Facts::Lint { error: None }),
            Stage::Classify => {
                let found = ClassifiedOutput {
                    tool: ruff(),
                    files: 1,
                    error: None,
                    diagnostics: vec![diagnostic(&name)],
                };
                (serde_json::to_vec(&found).expect("plain data"), Facts::Classify)
            }
            Stage::Aggregate => {
                let (outcome, summary) = (Outcome::Findings, Summary::default());
                (name.into_bytes(), Facts::Aggregate { outcome, summary, tool_errors: BTreeMap::new() })
            }
        }
    }
}

fn ruff() -> ToolName {
    ToolName::new("ruff").expect("valid")
}

fn path() -> TreePath {
    TreePath::new("a.py").expect("valid")
}

fn diagnostic(message: &str) -> Diagnostic {
    let reported =
        Reported { tool: ruff(), line: 1, column: None, code: "F401".into(), message: message.into() };
    Diagnostic {
        path: path(),
        line: 1,
        column: None,
        end: None,
        tool: ruff(),
        code: "F401".into(),
        name: None,
        message: message.into(),
        severity: Severity::High,
        url: None,
        fingerprint: String::new(),
        line_hash: String::new(),
        reported_by: vec![reported],
    }
}
