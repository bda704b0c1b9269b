//! Launched nodes, as processes: found, killed, and looked for afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lintmesh::node::launcher::{LaunchOptions, Launcher, NodeExited};
use lintmesh::node::secret::Secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc;

use super::coordinator::{Coordinator, DEADLINE, SECRET, Session};
use super::world::{World, limits, planned, run_of, spec, toolchain};

/// The processes whose command line has this argument.
fn marked(mark: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|argument| argument == mark.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.unwrap_or_else(|_| panic!("{what}"));
}

pub(super) async fn until_running(mark: &str, processes: usize) {
    until("the linter runs", || marked(mark).len() == processes).await;
}

pub(super) async fn until_gone(mark: &str) {
    until("the linter's processes are gone", || marked(mark).is_empty()).await;
}

async fn until_dead(pid: u32) {
    // A zombie is dead too: who reaps orphans, and when, is the system's affair.
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    };
    until("the node's process is gone", gone).await;
}

fn launch(dir: &Path, uri: &str) -> (Launcher, mpsc::Receiver<NodeExited>) {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_lintmesh"));
    let options = LaunchOptions {
        program: binary.clone(),
        arguments: vec!["node".into(), "--launched".into()],
        coordinator: uri.to_owned(),
        tls_ca: None,
        mesh_id: "default".into(),
        host_id: "host".into(),
        failure_domain: "host".into(),
        environment_class: "any".into(),
        toolchain: toolchain(&dir.join("ruff")),
        limits: limits(),
        drain_timeout: DEADLINE,
        work_dir: dir.join("work"),
        survival: None,
        cpu_slots: 1,
        shim: binary,
        make_secret: Box::new(|_| Secret::new(SECRET)),
    };
    Launcher::start(vec![spec()], options).expect("launched")
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Has the launched node run the endless linter.
async fn linting(coordinator: &mut Coordinator, mark: &str) -> Session {
    let mut session = coordinator.session().await;
    let run = run_of(coordinator);
    let lint = planned(coordinator, &mut session, &run, 1).await;
    session.assign(&lint).await;
    until_running(mark, 2).await;
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launched_node_ends_when_asked_and_comes_back_when_restarted() {
    let (world, mark) = World::with_endless_ruff();
    let mut coordinator = Coordinator::start().await;
    let (mut launcher, mut exits) = launch(world.dir.path(), &coordinator.uri);
    let node_id = spec().node_id;
    let first = linting(&mut coordinator, &mark).await;
    let pid = launcher.pid(&node_id).expect("runs");
    assert_eq!(first.hello.process_id, pid);

    launcher.stop(&node_id, DEADLINE).expect("launched here").await;
    launcher.launch(&node_id).expect("started again");
    let exit = exits.recv().await.expect("an exit");
    assert_eq!((&exit.node_id, exit.pid), (&node_id, pid));
    assert!(exit.ordered && exit.status.is_some_and(|status| status.success()), "an order, no crash: {exit}");
    until_gone(&mark).await;

    let second = coordinator.session().await;
    assert!(second.hello.incarnation > first.hello.incarnation);
    assert!(second.hello.running.is_empty());
    launcher.stop_all(DEADLINE).await;
    assert_eq!(launcher.pid(&node_id), None);
    until_dead(second.hello.process_id).await;
    assert_eq!(fs::read_dir(world.work_dir()).unwrap().count(), 0, "their folders are gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_takes_its_linters_along_and_is_announced() {
    let (world, mark) = World::with_endless_ruff();
    let mut coordinator = Coordinator::start().await;
    let (launcher, mut exits) = launch(world.dir.path(), &coordinator.uri);
    let session = linting(&mut coordinator, &mark).await;
    signal(session.hello.process_id, Signal::SIGKILL);
    let exit = tokio::time::timeout(DEADLINE, exits.recv()).await.expect("in time").expect("an exit");
    assert_eq!((exit.pid, exit.ordered), (session.hello.process_id, false));
    assert_eq!(exit.to_string(), format!("process {} ended: signal: 9 (SIGKILL)", exit.pid));
    until_gone(&mark).await;
    assert_eq!(launcher.pid(&spec().node_id), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_is_killed_after_the_bound() {
    let world = World::with_ruff();
    let mut coordinator = Coordinator::start().await;
    let (mut launcher, _exits) = launch(world.dir.path(), &coordinator.uri);
    let session = coordinator.session().await;
    signal(session.hello.process_id, Signal::SIGSTOP);
    launcher.stop_all(Duration::from_millis(50)).await;
    until_dead(session.hello.process_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_that_is_killed_leaves_nothing_behind() {
    let (world, mark) = World::with_endless_ruff();
    let mut coordinator = Coordinator::start().await;
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "node_session::processes::launches_a_node_and_waits", "--nocapture"])
        .env("PARENT_WORLD", world.dir.path())
        .env("PARENT_COORDINATOR", &coordinator.uri)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let session = linting(&mut coordinator, &mark).await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    until_gone(&mark).await;
    until_dead(session.hello.process_id).await;
    until("the node's folder is gone", || fs::read_dir(world.work_dir()).unwrap().count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other process of a_launcher_that_is_killed_leaves_nothing_behind"]
async fn launches_a_node_and_waits() {
    let dir = PathBuf::from(std::env::var_os("PARENT_WORLD").expect("started by the other test"));
    let uri = std::env::var("PARENT_COORDINATOR").expect("started by the other test");
    let _launched = launch(&dir, &uri);
    std::future::pending::<()>().await;
}
