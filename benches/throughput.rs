//! Measures how many tasks that do nothing the coordinator gets through, and what each costs it.
//!
//! `cargo bench --bench throughput`, or with `-- RUNS SHARDS` (runs, and shards of each of five tools in a run). Exits
//! with 1 if a figure that is promised is missed.
//!
//! The coordinator is the real `lintmesh serve` in a process of its own, so that its CPU time is its own; it keeps its
//! state in memory. This process plays the clients and four nodes, each with a session of its own over gRPC on loopback.
//! A node answers PLAN with a plan, and LINT, CLASSIFY and AGGREGATE at once with a small output. What is counted as a
//! task is a task of any of these stages, done once its node has the acknowledgement of its result: by then the result
//! is recorded. At the end every run must be CLEAN, and as many results must have been acknowledged as there were tasks,
//! so that none was done twice.

#![allow(missing_docs, clippy::unwrap_used, reason = "a program for measuring; it may panic")]

mod figures;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use lintmesh::config::NodeSettings;
use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::heartbeat::Kind;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::proto::peer::v1::node_service_client::NodeServiceClient;
use lintmesh::proto::peer::v1::session_response::Message as Answer;
use lintmesh::proto::v1;
use lintmesh::proto::v1::Stage;
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::types::{
    Digest, LintOutput, NodeSpec, Outcome, Plan, RunResult, Shard, Summary, ToolName, ToolPlan, ToolResult,
    TreePath,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

/// What is promised.
const LEAST_PER_SECOND: f64 = 10_000.0;
const MOST_CPU: Duration = Duration::from_micros(100);

const TOOLS: [&str; 5] = ["bandit", "flake8", "mypy", "pylint", "ruff"];
/// Runs that are open at a time, each of a project of its own.
const CLIENTS: usize = 4;
/// Tasks that one node takes at a time, and a quarter of the cores that they say to share: more than there are, since
/// tasks that do nothing use none, and few would measure the way of a message and not the coordinator.
const SLOTS: u32 = 64;
/// Messages of one batch, as nodes send them.
const BATCH: usize = 10;
/// For everything that is waited for.
const DEADLINE: Duration = Duration::from_secs(300);

const SECRET: &str = "a secret of no worth: the coordinator listens on loopback for as long as this lasts";

/// What nodes and clients share.
struct Load {
    shards: usize,
    /// Whether each output has bytes of its own, as if each file had something else wrong. Else all shards of a tool have
    /// the same, as clean files have.
    distinct: bool,
    made: AtomicU32,
    acknowledged: AtomicU64,
    /// From when a result was sent until its acknowledgement was there.
    waits: Mutex<Vec<Duration>>,
    /// Runs whose last result is awaited.
    ends: Mutex<HashMap<String, oneshot::Sender<()>>>,
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
                let result = RunResult { schema_version: 1, outcome, tools, summary, diagnostics: Vec::new() };
                serde_json::to_vec(&result)?
            }
            Stage::Unspecified => anyhow::bail!("an assignment without a stage"),
        })
    }
}

/// The coordinator; killed when it is dropped.
struct Server {
    child: Child,
    api: String,
    nodes: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("lintmesh.toml");
        let secret = Digest::of(SECRET.as_bytes());
        std::fs::write(
            &config,
            format!(
                "[state]\nstore = \"memory\"\n\
                 [nodes]\nlaunch = \"external\"\n[[nodes.secrets]]\nname = \"bench\"\nsha256 = \"{secret}\"\n"
            ),
        )?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_lintmesh"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let log = BufReader::new(child.stderr.take().context("it has a log")?);
        let mut lines = log.lines().map_while(Result::ok);
        let (api, nodes) = lines
            .by_ref()
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).ok()?;
                Some((line["api"].as_str()?.to_owned(), line["nodes"].as_str()?.to_owned()))
            })
            .context("the server ended")?;
        // Somebody has to read the rest of it.
        std::thread::spawn(move || {
            for line in lines {
                if line.contains("\"WARN\"") || line.contains("\"ERROR\"") {
                    eprintln!("{line}");
                }
            }
        });
        Ok(Self { child, api: format!("http://{api}"), nodes: format!("http://{nodes}"), _dir: dir })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One node, until its session ends.
async fn node(
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
    let output = pb::StageOutput {
        digest: Digest::of(&data).to_string(),
        size: data.len() as u64,
        data: Some(data),
    };
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

type Client = CoordinatorServiceClient<Channel>;

/// Starts a run and waits for its last result; answers its id.
async fn run(client: &mut Client, load: &Load, project: usize, is_watched: bool) -> anyhow::Result<String> {
    let text = v1::inline_file::Content::Text(String::new());
    let files = vec![v1::InlineFile { path: "a.py".to_owned(), content: Some(text) }];
    let source = v1::workspace::Source::Inline(v1::InlineSource { files });
    let request = v1::StartRunRequest {
        project: format!("project-{project}"),
        workspace: Some(v1::Workspace { source: Some(source) }),
        ..Default::default()
    };
    let run_id = client.start_run(request).await?.into_inner().run.context("a run")?.run_id;
    if is_watched {
        let request = v1::WatchRunRequest { run_id: run_id.clone(), after_sequence: 0 };
        let mut events = client.watch_run(request).await?.into_inner();
        while events.message().await?.is_some() {}
        return Ok(run_id);
    }
    // A node knows first: asking again and again would be part of what is measured.
    let (ended, end) = oneshot::channel();
    load.ends.lock().unwrap().insert(run_id.clone(), ended);
    tokio::time::timeout(DEADLINE, end).await.with_context(|| format!("{run_id} does not end"))??;
    Ok(run_id)
}

/// One measurement; answers whether the promises hold.
async fn measure(runs: usize, shards: usize, distinct: bool, is_watched: bool) -> anyhow::Result<bool> {
    let server = Server::start()?;
    let load = Arc::new(Load {
        shards,
        distinct,
        made: AtomicU32::new(1),
        acknowledged: AtomicU64::new(0),
        waits: Mutex::default(),
        ends: Mutex::default(),
    });
    let (joined, mut joins) = mpsc::channel(4);
    let mut nodes = JoinSet::new();
    let specs = NodeSettings::default().specs();
    for spec in &specs {
        nodes.spawn(node(spec.clone(), server.nodes.clone(), load.clone(), joined.clone()));
    }
    for _ in &specs {
        tokio::select! {
            _ = joins.recv() => {}
            Some(ended) = nodes.join_next() => anyhow::bail!("a node ended: {ended:?}"),
        }
    }
    let mut client = Client::new(Endpoint::from_shared(server.api.clone())?.connect().await?);
    // The first run is not measured.
    run(&mut client, &load, 0, is_watched).await?;
    let warm = load.acknowledged.swap(0, Ordering::Relaxed);
    load.waits.lock().unwrap().clear();

    let (pid, own) = (server.child.id(), std::process::id());
    let (cpu, own_cpu, began) = (figures::cpu_time(pid)?, figures::cpu_time(own)?, Instant::now());
    let left = Arc::new(AtomicU64::new(runs as u64));
    let mut clients = JoinSet::new();
    for project in 0..CLIENTS {
        let (mut client, load, left) = (client.clone(), load.clone(), left.clone());
        clients.spawn(async move {
            let mut ids = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                ids.push(run(&mut client, &load, project, is_watched).await?);
            }
            anyhow::Ok(ids)
        });
    }
    let mut ids = Vec::new();
    while let Some(ended) = tokio::select! {
        ended = clients.join_next() => ended,
        Some(ended) = nodes.join_next() => anyhow::bail!("a node ended: {ended:?}"),
    } {
        ids.extend(ended??);
    }
    let took = began.elapsed();
    let (cpu, own_cpu) = (figures::cpu_time(pid)? - cpu, figures::cpu_time(own)? - own_cpu);
    let tasks = load.acknowledged.load(Ordering::Relaxed);
    let expected = (1 + TOOLS.len() * shards * 2 + 1) as u64;
    anyhow::ensure!(warm == expected && tasks == expected * runs as u64, "{tasks} results for {runs} runs");
    for run_id in ids {
        let ended = client.get_run(v1::GetRunRequest { run_id }).await?.into_inner().run.context("a run")?;
        anyhow::ensure!(ended.outcome() == v1::Outcome::Clean, "{ended:?}");
    }

    let (per_second, each) = (tasks as f64 / took.as_secs_f64(), cpu / u32::try_from(tasks)?);
    println!(
        "{tasks} tasks of {runs} runs ({expected} each: PLAN, {0} LINT, {0} CLASSIFY, AGGREGATE), {CLIENTS} runs at a \
         time{1}, {2} nodes of {SLOTS} slots, {3}",
        TOOLS.len() * shards,
        if is_watched { ", each watched by its client" } else { "" },
        specs.len(),
        if distinct { "each output other bytes" } else { "outputs of a tool alike" },
    );
    println!(
        "  {:.2} s; CPU of the coordinator {:.2} s, of the nodes and clients together {:.2} s",
        took.as_secs_f64(),
        cpu.as_secs_f64(),
        own_cpu.as_secs_f64()
    );
    println!("  result to acknowledgement: {}", figures::percentiles(std::mem::take(&mut *load.waits.lock().unwrap())));
    let fast = figures::verdict(
        "  throughput",
        per_second >= LEAST_PER_SECOND,
        &format!("{per_second:.0} tasks/s"),
        "at least 10000",
    );
    let cheap = figures::verdict(
        "  coordinator's CPU",
        each <= MOST_CPU,
        &format!("{:.4} ms a task", each.as_secs_f64() * 1e3),
        "at most 0.1",
    );
    Ok(fast && cheap)
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Cargo adds a flag of its own.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (runs, shards) = (numbers.next().unwrap_or(50), numbers.next().unwrap_or(200));
    println!("machine: {}", figures::machine());
    let mut kept = true;
    for (distinct, is_watched) in [(false, false), (true, false), (false, true)] {
        kept &= measure(runs, shards, distinct, is_watched).await?;
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
