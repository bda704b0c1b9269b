//! Nodes whose tasks do nothing, each with a session of its own over gRPC.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::heartbeat::Kind;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::proto::peer::v1::node_service_client::NodeServiceClient;
use lintmesh::proto::peer::v1::session_response::Message as Answer;
use lintmesh::proto::v1;
use lintmesh::proto::v1::Stage;
use lintmesh::types::{
    Digest, LintOutput, NodeSpec, Outcome, Plan, RunResult, Shard, Summary, ToolName, ToolPlan, ToolResult,
    TreePath,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

pub const TOOLS: [&str; 5] = ["bandit", "flake8", "mypy", "pylint", "ruff"];
/// Tasks that one node takes at a time, and a quarter of the cores that they say to share: more than there are, since
/// tasks that do nothing use none, and few would measure the way of a message and not the coordinator.
pub const SLOTS: u32 = 64;
/// Messages of one batch, as nodes send them.
const BATCH: usize = 10;

pub const SECRET: &str =
    "a secret of no worth: the coordinator listens on loopback for as long as this lasts";

/// What nodes and clients share.
pub struct Load {
    pub shards: usize,
    /// Whether each output has bytes of its own, as if each file had something else wrong. Else all shards of a tool have
    /// the same, as clean files have.
    pub distinct: bool,
    pub made: AtomicU32,
    pub acknowledged: AtomicU64,
    /// From when a result was sent until its acknowledgement was there.
    pub waits: Mutex<Vec<Duration>>,
    /// Runs whose last result is awaited.
    pub ends: Mutex<HashMap<String, oneshot::Sender<()>>>,
}

impl Load {
    fn output(&self, assign: &pb::Assign) -> anyhow::Result<Vec<u8>> {
        let tools = || TOOLS.into_iter().map(ToolName::new);
        let files = match self.distinct {
            true => self.made.fetch_add(1, Ordering::Relaxed),
            false => 1,
        };
        Ok(match assign.stage() {
            Stage::Plan => {
                let shard = Shard { files: vec![TreePath::new("a.py")?], cost: 1 };
                let plan = |tool: Result<ToolName, _>| {
                    Ok(ToolPlan {
                        tool: tool?,
                        version: "1".to_owned(),
                        arguments: Vec::new(),
                        refused: None,
                        shards: vec![shard.clone(); self.shards],
                    })
                };
                let tools = tools().map(plan).collect::<anyhow::Result<_>>()?;
                serde_json::to_vec(&Plan { tools, files: 1 })?
            }
            // What CLASSIFY makes of no diagnostics has the same form.
            Stage::Lint | Stage::Classify => {
                let tool = ToolName::new(&assign.tool)?;
                serde_json::to_vec(&LintOutput { tool, files, error: None, diagnostics: Vec::new() })?
            }
            Stage::Aggregate => {
                let of = |tool: Result<ToolName, _>| {
                    let (version, arguments) = ("1".to_owned(), Vec::new());
                    Ok((tool?, ToolResult { version, arguments, files: 1, diagnostics: 0, error: None }))
                };
                let tools = tools().map(of).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
                let (outcome, summary) = (Outcome::Clean, Summary { files: 1, ..Summary::default() });
                let result =
                    RunResult { schema_version: 1, outcome, tools, summary, diagnostics: Vec::new() };
                serde_json::to_vec(&result)?
            }
            Stage::Unspecified => anyhow::bail!("an assignment without a stage"),
        })
    }
}

/// One node, until its session ends.
pub async fn node(
    spec: NodeSpec,
    url: String,
    load: Arc<Load>,
    joined: mpsc::Sender<()>,
) -> anyhow::Result<()> {
    let bearer: MetadataValue<Ascii> = format!("Bearer {SECRET}").parse()?;
    let channel = Endpoint::from_shared(url)?.connect().await?;
    let (outgoing, requests) = mpsc::channel(64);
    outgoing.send(wrapped(pb::session_request::Message::Hello(hello(&spec)))).await?;
    let mut request = Request::new(ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", bearer);
    let client = NodeServiceClient::new(channel).max_decoding_message_size(16 << 20);
    let mut answers = { client }.session(request).await?.into_inner();
    let Some(Answer::Welcome(welcome)) = answers.message().await?.and_then(|first| first.message) else {
        anyhow::bail!("no Welcome");
    };
    joined.send(()).await?;
    let interval = Duration::try_from(welcome.heartbeat_interval.context("an interval")?)?;
    let mut beats = tokio::time::interval(interval);
    let mut beat = 0;
    let mut sender = Sender { node: spec.node_id.to_string(), number: 0, outgoing };
    let mut sent: HashMap<u64, (Instant, String, bool)> = HashMap::new();
    loop {
        let mut messages = Vec::new();
        tokio::select! {
            _ = beats.tick() => {
                beat += 1;
                let running_tasks = u32::try_from(sent.len())?.max(1);
                let measured = pb::Beat { number: beat, running_tasks, cpu: 0.1, memory: 0.1, ..Default::default() };
                messages.push(heartbeat(Kind::Beat(measured)));
            }
            answer = answers.message() => {
                let Some(Answer::Batch(batch)) = answer?.context("the session ended")?.message else { continue };
                for message in batch.messages {
                    match message.payload {
                        Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(Kind::Probe(probe)) })) => {
                            messages.push(heartbeat(Kind::ProbeAck(pb::ProbeAck { number: probe.number })));
                        }
                        Some(Payload::TaskAssignment(pb::TaskAssignment {
                            kind: Some(pb::task_assignment::Kind::Assign(assign)),
                        })) => {
                            let attempt = assign.attempt.clone().context("an attempt")?;
                            let is_last = assign.stage() == Stage::Aggregate;
                            sent.insert(attempt.number, (Instant::now(), attempt.run_id, is_last));
                            messages.push(result(&load, &spec, assign)?);
                        }
                        Some(Payload::ResultShare(pb::ResultShare {
                            kind: Some(pb::result_share::Kind::Ack(ack)),
                        })) => {
                            let number = ack.attempt.context("an attempt")?.number;
                            let (at, run, is_last) = sent.remove(&number).context("acknowledged twice")?;
                            load.acknowledged.fetch_add(1, Ordering::Relaxed);
                            load.waits.lock().unwrap().push(at.elapsed());
                            if is_last && let Some(waiting) = load.ends.lock().unwrap().remove(&run) {
                                let _ = waiting.send(());
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        sender.send(messages).await?;
    }
}

struct Sender {
    node: String,
    number: u64,
    outgoing: mpsc::Sender<pb::SessionRequest>,
}

impl Sender {
    async fn send(&mut self, payloads: Vec<Payload>) -> anyhow::Result<()> {
        let mut payloads = payloads.into_iter().peekable();
        while payloads.peek().is_some() {
            let messages = payloads.by_ref().take(BATCH).map(|payload| {
                self.number += 1;
                pb::MeshMessage {
                    sender_id: self.node.clone(),
                    receiver_id: "coordinator".to_owned(),
                    message_id: self.number,
                    timestamp: Some(SystemTime::now().into()),
                    payload: Some(payload),
                    ..Default::default()
                }
            });
            let batch = pb::MessageBatch { messages: messages.collect() };
            self.outgoing.send(wrapped(pb::session_request::Message::Batch(batch))).await?;
        }
        Ok(())
    }
}

fn result(load: &Load, spec: &NodeSpec, assign: pb::Assign) -> anyhow::Result<Payload> {
    let data = load.output(&assign)?;
    let output =
        pb::StageOutput { digest: Digest::of(&data).to_string(), size: data.len() as u64, data: Some(data) };
    let nothing = Some(prost_types::Duration::default());
    Ok(Payload::ResultShare(pb::ResultShare {
        kind: Some(pb::result_share::Kind::Result(pb::TaskResult {
            attempt: assign.attempt,
            executor: spec.node_id.to_string(),
            incarnation: 1,
            ending: Some(pb::task_result::Ending::Output(output)),
            measured: Some(pb::Measured { executable: String::new(), wall: nothing, cpu: nothing }),
        })),
    }))
}

fn hello(spec: &NodeSpec) -> pb::Hello {
    pb::Hello {
        protocol_min: 1,
        protocol_max: 1,
        mesh_id: lintmesh::server::MESH_ID.to_owned(),
        specialist: Some(v1::Specialist {
            node_id: spec.node_id.to_string(),
            agent_type: spec.agent_type.clone(),
            capabilities: spec.capabilities.iter().cloned().collect(),
            fallback_capabilities: spec.fallback_capabilities.iter().cloned().collect(),
            priority_weight: spec.priority_weight,
            max_concurrent_tasks: SLOTS,
            ..Default::default()
        }),
        incarnation: 1,
        host_id: "bench".to_owned(),
        failure_domain: "bench".to_owned(),
        toolchain_id: "0".repeat(64),
        tools: TOOLS.map(|tool| (tool.to_owned(), "1".to_owned())).into(),
        environment_class: "simulated".to_owned(),
        cpu_slots: SLOTS * 4,
        process_id: std::process::id(),
        ..Default::default()
    }
}

fn wrapped(message: pb::session_request::Message) -> pb::SessionRequest {
    pb::SessionRequest { message: Some(message) }
}

fn heartbeat(kind: Kind) -> Payload {
    Payload::Heartbeat(pb::Heartbeat { kind: Some(kind) })
}
