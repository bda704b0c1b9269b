//! A node that is killed in the middle of a run: its linters die with it, others do its work, the result is the same.

use std::collections::BTreeSet;

use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use nix::sys::signal::Signal;
use tonic::transport::Channel;

use super::support::calls::*;
use super::support::projects::project;
use super::support::serve::{DEADLINE, Serve, signal, until};

fn flask() -> (String, String) {
    let folder = project("flask").canonicalize().expect("there");
    let folder = folder.to_str().expect("UTF-8").to_owned();
    (format!("[workspace]\nallowed_roots = [{folder:?}]\n"), folder)
}

fn sources(folder: &str, tools: &[&str]) -> CoordinateRequest {
    let path = PathSource { root: folder.to_owned(), paths: vec!["src".into()], exclude: vec![] };
    request(Workspace { source: Some(workspace::Source::Path(path)) }, tools)
}

async fn result(client: &mut CoordinatorServiceClient<Channel>, events: &[RunEvent]) -> Vec<u8> {
    assert_eq!(finished(events).outcome(), Outcome::Findings);
    report(client, &events[0].run_id, ReportFormat::Result).await.expect("a report")
}

/// The running processes that descend from `ancestor`.
fn descendants(ancestor: u32) -> BTreeSet<i32> {
    let parents: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .expect("procfs")
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let mut found = BTreeSet::from([i32::try_from(ancestor).expect("a pid")]);
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// None for what is dead, reaped or not.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.next()?.parse().ok()).flatten()
}

#[tokio::test]
async fn backend_dev_killed_on_flask_costs_time_only() {
    let (settings, folder) = flask();
    let serve = Serve::start(&settings).await;
    let mut client = serve.coordinator();
    let undisturbed = run(&mut client, sources(&folder, &[])).await;
    let undisturbed = result(&mut client, &undisturbed).await;

    let node = serve.node("backend-dev").await;
    let mut stream = client.coordinate(sources(&folder, &[])).await.expect("accepted").into_inner();
    let mut events = Vec::new();
    let mut victims = BTreeSet::new();
    while let Some(told) = stream.message().await.expect("no error") {
        let event = told.event.expect("an event");
        let lints = matches!(&event.event, Some(Event::TaskAssigned(given))
            if given.node_id == "backend-dev" && given.task.as_ref().expect("a task").stage() == Stage::Lint);
        events.push(event);
        if lints && victims.is_empty() {
            // Node, shim, linter: when the third is there, a linter runs.
            until("its linter runs", || descendants(node.process_id).len() >= 3).await;
            victims = descendants(node.process_id);
            signal(node.process_id, Signal::SIGKILL);
        }
    }
    assert!(victims.len() >= 3, "it was killed while its linters ran");
    until("its linters are dead", || victims.iter().all(|pid| parent(*pid).is_none())).await;
    let fault = events.iter().position(|event| {
        matches!(&event.event, Some(Event::Fault(fault))
            if fault.node_id == "backend-dev" && ["PROCESS_EXITED", "SESSION_LOST"].contains(&&*fault.cause))
    });
    let fault = fault.expect("the stream shows the fault");
    let moved = events[fault..].iter().find_map(|event| match &event.event {
        Some(Event::Redistribution(moved)) => Some(moved.clone()),
        _ => None,
    });
    let moved = moved.expect("the stream shows the redistribution after the fault");
    assert_eq!(moved.from_node_id, "backend-dev");
    assert!(!moved.tasks.is_empty());
    // The node may come back in time to do its work again, but what its dead process had begun is nobody's result.
    let begun: Vec<_> = events[..fault].iter().filter_map(assigned_to_backend_dev).collect();
    for task in &moved.tasks {
        let done = events[fault..].iter().find_map(|event| match &event.event {
            Some(Event::TaskAccepted(done)) if done.task.as_ref() == Some(task) => Some(done.attempt.clone()),
            _ => None,
        });
        assert!(!begun.contains(&done.expect("it was done after the fault")), "{begun:?}");
    }
    let disturbed = result(&mut client, &events).await;
    assert!(disturbed == undisturbed, "the result is another one");
    let active = |node: &NodeInfo| node.status() == NodeStatus::Active;
    let back = serve.until_node("backend-dev", "is back", active).await;
    assert!(back.incarnation > node.incarnation);
}

/// The attempt that an event gives to the node that is killed.
fn assigned_to_backend_dev(event: &RunEvent) -> Option<String> {
    match &event.event {
        Some(Event::TaskAssigned(given)) if given.node_id == "backend-dev" => Some(given.attempt.clone()),
        _ => None,
    }
}

/// A moment between 0 and 1 for each seed (SplitMix64).
fn moment(seed: u64) -> f64 {
    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[tokio::test]
async fn the_other_specialists_may_be_killed_at_any_moment() {
    let (settings, folder) = flask();
    // The tools that are quick: the moments cover every stage.
    let tools = ["ruff", "flake8", "bandit"];
    let serve = Serve::start(&settings).await;
    let mut client = serve.coordinator();
    let begun = tokio::time::Instant::now();
    let undisturbed = run(&mut client, sources(&folder, &tools)).await;
    let usual = begun.elapsed();
    let undisturbed = result(&mut client, &undisturbed).await;
    for (seed, node) in
        [(1, "api-docs"), (2, "integration-specialist"), (3, "api-docs"), (4, "integration-specialist")]
    {
        let process = serve.node(node).await.process_id;
        let started = run(&mut client, sources(&folder, &tools));
        let kill = async {
            tokio::time::sleep(usual.mul_f64(moment(seed))).await;
            signal(process, Signal::SIGKILL);
        };
        let mut other = serve.coordinator();
        let both = async { tokio::join!(started, kill) };
        let (events, ()) = tokio::time::timeout(DEADLINE, both).await.expect("the run completes");
        let disturbed = result(&mut other, &events).await;
        assert!(disturbed == undisturbed, "seed {seed}: {node} killed: the result is another one");
        // Whole again for the next moment.
        let is_new = |node: &NodeInfo| node.status() == NodeStatus::Active && node.process_id != process;
        serve.until_node(node, "comes back", is_new).await;
    }
}
