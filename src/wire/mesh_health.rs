//! The health of the mesh on the wire.

use crate::coordinator::alert::{Alert, AlertSeverity};
use crate::coordinator::health::{FaultTolerance, MeshHealth, NodeHealth};
use crate::coordinator::metrics::Figures;
use crate::proto::v1;
use crate::types::{FaultCause, LinkReport, LinkState};

use super::time;

impl From<LinkState> for v1::LinkState {
    fn from(state: LinkState) -> Self {
        match state {
            LinkState::Connecting => v1::LinkState::Connecting,
            LinkState::Up => v1::LinkState::Up,
            LinkState::Reset => v1::LinkState::Reset,
            LinkState::Silent => v1::LinkState::Silent,
        }
    }
}

impl From<AlertSeverity> for v1::AlertSeverity {
    fn from(severity: AlertSeverity) -> Self {
        match severity {
            AlertSeverity::Warning => v1::AlertSeverity::Warning,
            AlertSeverity::Critical => v1::AlertSeverity::Critical,
        }
    }
}

/// The health of the mesh, told as a revision.
pub fn health(health: &MeshHealth, revision: u64) -> v1::MeshHealth {
    v1::MeshHealth {
        time: Some(time::timestamp(health.at)),
        revision,
        topology_health: health.topology_health,
        system_health: health.topology_health,
        connectivity: health.connectivity,
        connections: health.connections,
        active_nodes: health.active_nodes,
        total_nodes: health.total_nodes,
        node_health: health.nodes.iter().map(|(id, health)| (id.to_string(), node(health))).collect(),
        integration_progress: health
            .node_progress
            .iter()
            // A map's value that is empty is encoded as no value, which protobuf.js cannot read.
            .filter(|(_, tools)| !tools.is_empty())
            .map(|(id, tools)| {
                let tools = tools.iter().map(|(tool, share)| (tool.to_string(), *share)).collect();
                (id.to_string(), v1::ToolProgress { tools })
            })
            .collect(),
        queued_tasks: health.queued_tasks,
        running_tasks: health.running_tasks,
        open_runs: health.open_runs,
        metrics: Some(metrics(&health.figures)),
        alerts: health.alerts.iter().map(alert).collect(),
        fault_tolerance: Some(tolerance(health.tolerance)),
        topology_type: health.topology.as_str().to_owned(),
        planned_connections: health.planned_connections,
    }
}

fn node(node: &NodeHealth) -> v1::NodeHealth {
    v1::NodeHealth {
        status: v1::NodeStatus::from(node.status).into(),
        cause: node.cause.map_or("", FaultCause::as_str).to_owned(),
        load_score: node.load.score,
        task_load: node.load.tasks,
        capability_load: node.load.capabilities,
        resource_load: node.load.resources,
        last_heartbeat_age: node.last_heartbeat_age.map(time::duration),
        connection_count: node.connection_count,
        breaker: v1::BreakerState::from(node.breaker).into(),
        running_tasks: node.running_tasks,
        queued_tasks: node.queued_tasks,
        endpoint: node.peer_endpoint.clone().unwrap_or_default(),
        process_id: node.process_id,
        links: node.links.iter().map(link).collect(),
        clock_offset: node.clock_offset_ms.map(milliseconds),
        cause_detail: node.detail.clone(),
    }
}

fn link(link: &LinkReport) -> v1::LinkHealth {
    v1::LinkHealth {
        peer_id: link.peer.to_string(),
        state: v1::LinkState::from(link.state).into(),
        last_seen_age: link.last_seen_age.map(time::duration),
        round_trip: link.round_trip.map(time::duration),
        clock_offset: link.clock_offset_ms.map(milliseconds),
        sent_bytes: link.sent_bytes,
        received_bytes: link.received_bytes,
    }
}

/// A duration that may be negative: seconds and nanoseconds have one sign.
fn milliseconds(milliseconds: i64) -> prost_types::Duration {
    let nanos = i32::try_from(milliseconds % 1000 * 1_000_000).unwrap_or_default();
    prost_types::Duration { seconds: milliseconds / 1000, nanos }
}

fn metrics(figures: &Figures) -> v1::MeshMetrics {
    v1::MeshMetrics {
        active_nodes: figures.active_nodes,
        total_nodes: figures.total_nodes,
        connectivity_percentage: figures.connectivity_percentage,
        topology_health: figures.topology_health,
        average_message_latency: figures.average_message_latency,
        message_throughput: figures.message_throughput,
        task_completion_rate: figures.task_completion_rate,
        node_failure_rate: figures.node_failure_rate,
        recovery_success_rate: figures.recovery_success_rate,
        consensus_agreement_rate: figures.consensus_agreement_rate,
        total_cpu_usage: figures.total_cpu_usage,
        total_memory_usage: figures.total_memory_usage,
        network_bandwidth_usage: figures.network_bandwidth_usage,
    }
}

fn alert(alert: &Alert) -> v1::Alert {
    v1::Alert {
        id: alert.rule.id().to_owned(),
        severity: v1::AlertSeverity::from(alert.rule.severity()).into(),
        message: alert.message(),
        recommendation: alert.rule.recommendation().to_owned(),
        since: Some(time::timestamp(alert.since)),
        value: alert.value,
        threshold: alert.threshold,
    }
}

const fn tolerance(tolerance: FaultTolerance) -> v1::FaultTolerance {
    v1::FaultTolerance {
        tolerated_nodes: tolerance.tolerated,
        unavailable_nodes: tolerance.unavailable,
        remaining_nodes: tolerance.remaining,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_keeps_its_sign_in_both_parts() {
        assert_eq!(milliseconds(-1_500), prost_types::Duration { seconds: -1, nanos: -500_000_000 });
        assert_eq!(milliseconds(2_000), prost_types::Duration { seconds: 2, nanos: 0 });
    }
}
