//! The nodes of `serve` and their linters go on when it is killed, and its successor goes on with them. Nobody is left that
//! nobody wants.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::support::calls::*;
use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, lintmesh, processes_in, signal, state_home, until};

/// The processes of its nodes.
fn nodes(serve: &Serve) -> BTreeSet<i32> {
    let launched = |line: &str| line.contains(" node --launched");
    serve.processes().into_iter().filter(|(_, line)| launched(line)).map(|(pid, _)| pid).collect()
}

/// A run whose ruff waits at the gate.
async fn gated_run(serve: &Serve, ruff: &GatedRuff) -> String {
    let run = started(&mut serve.coordinator(), request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;
    run
}

/// Opens the gate, and waits for the end of the run; answers how often ruff was given to a node.
async fn ends_clean(serve: &Serve, ruff: &GatedRuff, run: &str) -> usize {
    ruff.open();
    let mut client = serve.coordinator();
    let events = tokio::time::timeout(DEADLINE, watched(&mut client, run, 0)).await.expect("it ends");
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    let is_lint = |event: &&RunEvent| {
        matches!(&event.event, Some(Event::TaskAssigned(given))
            if given.task.as_ref().is_some_and(|task| task.stage() == Stage::Lint))
    };
    recorded(&events).iter().filter(is_lint).count()
}

#[tokio::test]
async fn nodes_and_linters_go_on_under_the_successor_and_under_its_own() {
    let ruff = GatedRuff::new();
    let mut serve = Serve::start(&ruff.settings()).await;
    let run = gated_run(&serve, &ruff).await;
    let (before, linters, listener) = (nodes(&serve), ruff.pids(), serve.node_listener);
    assert_eq!(before.len(), 4);
    for start in [2, 3] {
        serve.crash().await;
        assert_eq!((nodes(&serve), ruff.pids()), (before.clone(), linters.clone()), "they go on alone");
        serve.again(&ruff.settings(), &[]).await;
        assert!(serve.ready().await.ready);
        assert_eq!((nodes(&serve), ruff.pids()), (before.clone(), linters.clone()), "no doubles");
        assert_eq!(serve.node_listener, listener);
        assert_eq!(serve.logged("node process adopted").len(), 4);
        assert_eq!(serve.logged("node process started").len(), 0);
        let kept = serve.logged("the state is kept").pop().expect("it says what it has");
        assert_eq!((&kept["epoch"], &kept["open_runs"]), (&start.into(), &1.into()), "{kept}");
    }
    let told = serve.ready().await;
    let told: BTreeSet<i32> =
        told.nodes.values().filter_map(|node| i32::try_from(node.process_id).ok()).collect();
    assert_eq!(told, before);
    assert_eq!(ends_clean(&serve, &ruff, &run).await, 1, "the linter was run once");

    // An adopted node that dies is started again like any other.
    let killed = serve.node("backend-dev").await;
    signal(killed.process_id, Signal::SIGKILL);
    let is_new = |node: &NodeInfo| {
        node.status() == NodeStatus::Active && ![0, killed.process_id].contains(&node.process_id)
    };
    serve.until_node("backend-dev", "is started anew", is_new).await;
    assert_eq!(nodes(&serve).len(), 4);

    // Its own and the adopted ones end with it when it is told to end.
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    assert!(serve.processes().is_empty(), "{:?}", serve.processes());
    assert_eq!(ruff.running(), 0);
}

#[tokio::test]
async fn an_adopted_node_that_hangs_is_replaced() {
    let ruff = GatedRuff::new();
    let settings = format!("{}[mesh]\nheartbeat_interval = 0.5\nmessage_timeout = 3\n", ruff.settings());
    let mut serve = Serve::start(&settings).await;
    serve.crash().await;
    serve.again(&settings, &[]).await;
    assert!(serve.ready().await.ready);
    let hangs = serve.node("api-docs").await;
    signal(hangs.process_id, Signal::SIGSTOP);
    let is_new = |node: &NodeInfo| {
        node.status() == NodeStatus::Active && ![0, hangs.process_id].contains(&node.process_id)
    };
    serve.until_node("api-docs", "is started anew", is_new).await;
    assert!(!nodes(&serve).contains(&i32::try_from(hangs.process_id).expect("a pid")));
    assert_eq!(nodes(&serve).len(), 4);
}

#[tokio::test]
async fn without_a_successor_everything_ends_and_a_later_one_does_the_work() {
    let ruff = GatedRuff::new();
    let settings = format!("{}[nodes]\norphan_grace = 2\n", ruff.settings());
    let mut serve = Serve::start(&settings).await;
    let run = gated_run(&serve, &ruff).await;
    // From here on, since whoever looks after the kill may look late.
    let began = Instant::now();
    serve.crash().await;
    until("nobody is left", || serve.processes().is_empty() && ruff.running() == 0).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "the grace was waited for");
    serve.again(&settings, &[]).await;
    assert!(serve.ready().await.ready);
    assert_eq!(serve.logged("node process started").len(), 4);
    assert_eq!(ends_clean(&serve, &ruff, &run).await, 2, "the first one's linter died with its node");
}

#[tokio::test]
async fn a_coordinator_that_fails_leaves_its_nodes_to_its_successor() {
    let ruff = GatedRuff::new();
    let mut serve = Serve::start(&ruff.settings()).await;
    let state = state_home(serve.dir.path()).join("lintmesh");
    let (file, away) = (state.join("state.redb"), state.join("away"));
    let run = gated_run(&serve, &ruff).await;
    let (launched, linters) = (nodes(&serve), ruff.pids());
    // First those that it launched, then those that it adopted.
    for _ in 0..2 {
        // It does not own what is not where it was: its next fact cannot be stored.
        fs::rename(&file, &away).expect("moved");
        let more = start(request(inline(&[("b.py", "")]), &["ruff"]));
        serve.coordinator().start_run(more).await.expect_err("it fails");
        assert!(!serve.ended().await.success());
        assert_eq!((nodes(&serve), ruff.pids()), (launched.clone(), linters.clone()), "they go on alone");
        fs::rename(&away, &file).expect("moved");
        serve.again(&ruff.settings(), &[]).await;
        assert!(serve.ready().await.ready);
        assert_eq!((nodes(&serve), ruff.pids()), (launched.clone(), linters.clone()), "no doubles");
        assert_eq!(serve.logged("node process adopted").len(), 4);
    }
    assert_eq!(ends_clean(&serve, &ruff, &run).await, 1, "the linter was run once");

    // Where nodes may not outlive it, they end with it.
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    let mortal = format!("{}[nodes]\norphan_grace = 0\n", ruff.settings());
    serve.again(&mortal, &[]).await;
    assert!(serve.ready().await.ready);
    fs::rename(&file, &away).expect("moved");
    let more = start(request(inline(&[("c.py", "")]), &["ruff"]));
    serve.coordinator().start_run(more).await.expect_err("it fails");
    assert!(!serve.ended().await.success());
    until("nobody is left", || serve.processes().is_empty()).await;
}

#[tokio::test]
async fn nodes_that_nobody_knows_of_any_more_end_beside_a_coordinator_that_lives() {
    let ruff = GatedRuff::new();
    let settings = format!("{}[nodes]\norphan_grace = 3\n", ruff.settings());
    let mut serve = Serve::start(&settings).await;
    let run = gated_run(&serve, &ruff).await;
    assert_eq!(nodes(&serve).len(), 4);
    serve.crash().await;
    let state = state_home(serve.dir.path()).join("lintmesh");
    fs::write(state.join("launched.json"), "{").expect("written");
    serve.again(&settings, &[]).await;
    assert!(serve.ready().await.ready);
    assert_eq!(serve.logged("node process adopted").len(), 0);
    let started = serve.logged("node process started");
    let pid = |line: &serde_json::Value| i32::try_from(line["pid"].as_i64()?).ok();
    let own: BTreeSet<i32> = started.iter().filter_map(pid).collect();
    assert_eq!(own.len(), 4);
    until("only its own are left", || nodes(&serve) == own).await;
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = || entries(state.join("nodes")).flat_map(|node| entries(node.path().join("work"))).count();
    until("so are their folders", || folders() == 4).await;
    ends_clean(&serve, &ruff, &run).await;
}

#[tokio::test]
async fn a_run_that_does_not_end_before_the_service_goes_on_at_the_next_start() {
    let ruff = GatedRuff::new();
    let settings = format!("{}[server]\ndrain_timeout = 0\n", ruff.settings());
    let mut serve = Serve::start(&settings).await;
    let run = gated_run(&serve, &ruff).await;
    serve.signal(Signal::SIGTERM);
    assert!(serve.ended().await.success());
    until("nobody is left", || serve.processes().is_empty() && ruff.running() == 0).await;
    serve.again(&settings, &[]).await;
    ends_clean(&serve, &ruff, &run).await;
}

#[tokio::test]
async fn nodes_that_are_declared_otherwise_are_replaced_and_those_that_are_not_launched_any_more_are_ended() {
    let ruff = GatedRuff::new();
    let mut serve = Serve::start(&ruff.settings()).await;
    let first = nodes(&serve);
    serve.crash().await;
    let other = format!("{}[limits]\noutput_bytes = 1000000\n", ruff.settings());
    serve.again(&other, &[]).await;
    assert!(serve.ready().await.ready);
    let second = nodes(&serve);
    assert_eq!(second.len(), 4);
    assert!(second.is_disjoint(&first));
    serve.crash().await;
    serve.again(&other, &["--launch", "external"]).await;
    assert!(nodes(&serve).is_empty(), "before it serves");
}

#[tokio::test]
async fn where_the_port_is_taken_nodes_are_replaced() {
    let ruff = GatedRuff::new();
    let mut serve = Serve::start(&ruff.settings()).await;
    let first = nodes(&serve);
    serve.crash().await;
    let port = std::net::TcpListener::bind(serve.node_listener).expect("it is free");
    serve.again(&ruff.settings(), &[]).await;
    assert!(serve.ready().await.ready);
    assert_ne!(serve.node_listener, port.local_addr().expect("bound"));
    let second = nodes(&serve);
    assert_eq!(second.len(), 4);
    assert!(second.is_disjoint(&first));
    assert!(!serve.logged("nodes must look elsewhere").is_empty());
}

#[tokio::test]
async fn the_second_signal_ends_the_nodes_at_once() {
    let ruff = GatedRuff::new();
    // Longer than the test waits: only the second signal can end it.
    let mut serve = Serve::start(&format!("{}[server]\ndrain_timeout = 3600\n", ruff.settings())).await;
    gated_run(&serve, &ruff).await;
    let began = Instant::now();
    serve.signal(Signal::SIGTERM);
    until("it drains", || !serve.logged("waiting for open runs").is_empty()).await;
    serve.signal(Signal::SIGTERM);
    assert_eq!(serve.ended().await.code(), Some(128 + Signal::SIGTERM as i32));
    until("nobody is left", || serve.processes().is_empty() && ruff.running() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(30), "that is not the grace of orphans");
}

#[tokio::test]
async fn the_nodes_of_a_private_mesh_die_with_it() {
    let ruff = GatedRuff::new();
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a.py"), "").expect("written");
    fs::write(dir.path().join("mesh.toml"), ruff.settings()).expect("written");
    let mut lint = lintmesh()
        .args(["lint", "--select-tools", "ruff", "--config", "mesh.toml", "."])
        .current_dir(dir.path())
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary is built");
    until("ruff runs", || ruff.running() == 2).await;
    let began = Instant::now();
    lint.kill().expect("it runs");
    lint.wait().expect("it ends");
    until("nobody is left", || processes_in(dir.path()).is_empty() && ruff.running() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(30), "nobody waits for a successor");
    assert!(!dir.path().join("state").exists(), "it keeps nothing");
}
