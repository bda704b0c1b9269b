//! Work goes on where it was when its coordinator is cut off and started again: what runs is not disturbed, what was
//! finished meanwhile is delivered once, even by nodes that were restarted too.

mod world;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lintmesh::config::{self, Sources};
use lintmesh::engine::clock::SystemClock;
use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::node_service_client::NodeServiceClient;
use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::{Outcome, RunEvent, Specialist, Stage};
use lintmesh::server::{self, RunningServer, Secrets, ServerOptions, TreePolicy};
use lintmesh::store::{MemoryLog, MemoryStore};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::node_session::coordinator::SECRET;
use super::node_session::processes::marked;
use super::support::calls::{finished, inline, recorded, request, started, watched};
use super::support::serve::{DEADLINE, channel, until};
use world::{Place, settings};

/// Starts a run and waits until its linter runs; answers the run and the linter's process.
async fn linting(place: &Place) -> (String, i32) {
    place.until_joined().await;
    let tree = inline(&[("a.py", "import os\n")]);
    let run = started(&mut place.coordinator.client(), request(tree, &["ruff"])).await;
    until("the linter runs", || marked(&place.mark).len() == 1).await;
    (run, marked(&place.mark)[0])
}

fn ends(linter: i32) {
    kill(Pid::from_raw(linter), Signal::SIGKILL).expect("it runs");
}

/// The attempts in which LINT was given, and the one whose result was accepted.
fn lint_attempts(events: &[RunEvent]) -> (Vec<String>, Vec<String>) {
    let is_lint = |task: &Option<lintmesh::proto::v1::TaskRef>| {
        task.as_ref().is_some_and(|task| task.stage() == Stage::Lint)
    };
    let given = events.iter().filter_map(|event| match &event.event {
        Some(Event::TaskAssigned(given)) if is_lint(&given.task) => Some(given.attempt.clone()),
        _ => None,
    });
    let accepted = events.iter().filter_map(|event| match &event.event {
        Some(Event::TaskAccepted(done)) if is_lint(&done.task) => Some(done.attempt.clone()),
        _ => None,
    });
    (given.collect(), accepted.collect())
}

/// Watches a run to its end, which is a good one: LINT was given and accepted once, and no event is missing.
async fn ends_well(place: &Place, run: &str) {
    let watching = async { watched(&mut place.coordinator.client(), run, 0).await };
    let events = tokio::time::timeout(DEADLINE, watching).await.expect("ends");
    assert_eq!(finished(&events).outcome(), Outcome::Clean, "{events:?}");
    let (given, accepted) = lint_attempts(&events);
    assert_eq!((given.len(), &given), (1, &accepted));
    let sequences: Vec<u64> = recorded(&events).iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linter_that_runs_while_its_coordinator_is_restarted_is_neither_disturbed_nor_started_again() {
    let mut place = Place::new().await;
    let _nodes = place.nodes();
    let (run, linter) = linting(&place).await;
    place.coordinator.kill();
    place.coordinator.begin().await;
    place.until_joined().await;
    assert_eq!(place.ask(|core| core.state().epoch.0).await, 2);
    assert_eq!(marked(&place.mark), [linter], "it is the same process");
    ends(linter);
    ends_well(&place, &run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_was_finished_while_there_was_no_coordinator_is_delivered_once() {
    let mut place = Place::new().await;
    let _nodes = place.nodes();
    let (run, linter) = linting(&place).await;
    place.coordinator.kill();
    ends(linter);
    until("the result is kept", || place.kept().len() == 1).await;
    place.coordinator.begin().await;
    ends_well(&place, &run).await;
    assert_eq!(place.ask(|core| core.dropped_results().values().sum::<u64>()).await, 0, "once");
    until("what is acknowledged is not kept", || place.kept().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_outlives_the_process_that_made_it_and_the_coordinator_that_asked_for_it() {
    let mut place = Place::new().await;
    let nodes = place.nodes();
    let (run, linter) = linting(&place).await;
    place.coordinator.kill();
    ends(linter);
    until("the result is kept", || place.kept().len() == 1).await;
    for node in nodes {
        node.end().await;
    }
    let _nodes = place.nodes();
    place.coordinator.begin().await;
    ends_well(&place, &run).await;
    assert_eq!(marked(&place.mark), Vec::<i32>::new(), "no linter was started for it");
    until("what is acknowledged is not kept", || place.kept().is_empty()).await;
}

/// A node joins that says which coordinator start welcomed it last; its connection lasts as long as the answer.
async fn says_last_epoch(coordinator: SocketAddr, last_epoch: u64) -> impl Sized {
    let (requests, sent) = mpsc::channel(1);
    let specialist = Specialist {
        node_id: "extra".into(),
        agent_type: "extra".into(),
        priority_weight: 0.5,
        max_concurrent_tasks: 1,
        ..Default::default()
    };
    let hello = pb::Hello {
        protocol_min: 1,
        protocol_max: 1,
        mesh_id: server::MESH_ID.into(),
        specialist: Some(specialist),
        incarnation: 1,
        last_epoch,
        ..Default::default()
    };
    let message = Some(pb::session_request::Message::Hello(hello));
    requests.send(pb::SessionRequest { message }).await.expect("open");
    let mut request = Request::new(ReceiverStream::new(sent));
    request.metadata_mut().insert("authorization", format!("Bearer {SECRET}").parse().expect("a header"));
    let mut client = NodeServiceClient::new(channel(coordinator));
    // Whoever has to stop may do so before it has answered.
    (client.session(request).await, requests)
}

/// A coordinator on a store that others can open too, as they can one that is not a file of this machine.
async fn on(log: &MemoryLog, folder: &Path) -> RunningServer {
    let file = folder.join("lintmesh.toml");
    let listeners = "[server]\nlisten = \"127.0.0.1:0\"\nnode_listen = \"127.0.0.1:0\"\n";
    std::fs::write(&file, format!("{listeners}{}", settings())).expect("written");
    let settings = config::load(&Sources { file: Some(file), ..Sources::default() }).expect("valid").settings;
    let trees = TreePolicy::default();
    let options = ServerOptions {
        secrets: Arc::new(Secrets::new(&settings)),
        node_port: None,
        settings,
        trees,
        tokens: Vec::new(),
        admin: false,
        toolchain_mode: None,
        blob_dir: folder.join("blobs"),
        state_dir: None,
        free_bytes: Arc::new(server::free_bytes),
        store: MemoryStore::over(log.clone()),
        salvage: false,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(|| 0x5eed),
    };
    server::start(options).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_was_replaced_stops_when_a_node_knows_of_its_successor() {
    let (log, folders) = (MemoryLog::default(), [(); 2].map(|()| tempfile::tempdir().expect("a folder")));
    let former = on(&log, folders[0].path()).await;
    let _first = says_last_epoch(former.node_address(), 0).await;
    let _successor = on(&log, folders[1].path()).await;
    // The same process by a new connection: nothing that would have to be stored.
    let _second = says_last_epoch(former.node_address(), 2).await;
    let reason = tokio::time::timeout(DEADLINE, former.failed()).await.expect("stops");
    assert!(reason.contains("epoch 1") && reason.contains("epoch 2"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_only_says_so_stops_nobody() {
    let (log, folder) = (MemoryLog::default(), tempfile::tempdir().expect("a folder"));
    let coordinator = on(&log, folder.path()).await;
    for _ in 0..20 {
        let _joined = says_last_epoch(coordinator.node_address(), u64::MAX).await;
    }
    // The store is asked, as it is when a node says so; after that there is nothing left that could stop it.
    coordinator.engine().check_ownership().await.expect("goes on");
    let failed = tokio::time::timeout(Duration::ZERO, coordinator.failed()).await;
    assert!(failed.is_err(), "{failed:?}");
    let epoch = coordinator.engine().query(|core, _| core.state().epoch.0).await;
    assert_eq!(epoch.expect("runs"), 1);
}
