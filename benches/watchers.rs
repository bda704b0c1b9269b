//! Measures StreamHealth with many watchers: how long a change takes to reach all of them, and what it costs in memory.
//!
//! `cargo bench --bench watchers`, or with `-- WATCHERS CHANGES`. Exits with 1 if a figure that is promised is missed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::{
    FaultAction, HandleFaultRequest, InitializeMeshRequest, NodeStatus, StreamHealthRequest,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// What is promised.
const MOST_P99: Duration = Duration::from_millis(250);
const MOST_MEMORY_KIB: u64 = 200 * 1024;

/// Watchers of one connection.
const PER_CONNECTION: usize = 50;
/// The node that changes.
const NODE: &str = "api-docs";
/// For everything that is waited for.
const DEADLINE: Duration = Duration::from_secs(120);

type Stream = Streaming<lintmesh::proto::v1::StreamHealthResponse>;

/// A coordinator with its four nodes; killed when it is dropped.
struct Server {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(watchers: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_lintmesh"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .env("LINTMESH__SERVER__MAX_STREAMS_PER_CLIENT", (watchers + 10).to_string())
            .env("XDG_STATE_HOME", dir.path())
            // It is killed in the end, and its nodes with it.
            .env("LINTMESH__NODES__ORPHAN_GRACE", "0")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let log = BufReader::new(child.stderr.take().context("it has a log")?);
        let mut lines = log.lines().map_while(Result::ok);
        let api = lines
            .by_ref()
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).ok()?;
                Some(line["api"].as_str()?.to_owned())
            })
            .context("the server ended")?;
        // Somebody has to read the rest of it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, url: format!("http://{api}"), _dir: dir })
    }

    async fn client(&self) -> anyhow::Result<CoordinatorServiceClient<Channel>> {
        Ok(CoordinatorServiceClient::new(Endpoint::from_shared(self.url.clone())?.connect().await?))
    }

    /// A line of its process' status, in KiB.
    fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("procfs tells it")?;
        Ok(line.trim_matches([':', ' ', '\t', 'k', 'B']).trim().parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads reports until one has the node in this status.
async fn seen(stream: &mut Stream, status: NodeStatus) -> anyhow::Result<()> {
    loop {
        let told = stream.message().await?.context("the stream goes on")?;
        let health = told.health.context("a report has its health")?;
        if health.node_health.get(NODE).is_some_and(|node| node.status() == status) {
            return Ok(());
        }
    }
}

async fn measure(server: &Server, watchers: usize, changes: usize) -> anyhow::Result<Vec<Duration>> {
    let mut operator = server.client().await?;
    let wait = prost_types::Duration { seconds: 110, nanos: 0 };
    let ready =
        operator.initialize_mesh(InitializeMeshRequest { wait: Some(wait), ..Default::default() }).await?;
    anyhow::ensure!(ready.into_inner().ready, "the nodes did not come");

    let hourly = prost_types::Duration { seconds: 3600, nanos: 0 };
    let request = StreamHealthRequest { interval: Some(hourly), after_revision: 0 };
    let (told, mut heard) = mpsc::unbounded_channel::<Instant>();
    let mut tasks = JoinSet::new();
    let mut starts = Vec::new();
    let mut client = server.client().await?;
    for number in 0..watchers {
        if number % PER_CONNECTION == 0 {
            client = server.client().await?;
        }
        let mut stream = client.stream_health(request).await?.into_inner();
        seen(&mut stream, NodeStatus::Active).await?;
        let told = told.clone();
        let (start, mut started) = mpsc::unbounded_channel::<NodeStatus>();
        starts.push(start);
        tasks.spawn(async move {
            while let Some(status) = started.recv().await {
                seen(&mut stream, status).await?;
                told.send(Instant::now())?;
            }
            anyhow::Ok(())
        });
    }
    let mut delays = Vec::with_capacity(watchers * changes);
    for change in 0..changes {
        let (action, status) = match change % 2 {
            0 => (FaultAction::Fail, NodeStatus::Failed),
            _ => (FaultAction::Recover, NodeStatus::Active),
        };
        for start in &starts {
            start.send(status)?;
        }
        let fault =
            HandleFaultRequest { action: action.into(), node_id: NODE.to_owned(), ..Default::default() };
        let begun = Instant::now();
        operator.handle_fault(fault).await?;
        for _ in 0..watchers {
            let heard = tokio::time::timeout(DEADLINE, heard.recv()).await?.context("a watcher ended")?;
            delays.push(heard.saturating_duration_since(begun));
        }
    }
    drop(starts);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    delays.sort();
    Ok(delays)
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.map_or("unknown", |(_, model)| model))
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Cargo adds a flag of its own.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (watchers, changes) = (numbers.next().unwrap_or(1000), numbers.next().unwrap_or(20));
    let server = Server::start(watchers)?;
    let delays = measure(&server, watchers, changes).await?;
    let (now, most) = (server.memory("VmRSS")?, server.memory("VmHWM")?);
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    let mut out = std::io::stdout().lock();
    writeln!(out, "machine: {}", machine())?;
    writeln!(out, "{watchers} watchers, {changes} changes, {} deliveries", delays.len())?;
    writeln!(
        out,
        "delivery: p50 {:.1?}, p99 {:.1?}, most {:.1?} (promised: p99 at most {MOST_P99:?})",
        at(0.5),
        at(0.99),
        at(1.0)
    )?;
    writeln!(
        out,
        "coordinator's memory: {} MiB, at most {} MiB (promised: {} MiB)",
        now / 1024,
        most / 1024,
        MOST_MEMORY_KIB / 1024
    )?;
    let kept = at(0.99) <= MOST_P99 && most <= MOST_MEMORY_KIB;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
