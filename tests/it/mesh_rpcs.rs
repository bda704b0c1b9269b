//! What the rpcs about the mesh itself answer is measured: nodes, health, faults.

use std::time::Duration;

use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::*;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::support::calls::{assert_error, bad_fields, finished, inline, request, started, watched};
use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, signal, until};

const NODES: [&str; 4] = ["api-docs", "backend-dev", "integration-specialist", "system-architect"];

fn fault(id: &str, action: FaultAction, node: &str) -> HandleFaultRequest {
    HandleFaultRequest {
        fault_id: id.to_owned(),
        action: action.into(),
        node_id: node.to_owned(),
        reason: "a test".to_owned(),
        ..Default::default()
    }
}

fn specialist(node_id: &str) -> Specialist {
    Specialist {
        node_id: node_id.to_owned(),
        agent_type: "extra".to_owned(),
        capabilities: vec!["extra_capability".to_owned()],
        priority_weight: 0.5,
        max_concurrent_tasks: 2,
        ..Default::default()
    }
}

#[tokio::test]
async fn after_serve_the_mesh_is_what_the_manual_says() {
    let serve = Serve::launch("", &[]).await;
    let mesh = serve.ready().await;
    assert!(mesh.ready);
    assert_eq!((mesh.active_nodes, mesh.total_nodes, mesh.mesh_health), (4, 4, 1.0));
    assert_eq!((mesh.connections, mesh.connectivity), (12, 1.0), "each link was measured");
    assert!(mesh.epoch >= 1);
    let tools = ["bandit", "flake8", "mypy", "pylint", "ruff"];
    assert_eq!(mesh.integration_progress, tools.map(|tool| (tool.to_owned(), 0.0)).into());

    let settings = mesh.settings.expect("settings");
    let span = |span: Option<prost_types::Duration>| Duration::try_from(span.expect("set")).expect("valid");
    let seconds = Duration::from_secs;
    assert_eq!(span(settings.heartbeat_interval), seconds(5));
    assert_eq!(span(settings.message_timeout), seconds(30));
    assert_eq!((settings.consensus_threshold, settings.fault_tolerance_level), (0.75, 0.33));
    assert_eq!(settings.load_balancing_strategy, "capability_based");
    assert_eq!((settings.max_retry_attempts, settings.circuit_breaker_threshold), (3, 5));
    assert_eq!(span(settings.recovery_timeout), seconds(60));
    assert_eq!(span(settings.task_timeout), seconds(600));
    assert_eq!((settings.batch_size, span(settings.flush_interval)), (10, seconds(1)));
    assert_eq!(span(settings.health_check_interval), seconds(30));

    assert_eq!(mesh.nodes.keys().collect::<Vec<_>>(), NODES);
    for (id, node) in &mesh.nodes {
        let declared = node.specialist.as_ref().expect("declared");
        assert_eq!((&declared.node_id, &declared.agent_type), (id, id));
        assert_eq!((declared.capabilities.len(), declared.fallback_capabilities.len()), (4, 12));
        assert_eq!((node.status(), node.cause.as_str()), (NodeStatus::Active, ""));
        assert_eq!(node.breaker(), BreakerState::Closed);
        let heard = node.last_heartbeat_time.as_ref().expect("heard");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert!((now.as_secs() as i64 - heard.seconds).abs() < 60, "{heard:?}");
        assert!(node.incarnation > 0 && node.process_id > 0 && !node.sandbox.is_empty());
        assert_eq!(node.tools.keys().collect::<Vec<_>>(), tools);
    }
    let of = |node: &str| mesh.nodes[node].specialist.clone().expect("declared");
    let weights = NODES.map(|node| (of(node).priority_weight, of(node).max_concurrent_tasks));
    assert_eq!(weights, [(0.7, 4), (0.8, 3), (1.0, 6), (0.9, 5)]);
}

#[tokio::test]
async fn specialists_are_declared_once_and_waited_for_only_as_long_as_the_caller_has_time() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let declare = |specialists, seconds| InitializeMeshRequest {
        specialists,
        wait: Some(prost_types::Duration { seconds, nanos: 0 }),
    };
    let mesh = client.initialize_mesh(declare(vec![specialist("extra-node")], 0)).await.expect("declared");
    let mesh = mesh.into_inner();
    assert_eq!((mesh.ready, mesh.active_nodes, mesh.total_nodes, mesh.mesh_health), (false, 4, 5, 0.8));
    let extra = &mesh.nodes["extra-node"];
    assert_eq!((extra.status(), extra.incarnation), (NodeStatus::Initializing, 0));
    assert!(extra.last_heartbeat_time.is_none());

    // The same again changes nothing. Its deadline is shorter than its wait, and it is answered all the same.
    let mut again = tonic::Request::new(declare(vec![specialist("extra-node")], 200));
    again.set_timeout(Duration::from_secs(5));
    let mesh = client.initialize_mesh(again).await.expect("answered in time").into_inner();
    assert_eq!((mesh.ready, mesh.total_nodes), (false, 5));

    let other = specialist("backend-dev");
    let refused = client.initialize_mesh(declare(vec![other], 0)).await.expect_err("joined otherwise");
    assert_error(&refused, Code::FailedPrecondition, "NODE_DECLARED_OTHERWISE");

    let bad = Specialist { priority_weight: f64::NAN, max_concurrent_tasks: 0, ..specialist("Not A Name") };
    let twice = vec![bad, specialist("twin"), specialist("twin")];
    let refused = client.initialize_mesh(declare(twice, 301)).await.expect_err("five bad fields");
    let fields = [
        "specialists[0].max_concurrent_tasks",
        "specialists[0].node_id",
        "specialists[0].priority_weight",
        "specialists[2].node_id",
        "wait",
    ];
    assert_eq!(bad_fields(&refused), fields);
    let unchanged = client.initialize_mesh(declare(Vec::new(), 0)).await.expect("answers").into_inner();
    assert_eq!(unchanged.total_nodes, 5, "what was refused is not declared");
}

#[tokio::test]
async fn the_status_is_one_page_and_follows_a_run() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let tree = inline(&[("a.py", "import os\n")]);
    let events = super::support::calls::run(&mut client, request(tree, &["ruff"])).await;
    assert_eq!(finished(&events).outcome(), Outcome::Findings);
    let status = client.get_mesh_status(GetMeshStatusRequest {}).await.expect("answers").into_inner();
    let topology = status.topology.expect("topology");
    assert_eq!(topology.r#type, "full_mesh");
    assert_eq!(topology.fault_tolerance, "byzantine_33_percent");
    assert_eq!(topology.communication_protocol, "peer_to_peer");
    assert_eq!(status.integration_progress["ruff"], 1.0);
    assert_eq!(status.integration_progress["mypy"], 0.0);
    assert_eq!(status.node_statuses.keys().collect::<Vec<_>>(), NODES);
    let metrics = status.metrics.expect("metrics");
    assert_eq!((metrics.active_nodes, metrics.total_nodes, metrics.topology_health), (4, 4, 1.0));
    assert_eq!((metrics.queued_tasks, metrics.running_tasks, metrics.open_runs), (0, 0, 0));
    for node in metrics.node_health.values() {
        assert!((0.0..=1.0).contains(&node.load_score), "{node:?}");
        assert!(node.last_heartbeat_age.is_some());
    }
}

#[tokio::test]
async fn a_node_reported_as_failed_loses_its_work_and_comes_back() {
    let ruff = GatedRuff::new();
    let serve = Serve::start(&ruff.settings()).await;
    let mut client = serve.coordinator();
    let id = started(&mut client, request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;
    let (mut healthy, mut holder) = (NODES.to_vec(), "backend-dev".to_owned());
    // One after the other until none is left: the task moves on each time, then waits.
    while !healthy.is_empty() {
        healthy.retain(|node| *node != holder);
        let answer =
            client.handle_fault(fault("", FaultAction::Fail, &holder)).await.expect("done").into_inner();
        assert_eq!(answer.failed_node, holder);
        assert_eq!(answer.healthy_nodes, healthy);
        assert_eq!(answer.new_topology_health, healthy.len() as f64 / 4.0);
        let [moved] = &answer.redistributed_tasks[..] else { panic!("{answer:?}") };
        assert_eq!((&moved.run_id, moved.task.as_ref().expect("a task").tool.as_str()), (&id, "ruff"));
        assert!(!answer.steps.is_empty());
        let to = moved.to_node_id.clone();
        assert_eq!(to.is_empty(), healthy.is_empty(), "{answer:?}");
        assert!(to.is_empty() || healthy.contains(&to.as_str()), "{to}");
        holder = to;
    }
    until("no linter runs", || ruff.running() == 0).await;
    let status = client.get_mesh_status(GetMeshStatusRequest {}).await.expect("answers").into_inner();
    let metrics = status.metrics.expect("metrics");
    assert_eq!((metrics.queued_tasks, metrics.running_tasks, metrics.open_runs), (1, 0, 1));

    let back =
        client.handle_fault(fault("", FaultAction::Recover, "api-docs")).await.expect("done").into_inner();
    assert_eq!(back.healthy_nodes, ["api-docs"]);
    ruff.open();
    let events = watched(&mut client, &id, 0).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    let count = |wanted: fn(&Event) -> bool| {
        events.iter().filter(|event| event.event.as_ref().is_some_and(wanted)).count()
    };
    assert_eq!(count(|event| matches!(event, Event::Fault(fault) if fault.cause == "OPERATOR")), 4);
    assert_eq!(count(|event| matches!(event, Event::Redistribution(_))), 4);
}

#[tokio::test]
async fn a_fault_is_handled_once_for_each_id() {
    let serve = Serve::start("").await;
    let mut client = serve.coordinator();
    let once = fault("fault-1", FaultAction::Fail, "backend-dev");
    let first = client.handle_fault(once.clone()).await.expect("done").into_inner();
    assert_eq!(first.healthy_nodes.len(), 3);
    client.handle_fault(fault("fault-2", FaultAction::Recover, "backend-dev")).await.expect("done");
    let again = client.handle_fault(once.clone()).await.expect("the same answer").into_inner();
    assert_eq!(again, first);
    assert_eq!(serve.node("backend-dev").await.status(), NodeStatus::Active, "it did not happen again");
    for other in [
        HandleFaultRequest { node_id: "api-docs".into(), ..once.clone() },
        HandleFaultRequest { action: FaultAction::Recover.into(), ..once },
    ] {
        let refused = client.handle_fault(other).await.expect_err("another body");
        assert_error(&refused, Code::InvalidArgument, "REQUEST_ID_REUSED");
    }
    for unknown in ["no-such-node", "Not A Name"] {
        for action in [FaultAction::Fail, FaultAction::Recover] {
            let refused = client.handle_fault(fault("", action, unknown)).await.expect_err("unknown");
            assert_error(&refused, Code::NotFound, "RESOURCE_NOT_FOUND");
            let details = refused.get_error_details();
            let resource = details.resource_info().expect("ResourceInfo");
            assert_eq!((&*resource.resource_type, &*resource.resource_name), ("node", unknown));
        }
    }
    let bad = HandleFaultRequest {
        fault_id: "é".into(),
        action: 77,
        node_id: String::new(),
        reason: "x".repeat(513),
        all_nodes: false,
        timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
    };
    let refused = client.handle_fault(bad).await.expect_err("five bad fields");
    assert_eq!(bad_fields(&refused), ["action", "fault_id", "node_id", "reason", "timeout"]);
    for (bad, field) in [
        (HandleFaultRequest { all_nodes: true, ..fault("", FaultAction::Recover, "api-docs") }, "node_id"),
        (HandleFaultRequest { all_nodes: true, ..fault("", FaultAction::Drain, "") }, "all_nodes"),
        (HandleFaultRequest { all_nodes: true, ..fault("", FaultAction::Fail, "") }, "all_nodes"),
        (HandleFaultRequest { all_nodes: true, ..fault("", FaultAction::Forget, "") }, "all_nodes"),
        (
            HandleFaultRequest {
                timeout: Some(prost_types::Duration::default()),
                ..fault("", FaultAction::Recover, "api-docs")
            },
            "timeout",
        ),
    ] {
        let refused = client.handle_fault(bad).await.expect_err("contradicts itself");
        assert_eq!(bad_fields(&refused), [field]);
    }
}

#[tokio::test]
async fn a_node_whose_process_is_gone_is_started_again_on_recover() {
    let serve = Serve::start("[nodes]\nrestart_budget = 0\n").await;
    let before = serve.node("api-docs").await;
    signal(before.process_id, nix::sys::signal::Signal::SIGKILL);
    let mut client = serve.coordinator();
    let failed = async {
        loop {
            let node = serve.node("api-docs").await;
            if node.status() == NodeStatus::Failed {
                return node;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let failed = tokio::time::timeout(DEADLINE, failed).await.expect("noticed");
    assert_eq!(failed.cause, "PROCESS_EXITED");
    assert_eq!(failed.cause_detail, "nodes.restart_budget is 0: recover it to start it");
    client.handle_fault(fault("", FaultAction::Recover, "api-docs")).await.expect("done");
    assert!(serve.ready().await.ready);
    let after = serve.node("api-docs").await;
    assert!(after.incarnation > before.incarnation && after.process_id != before.process_id);
}
