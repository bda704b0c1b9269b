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

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program for measuring; it may panic"
)]

mod figures;
mod sessions;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lintmesh::config::NodeSettings;
use lintmesh::proto::v1;
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::types::Digest;
use sessions::{Load, SECRET, SLOTS, TOOLS, node};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// What is promised.
const LEAST_PER_SECOND: f64 = 10_000.0;
const MOST_CPU: Duration = Duration::from_micros(100);

/// Runs that are open at a time, each of a project of its own.
const CLIENTS: usize = 4;
/// For everything that is waited for.
const DEADLINE: Duration = Duration::from_secs(300);

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
        ends: Mutex::new(HashMap::new()),
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
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
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
    println!(
        "  result to acknowledgement: {}",
        figures::percentiles(std::mem::take(&mut *load.waits.lock().unwrap()))
    );
    if is_watched {
        // Every event is sent to a client as well: what that adds is told, and no part of the promise.
        println!(
            "  throughput: {per_second:.0} tasks/s; coordinator's CPU: {:.4} ms a task",
            each.as_secs_f64() * 1e3
        );
        return Ok(true);
    }
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
