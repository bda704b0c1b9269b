use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use super::*;
use crate::linters::process::Progress;
use crate::node::stages::{StageError, StageProduct, StageRunner};
use crate::node::testing::{assignment, key, node_id, result};
use crate::types::{Digest, Incarnation, Measured, TaskOutput};
use crate::wire::peer::Assignment;

/// Makes an output that the coordinator does not have.
struct Makes;

impl StageRunner for Makes {
    fn run(
        &self,
        _: Assignment,
        _: CancellationToken,
        _: Arc<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<StageProduct, StageError>> + Send + '_>> {
        let bytes: Arc<[u8]> = b"large".as_slice().into();
        let output = TaskOutput { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let made = StageProduct { output, data: None, unsent: Some(bytes), measured: Measured::default() };
        Box::pin(std::future::ready(Ok(made)))
    }
}

struct Rig {
    state: Arc<tempfile::TempDir>,
    executor: Executor,
    held: Held,
    until: CancellationToken,
    keeper: tokio::task::JoinHandle<()>,
}

impl Rig {
    async fn start(state: &Arc<tempfile::TempDir>, incarnation: u64) -> Self {
        let executor = Executor::new(node_id(), Incarnation(incarnation), 4, Arc::new(Makes));
        let held = Held::default();
        let opened = Keeper::open(state.path(), &node_id(), &executor, &held).await.expect("opens");
        let until = CancellationToken::new();
        let keeper = tokio::spawn(opened.expect("nobody else has it").run(until.clone()));
        Self { state: Arc::clone(state), executor, held, until, keeper }
    }

    fn outbox(&self) -> PathBuf {
        self.state.path().join(node_id().as_str()).join("outbox")
    }

    fn files(&self) -> usize {
        let entries = fs::read_dir(self.outbox()).expect("a folder");
        entries.filter(|entry| entry.as_ref().expect("an entry").file_name() != "lock").count()
    }

    /// Looks until there are so many results on disk.
    async fn until_files(&self, count: usize) {
        let looking = async {
            while self.files() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looking).await.expect("in time");
    }

    async fn makes(&self, number: u64) -> crate::wire::peer::AttemptResult {
        self.executor.assign(assignment(number));
        self.executor.next_result(1).await
    }

    /// The process dies: nothing more is written.
    async fn dies(self) {
        self.keeper.abort();
        let _ = self.keeper.await;
    }
}

fn state() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().expect("a folder"))
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_is_found_by_the_next_process_and_delivered_as_its_makers() {
    let state = state();
    let first = Rig::start(&state, 1).await;
    let made = first.makes(7).await;
    first.until_files(1).await;
    first.dies().await;
    let second = Rig::start(&state, 2).await;
    assert_eq!(second.executor.inventory(), (vec![], vec![key(7)]));
    let sent = second.executor.next_result(1).await;
    assert_eq!((&sent, sent.incarnation), (&made, Incarnation(1)));
    let (digest, bytes) = second.executor.unsent(&key(7)).expect("its output was not brought");
    assert_eq!((digest, &*bytes), (Digest::of(b"large"), b"large".as_slice()));
    assert!(second.held.get(&digest).is_some(), "peers may ask for it");
    second.executor.acknowledge(&key(7));
    second.until_files(0).await;
    second.dies().await;
    let third = Rig::start(&state, 3).await;
    assert_eq!(third.executor.inventory(), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_at_once_never_touches_the_disk() {
    let rig = Rig::start(&state(), 1).await;
    for number in 0..200 {
        rig.makes(number).await;
        rig.executor.acknowledge(&key(number));
        assert_eq!(rig.files(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_in_order_leaves_what_is_not_acknowledged() {
    let state = state();
    let rig = Rig::start(&state, 1).await;
    for number in 0..3 {
        rig.makes(number).await;
    }
    rig.executor.acknowledge(&key(1));
    rig.until.cancel();
    let files = rig.outbox();
    rig.keeper.await.expect("ends");
    assert!(files.join("run.0.1.0.result").exists() && files.join("run.2.1.2.result").exists());
    assert!(!files.join("run.1.1.1.result").exists());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_costs_nothing_while_the_process_lives_and_is_tried_again() {
    let state = state();
    let rig = Rig::start(&state, 1).await;
    // Files are made under this name; a folder in its place refuses that, whoever runs the test.
    let obstacle = rig.outbox().join("run.5.1.5.part");
    fs::create_dir(&obstacle).expect("made");
    let made = rig.makes(5).await;
    rig.makes(6).await;
    let beside = rig.outbox().join("run.6.1.6.result");
    let looking = async {
        while !beside.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking).await.expect("the other one has room");
    assert_eq!(rig.executor.result(&key(5)), Some(made), "in memory it is safe");
    fs::remove_dir(&obstacle).expect("removed");
    rig.until_files(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_process_of_the_node_goes_on_without() {
    let state = state();
    let _first = Rig::start(&state, 1).await;
    let executor = Executor::new(node_id(), Incarnation(2), 1, Arc::new(Makes));
    let second = Keeper::open(state.path(), &node_id(), &executor, &Held::default()).await;
    assert!(second.expect("no error").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_of_former_processes_leaves_no_room_for_new_work() {
    let state = state();
    {
        let spool = Spool::open(state.path(), &node_id()).expect("opens");
        for number in 0..OUTBOX_CAPACITY as u64 + 5 {
            spool.write(&Unacknowledged { result: result(number), unsent: None }).expect("written");
        }
    }
    let rig = Rig::start(&state, 2).await;
    assert_eq!(rig.executor.inventory().1.len(), OUTBOX_CAPACITY);
    let admission = rig.executor.assign(assignment(1000));
    assert_eq!(admission, crate::node::executor::Admission::Rejected("BUSY"));
    let acknowledged = rig.executor.inventory().1.remove(0);
    rig.executor.acknowledge(&acknowledged);
    assert_eq!(rig.executor.assign(assignment(1000)), crate::node::executor::Admission::Started);
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_keep_the_process_from_ending() {
    let state = state();
    let rig = Rig::start(&state, 1).await;
    // Files are made under this name; one that nobody reads hangs whoever writes it.
    let hanging = rig.outbox().join("run.5.1.5.part");
    nix::unistd::mkfifo(&hanging, nix::sys::stat::Mode::S_IRWXU).expect("made");
    rig.makes(5).await;
    // So that the pass is under way; if it were not, it would be the last.
    tokio::time::sleep(4 * SETTLE).await;
    rig.until.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), rig.keeper).await;
    // Lets the writer go on, or the test itself would wait for it.
    let _reading = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(&hanging)
        .expect("opened");
    ended.expect("ends").expect("no panic");
}
