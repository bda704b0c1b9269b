//! What `/metrics` says: the mesh's figures, counts since the start, and calls.

use std::collections::BTreeMap;

use prost::Message as _;

use super::exposition::Page;
use super::service::{Service, stopped};
use crate::coordinator::Coordinator;
use crate::coordinator::alert::Rule;
use crate::coordinator::breaker::State as BreakerState;
use crate::coordinator::health::MeshHealth;
use crate::coordinator::metrics::{Figures, Totals};
use crate::engine::{COMMIT_BUCKETS, Handle, Storage};
use crate::middleware::rpc_metrics::{BUCKETS, Snapshot};
use crate::proto::v1::FILE_DESCRIPTOR_SET;
use crate::status::ApiError;
use crate::types::{FaultCause, LinkState, NodeStatus};

/// Statuses of nodes, so that one that no node has is told as 0.
const STATUSES: [NodeStatus; 4] =
    [NodeStatus::Initializing, NodeStatus::Active, NodeStatus::Degraded, NodeStatus::Failed];
const LINK_STATES: [LinkState; 4] =
    [LinkState::Connecting, LinkState::Up, LinkState::Reset, LinkState::Silent];
const BREAKER_STATES: [(BreakerState, &str); 3] =
    [(BreakerState::Closed, "closed"), (BreakerState::Open, "open"), (BreakerState::HalfOpen, "half_open")];

/// What the coordinator knows, at one moment.
struct Measured {
    health: MeshHealth,
    totals: Totals,
    /// Process starts that launchers were asked for.
    restarts: u64,
    stale_results: u64,
    epoch: u64,
}

/// The whole page.
pub async fn page(service: &Service) -> Result<String, ApiError> {
    let look = |core: &Coordinator, now| Measured {
        health: core.mesh_health(now, &[]),
        totals: core.totals().clone(),
        restarts: core.recoveries().attempted(),
        stale_results: core.stale_results(),
        epoch: core.state().epoch.0,
    };
    let measured = service.engine.observe(look).await.map_err(stopped)?;
    let mut page = Page::default();
    build(&mut page, measured.epoch);
    figures(&mut page, &measured.health.figures);
    mesh(&mut page, &measured.health);
    totals(&mut page, &measured.totals);
    page.counter("lintmesh_node_restarts_total", "Restarts of node processes that launchers were asked for.")
        .count(&[], measured.restarts);
    storage(&mut page, &service.engine);
    refusals(&mut page, service, measured.stale_results);
    alerts(&mut page, service, &measured.health);
    calls(&mut page, &service.calls.snapshot());
    Ok(page.into_text())
}

/// The methods of the API and of the nodes' listener, as calls are counted by.
pub fn methods() -> Vec<String> {
    let sets = [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files = sets.into_iter().filter_map(|set| prost_types::FileDescriptorSet::decode(set).ok());
    let mut methods: Vec<String> = files
        .flat_map(|set| set.file)
        .flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let name = format!("{package}.{}", service.name());
                let methods = service.method.into_iter();
                methods.map(move |method| format!("{name}/{}", method.name())).collect::<Vec<_>>()
            })
        })
        .collect();
    methods.push("lintmesh.peer.v1.NodeService/Session".to_owned());
    for version in ["v1", "v1alpha"] {
        methods.push(format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
    }
    methods
}

fn build(page: &mut Page, epoch: u64) {
    page.gauge("lintmesh_build_info", "The version of the program; always 1.")
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.gauge("lintmesh_epoch", "The number of this coordinator start.").count(&[], epoch);
}

/// The thirteen of the operations manual. One that was not measured has no sample.
fn figures(page: &mut Page, figures: &Figures) {
    let mut gauge = |name, help, value| {
        page.gauge(name, help).measured(value);
    };
    gauge("lintmesh_active_nodes", "Nodes that are ACTIVE.", Some(f64::from(figures.active_nodes)));
    gauge("lintmesh_nodes", "Nodes, declared or joined.", Some(f64::from(figures.total_nodes)));
    gauge(
        "lintmesh_connectivity_ratio",
        "Live links / the links that all nodes would have.",
        Some(figures.connectivity_percentage),
    );
    gauge("lintmesh_topology_health_ratio", "ACTIVE nodes / all nodes.", Some(figures.topology_health));
    gauge(
        "lintmesh_message_latency_seconds",
        "Mean time of a message from a node until it was decided on, over 300 s.",
        figures.average_message_latency,
    );
    gauge(
        "lintmesh_message_throughput_per_second",
        "Messages between coordinator and nodes a second, over 300 s.",
        figures.message_throughput,
    );
    gauge(
        "lintmesh_task_completion_ratio",
        "Tasks that ended well / tasks that ended, over 300 s.",
        figures.task_completion_rate,
    );
    gauge(
        "lintmesh_node_failure_ratio",
        "Nodes that were FAILED in the last 300 s / all nodes.",
        figures.node_failure_rate,
    );
    gauge(
        "lintmesh_recovery_success_ratio",
        "Recoveries of nodes that ended well / recoveries that ended, over 300 s.",
        figures.recovery_success_rate,
    );
    gauge(
        "lintmesh_consensus_agreement_ratio",
        "Decisions that were agreed / decisions, over 300 s.",
        figures.consensus_agreement_rate,
    );
    gauge(
        "lintmesh_cpu_usage_ratio",
        "Share of the hosts' CPU that nodes and linters use.",
        figures.total_cpu_usage,
    );
    gauge(
        "lintmesh_memory_usage_ratio",
        "Share of the hosts' memory that nodes and linters hold.",
        figures.total_memory_usage,
    );
    gauge(
        "lintmesh_network_bandwidth_bytes_per_second",
        "Bytes of messages between coordinator and nodes a second, over 300 s.",
        figures.network_bandwidth_usage,
    );
}

fn mesh(page: &mut Page, health: &MeshHealth) {
    let nodes = || health.nodes.values();
    let mut family = page.gauge("lintmesh_nodes_by_status", "Nodes by status.");
    for status in STATUSES {
        let count = nodes().filter(|node| node.status == status).count();
        family.count(&[("status", status.as_str())], count as u64);
    }
    let mut family = page.gauge("lintmesh_breakers", "Circuit breakers of nodes by state.");
    for (state, name) in BREAKER_STATES {
        let count = nodes().filter(|node| node.breaker == state).count();
        family.count(&[("state", name)], count as u64);
    }
    let mut family = page.gauge("lintmesh_node_load_ratio", "Load score of each node.");
    for (id, node) in &health.nodes {
        family.value(&[("node", id.as_str())], node.load.score);
    }
    let links = || nodes().flat_map(|node| &node.links);
    let mut family = page.gauge("lintmesh_links", "Links between nodes by state, as their nodes last told.");
    for state in LINK_STATES {
        let count = links().filter(|link| link.state == state).count();
        family.count(&[("state", state.as_str())], count as u64);
    }
    page.gauge("lintmesh_planned_links", "Links to hold now, between the nodes that are there.")
        .count(&[], health.planned_connections.into());
    page.gauge("lintmesh_topology_info", "The shape that is in force; always 1.")
        .value(&[("type", health.topology.as_str())], 1.0);
    page.gauge("lintmesh_remaining_failures", "Nodes that may still fail.")
        .count(&[], health.tolerance.remaining.into());
    page.gauge("lintmesh_open_runs", "Runs that have work to do.").count(&[], health.open_runs.into());
    page.gauge("lintmesh_tasks", "Tasks of open runs by state.")
        .count(&[("state", "queued")], health.queued_tasks.into())
        .count(&[("state", "running")], health.running_tasks.into());
}

fn totals(page: &mut Page, totals: &Totals) {
    let mut family = page.counter("lintmesh_attempts_total", "Executions of tasks by how they ended.");
    for (outcome, count) in &totals.attempts {
        family.count(&[("outcome", outcome)], *count);
    }
    let mut family = page.counter("lintmesh_runs_total", "Runs by how they ended.");
    for (outcome, count) in &totals.runs {
        family.count(&[("outcome", outcome.as_str())], *count);
    }
    page.counter("lintmesh_tasks_given_up_total", "Tasks that used up their attempts.")
        .count(&[], totals.given_up);
    page.counter("lintmesh_node_starts_total", "Processes of nodes that joined, restarts included.")
        .count(&[], totals.joins);
    let mut family = page.counter("lintmesh_node_transitions_total", "Changes of a node's status, by cause.");
    for ((status, cause), count) in &totals.transitions {
        let cause = cause.map_or("", FaultCause::as_str);
        family.count(&[("status", status.as_str()), ("cause", cause)], *count);
    }
    let ended = |well| totals.recoveries.get(&well).copied().unwrap_or(0);
    page.counter("lintmesh_recoveries_total", "Recoveries of FAILED nodes by how they ended.")
        .count(&[("outcome", "recovered")], ended(true))
        .count(&[("outcome", "failed")], ended(false));
}

fn storage(page: &mut Page, engine: &Handle) {
    let figures = engine.store_figures();
    let buckets = COMMIT_BUCKETS.into_iter().zip(figures.commits_by_duration);
    page.histogram("lintmesh_store_commit_seconds", "Time to make a batch of facts durable, waits included.")
        .observed(&[], buckets, figures.commits, figures.commit_seconds);
    page.counter("lintmesh_store_records_total", "Facts that were stored.").count(&[], figures.records);
    page.counter("lintmesh_store_errors_total", "Calls of the store that failed.").count(&[], figures.errors);
    page.counter("lintmesh_store_snapshots_total", "Snapshots of the state that were taken.")
        .count(&[], figures.snapshots);
    let is_working = engine.storage() == Storage::Works;
    page.gauge("lintmesh_store_working", "1 while facts can be stored, else 0: then no work is given out.")
        .count(&[], is_working.into());
}

fn refusals(page: &mut Page, service: &Service, stale_results: u64) {
    let mut family =
        page.counter("lintmesh_refused_connections_total", "Connections closed before their first request.");
    for (reason, count) in service.counts.refused_connections.counts() {
        family.count(&[("reason", reason)], count);
    }
    let mut family = page.counter("lintmesh_refused_nodes_total", "Nodes that were not let in, by reason.");
    for (reason, count) in service.counts.refused_nodes.counts() {
        family.count(&[("reason", reason)], count);
    }
    let mut reasons: BTreeMap<_, _> = service.counts.refused_messages.counts();
    *reasons.entry("STALE_ATTEMPT").or_default() += stale_results;
    let mut family =
        page.counter("lintmesh_refused_messages_total", "Messages of nodes dropped, by whom and why.");
    for (reason, count) in reasons {
        family.count(&[("by", "coordinator"), ("reason", reason)], count);
    }
    for (reason, count) in service.counts.told_by_nodes.refused() {
        family.count(&[("by", "nodes"), ("reason", reason)], count);
    }
    page.counter(
        "lintmesh_outputs_by_peers_total",
        "Outputs of tasks that came straight from the node that made them.",
    )
    .count(&[], service.counts.told_by_nodes.outputs_by_peers());
    let traffic = service.counts.traffic.total();
    page.counter("lintmesh_messages_total", "Messages between coordinator and nodes, in both directions.")
        .count(&[], traffic.messages);
    page.counter("lintmesh_message_bytes_total", "Bytes of those messages.").count(&[], traffic.bytes);
}

fn alerts(page: &mut Page, service: &Service, health: &MeshHealth) {
    let mut family =
        page.gauge("lintmesh_alert_raised", "1 for an alert that is raised, 0 for one that is not.");
    for rule in Rule::ALL {
        let raised = health.alerts.iter().any(|alert| alert.rule == rule);
        let labels = [("alert", rule.id()), ("severity", rule.severity().as_str())];
        family.count(&labels, raised.into());
    }
    let mut family = page.counter("lintmesh_alert_posts_total", "Posts to Alertmanagers by outcome.");
    for (outcome, count) in service.counts.alert_posts.counts() {
        family.count(&[("outcome", outcome)], count);
    }
}

fn calls(page: &mut Page, calls: &Snapshot) {
    let mut family = page.histogram(
        "rpc_server_call_duration_seconds",
        "Duration of inbound calls, streams to their end, by method and status.",
    );
    for ((method, code), durations) in &calls.ended {
        let labels =
            [("rpc_system_name", "grpc"), ("rpc_method", &**method), ("rpc_response_status_code", *code)];
        let buckets = BUCKETS.into_iter().zip(durations.buckets);
        family.observed(&labels, buckets, durations.count, durations.sum);
    }
    let mut family = page.gauge("lintmesh_open_calls", "Inbound calls that have not ended, by method.");
    for (method, open) in &calls.open {
        family.count(&[("rpc_method", method)], *open);
    }
}
