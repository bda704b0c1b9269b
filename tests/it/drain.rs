//! Nodes leave without loss: drained by an operator, or asked to end.

use std::time::Duration;

use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use nix::sys::signal::Signal;

use super::support::calls::*;
use super::support::linters::GatedRuff;
use super::support::serve::{Serve, signal, until};

fn fault(action: FaultAction, node: &str, timeout: Option<Duration>) -> HandleFaultRequest {
    HandleFaultRequest {
        action: action.into(),
        node_id: node.to_owned(),
        timeout: timeout.map(|span| span.try_into().expect("short")),
        ..HandleFaultRequest::default()
    }
}

/// A run whose linter waits for the gate, and the node that has it.
async fn linting(serve: &Serve, ruff: &GatedRuff) -> (String, String) {
    let run = started(&mut serve.coordinator(), request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;
    (run, serve.holder().await)
}

/// Faults of nodes and attempts, and redistributions.
fn disturbances(events: &[RunEvent]) -> (usize, usize) {
    let count = |wanted: fn(&Event) -> bool| {
        events.iter().filter(|event| event.event.as_ref().is_some_and(wanted)).count()
    };
    let faults = count(|event| matches!(event, Event::Fault(_)));
    (faults, count(|event| matches!(event, Event::Redistribution(_))))
}

fn is_draining(node: &NodeInfo) -> bool {
    (node.status(), node.cause.as_str()) == (NodeStatus::Degraded, "DRAINING")
}

#[tokio::test]
async fn a_drained_node_finishes_its_work_and_gets_no_more_until_it_is_recovered() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let (run_id, holder) = linting(&serve, &ruff).await;
    let drain = fault(FaultAction::Drain, &holder, Some(Duration::from_secs(3600)));
    let answer = client.handle_fault(drain).await.expect("done").into_inner();
    assert_eq!((answer.healthy_nodes.len(), answer.redistributed_tasks.len()), (3, 0));
    assert!(is_draining(&serve.node(&holder).await));
    assert_eq!(ruff.running(), 2, "its linter goes on");
    ruff.open();
    let events = watched(&mut client, &run_id, 0).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    assert_eq!(disturbances(&events), (0, 0));
    serve.until_node(&holder, "is drained", |node| node.cause_detail.starts_with("it finished")).await;

    let next = run(&mut client, request(inline(&[("b.py", "")]), &["ruff"])).await;
    assert_eq!(finished(&next).outcome(), Outcome::Clean);
    let given = next
        .iter()
        .any(|event| matches!(&event.event, Some(Event::TaskAssigned(given)) if given.node_id == holder));
    assert!(!given, "it got work");
    let back = client.handle_fault(fault(FaultAction::Recover, &holder, None)).await.expect("done");
    assert_eq!(back.into_inner().healthy_nodes.len(), 4);
}

#[tokio::test]
async fn what_a_drained_node_does_not_finish_in_time_goes_to_others() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let (run_id, holder) = linting(&serve, &ruff).await;
    let drain = fault(FaultAction::Drain, &holder, Some(Duration::from_millis(200)));
    client.handle_fault(drain).await.expect("done");
    serve
        .until_node(&holder, "has no work", |node| node.cause_detail.starts_with("1 tasks did not end"))
        .await;
    until("another node lints", || ruff.running() == 2).await;
    assert_ne!(serve.holder().await, holder);
    ruff.open();
    let events = watched(&mut client, &run_id, 0).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    assert_eq!(disturbances(&events), (0, 1), "moved, and no fault");
}

#[tokio::test]
async fn a_node_that_gets_sigterm_finishes_delivers_and_is_replaced() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let (run_id, holder) = linting(&serve, &ruff).await;
    let before = serve.node(&holder).await;
    signal(before.process_id, Signal::SIGTERM);
    serve.until_node(&holder, "drains", is_draining).await;
    assert_eq!(ruff.running(), 2, "its linter goes on");
    ruff.open();
    let events = watched(&mut client, &run_id, 0).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    assert_eq!(disturbances(&events), (0, 0));
    let is_new =
        |node: &NodeInfo| node.status() == NodeStatus::Active && node.incarnation > before.incarnation;
    serve.until_node(&holder, "is replaced", is_new).await;
    let ended = serve.logged("node process ended");
    let [ended] = &ended[..] else { panic!("one node ended: {ended:?}") };
    assert_eq!(ended["status"], "exit status: 0");
    let changes = serve.logged("node status changed");
    assert!(!changes.iter().any(|line| line["status"] == "FAILED"), "no fault: {changes:?}");
}

#[tokio::test]
async fn a_second_sigterm_ends_a_node_at_once_and_loses_nothing_either() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let (run_id, holder) = linting(&serve, &ruff).await;
    let before = serve.node(&holder).await;
    signal(before.process_id, Signal::SIGTERM);
    serve.until_node(&holder, "drains", is_draining).await;
    signal(before.process_id, Signal::SIGTERM);
    let is_new =
        |node: &NodeInfo| node.status() == NodeStatus::Active && node.incarnation > before.incarnation;
    serve.until_node(&holder, "is replaced while its linter would wait for ever", is_new).await;
    ruff.open();
    let events = watched(&mut client, &run_id, 0).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    assert_eq!(disturbances(&events), (0, 1), "moved, and no fault");
}
