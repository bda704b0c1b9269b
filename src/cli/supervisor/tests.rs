//! What the supervisor does for a real coordinator, with exits that are made up.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;

use super::*;
use crate::config::{Launch, Settings};
use crate::engine::clock::SystemClock;
use crate::server::{self, Secrets, ServerOptions, TreePolicy};
use crate::store::{Loaded, MemoryStore, Record, Store, StoreError};
use crate::types::{Epoch, NodeStatus};

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A disk that is full from some moment on.
#[derive(Clone, Default)]
struct Disk {
    is_full: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

struct Filling(MemoryStore, Disk);

impl Store for Filling {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.0.open_epoch()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.load()
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        if self.1.is_full.load(Ordering::SeqCst) {
            self.1.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Full { place: "the disk".into() });
        }
        self.0.append(epoch, expected, batch)
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        self.0.snapshot(epoch, position, records)
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        self.0.position(epoch)
    }

    fn blocks(&self) -> bool {
        self.0.blocks()
    }
}

/// A coordinator of the default nodes, none of which is there.
async fn coordinator(dir: &Path, disk: &Disk, restart_command: &[String]) -> Arc<RunningServer> {
    let mut settings = Settings::default();
    let any_port = "127.0.0.1:0".parse().expect("an address");
    (settings.server.listen, settings.server.node_listen) = (any_port, any_port);
    settings.nodes.launch = Launch::External;
    settings.nodes.restart_command = restart_command.to_vec();
    let ids = AtomicU64::new(1);
    let started = server::start(ServerOptions {
        trees: TreePolicy::default(),
        tokens: Vec::new(),
        admin: false,
        toolchain_mode: None,
        blob_dir: dir.join("blobs"),
        state_dir: None,
        free_bytes: Arc::new(server::free_bytes),
        store: Filling(MemoryStore::new(), disk.clone()),
        salvage: false,
        secrets: Arc::new(Secrets::new(&settings)),
        node_port: None,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(move || ids.fetch_add(1, Ordering::SeqCst).into()),
        settings,
    });
    Arc::new(started.await.expect("starts"))
}

fn exited(node: &NodeId) -> NodeExited {
    NodeExited { node_id: node.clone(), pid: 7, status: None, ordered: false }
}

fn node() -> NodeId {
    NodeId::new("backend-dev").expect("valid")
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < DEADLINE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Supervises nodes that nobody launched, and whose exits come from the sender.
fn supervised(
    server: &Arc<RunningServer>,
    command: Option<RestartCommand>,
) -> (mpsc::Sender<NodeExited>, oneshot::Sender<End>, impl Future<Output = ()> + use<>) {
    let mut supervisor = Supervisor::new(Arc::clone(server), None, command);
    let (exit, exits) = mpsc::channel(4);
    supervisor.exits = Some(exits);
    let (end, told) = oneshot::channel();
    let running = tokio::spawn(supervisor.run(told));
    let ended = async move {
        tokio::time::timeout(DEADLINE, running).await.expect("it ends").expect("no panic");
    };
    (exit, end, ended)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_process_is_told_and_a_full_disk_does_not_hold_up_the_end() {
    let (dir, disk) = (tempfile::tempdir().expect("a folder"), Disk::default());
    let server = coordinator(dir.path(), &disk, &[]).await;
    let (exit, end, ended) = supervised(&server, None);
    exit.send(exited(&node())).await.expect("taken");
    until("the node is FAILED", async || {
        let status = server.engine().query(|core, _| core.state().members[&node()].status).await;
        status == Ok(NodeStatus::Failed)
    })
    .await;

    disk.is_full.store(true, Ordering::SeqCst);
    exit.send(exited(&NodeId::new("api-docs").expect("valid"))).await.expect("taken");
    until("the end of the second one cannot be stored", async || disk.refused.load(Ordering::SeqCst) > 0)
        .await;
    end.send(End::Stop).expect("it runs");
    ended.await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_starts_a_node_does_not_outlive_the_supervision() {
    let (dir, disk) = (tempfile::tempdir().expect("a folder"), Disk::default());
    let (told, part) = (dir.path().join("pid"), dir.path().join("part"));
    let script = format!(
        "sleep 3600 & echo $! > {part}; mv {part} {told}; wait",
        part = part.display(),
        told = told.display()
    );
    let words = ["sh", "-c", &script].map(str::to_owned);
    let server = coordinator(dir.path(), &disk, &words).await;
    let command = RestartCommand { words: words.to_vec(), bound: 2 * DEADLINE };
    let (exit, end, ended) = supervised(&server, Some(command));
    exit.send(exited(&node())).await.expect("taken");
    until("the command runs", async || told.exists()).await;
    let started = fs::read_to_string(&told).expect("written");
    // Nobody may have looked after the dead yet, which have no command line any more.
    let line = format!("/proc/{}/cmdline", started.trim());
    let lives = || fs::read(&line).is_ok_and(|line| !line.is_empty());
    assert!(lives());
    end.send(End::Leave).expect("it runs");
    ended.await;
    until("what the command started is gone", async || !lives()).await;
    server.shutdown().await;
}
