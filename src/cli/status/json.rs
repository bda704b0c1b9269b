//! The mesh as JSON: all that the screen shows, and what does not fit on it.

use serde_json::{Value, json};

use super::facts;
use crate::cli::time;
use crate::proto::v1::{Alert, GetMeshStatusResponse, MeshHealth, MeshMetrics};

pub(super) fn as_json(status: &GetMeshStatusResponse) -> Value {
    let mesh = status.metrics.clone().unwrap_or_default();
    let nodes: serde_json::Map<String, Value> = status
        .node_statuses
        .iter()
        .map(|(id, node)| {
            let health = mesh.node_health.get(id).cloned().unwrap_or_default();
            let spec = node.specialist.clone().unwrap_or_default();
            let value = json!({
                "agent_type": spec.agent_type,
                "status": facts::node_status(node),
                "cause": node.cause,
                "cause_detail": node.cause_detail,
                "capabilities": spec.capabilities,
                "breaker": facts::breaker(node),
                "load_score": health.load_score,
                "running_tasks": health.running_tasks,
                "max_concurrent_tasks": spec.max_concurrent_tasks,
                "last_heartbeat": node.last_heartbeat_time.as_ref().map(time::rfc3339),
                "peers": node.peers,
                "incarnation": node.incarnation,
                "tools": node.tools,
                "sandbox": node.sandbox,
                "process_id": node.process_id,
            });
            (id.clone(), value)
        })
        .collect();
    let topology = status.topology.clone().unwrap_or_default();
    json!({
        "ready": facts::is_ready(status),
        "timestamp": status.timestamp.as_ref().map(time::rfc3339),
        "active_nodes": mesh.active_nodes,
        "total_nodes": mesh.total_nodes,
        "topology_health": mesh.topology_health,
        "system_health": mesh.system_health,
        "system_degraded": facts::is_degraded(&mesh),
        "connections": mesh.connections,
        "planned_connections": mesh.planned_connections,
        "connectivity": mesh.connectivity,
        "broken_links": broken_links(&mesh),
        "fault_tolerance": fault_tolerance(&mesh),
        "alerts": mesh.alerts.iter().map(alert).collect::<Vec<_>>(),
        "metrics": mesh.metrics.as_ref().map(metrics),
        "open_runs": mesh.open_runs,
        "running_tasks": mesh.running_tasks,
        "queued_tasks": mesh.queued_tasks,
        "topology": {
            "type": topology.r#type,
            "fault_tolerance": topology.fault_tolerance,
            "communication_protocol": topology.communication_protocol,
        },
        "integration_progress": status.integration_progress,
        "nodes": nodes,
    })
}

fn broken_links(mesh: &MeshHealth) -> Vec<Value> {
    let links = facts::broken_links(mesh);
    links.iter().map(|link| json!({ "from": link.from, "to": link.to, "state": link.state })).collect()
}

fn fault_tolerance(mesh: &MeshHealth) -> Option<Value> {
    mesh.fault_tolerance.as_ref().map(|tolerance| {
        json!({
            "tolerated_nodes": tolerance.tolerated_nodes,
            "unavailable_nodes": tolerance.unavailable_nodes,
            "remaining_nodes": tolerance.remaining_nodes,
        })
    })
}

fn alert(alert: &Alert) -> Value {
    json!({
        "id": alert.id,
        "severity": facts::severity(alert.severity()),
        "message": alert.message,
        "recommendation": alert.recommendation,
        "since": alert.since.as_ref().map(time::rfc3339),
        "value": alert.value,
        "threshold": alert.threshold,
    })
}

/// By the names of the API; null is what cannot be measured.
fn metrics(metrics: &MeshMetrics) -> Value {
    json!({
        "active_nodes": metrics.active_nodes,
        "total_nodes": metrics.total_nodes,
        "connectivity_percentage": metrics.connectivity_percentage,
        "topology_health": metrics.topology_health,
        "average_message_latency": metrics.average_message_latency,
        "message_throughput": metrics.message_throughput,
        "task_completion_rate": metrics.task_completion_rate,
        "node_failure_rate": metrics.node_failure_rate,
        "recovery_success_rate": metrics.recovery_success_rate,
        "consensus_agreement_rate": metrics.consensus_agreement_rate,
        "total_cpu_usage": metrics.total_cpu_usage,
        "total_memory_usage": metrics.total_memory_usage,
        "network_bandwidth_usage": metrics.network_bandwidth_usage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{
        AlertSeverity, FaultTolerance, LinkHealth, LinkState, NodeHealth, NodeInfo, NodeStatus,
    };

    #[test]
    fn it_has_why_a_node_is_not_active_alerts_figures_links_and_what_may_still_fail() {
        let node = NodeInfo {
            cause: "RESTART_FAILED".into(),
            cause_detail: "no such program".into(),
            ..Default::default()
        };
        let link = LinkHealth {
            peer_id: "backend-dev".into(),
            state: LinkState::Reset.into(),
            ..Default::default()
        };
        let mesh = MeshHealth {
            active_nodes: 2,
            total_nodes: 4,
            system_health: 0.5,
            connections: 2,
            planned_connections: 6,
            node_health: [("api-docs", vec![link]), ("backend-dev", Vec::new())]
                .map(|(name, links)| {
                    let status = NodeStatus::Degraded.into();
                    (name.to_owned(), NodeHealth { status, links, ..Default::default() })
                })
                .into(),
            metrics: Some(MeshMetrics { node_failure_rate: Some(0.5), ..Default::default() }),
            alerts: vec![Alert {
                id: "degraded_health".into(),
                severity: AlertSeverity::Critical.into(),
                ..Default::default()
            }],
            fault_tolerance: Some(FaultTolerance {
                tolerated_nodes: 1,
                unavailable_nodes: 2,
                remaining_nodes: 0,
            }),
            ..Default::default()
        };
        let json = as_json(&GetMeshStatusResponse {
            metrics: Some(mesh),
            node_statuses: [("backend-dev".to_owned(), node)].into(),
            ..Default::default()
        });
        assert_eq!(json["ready"], false);
        assert_eq!(json["system_degraded"], true);
        assert_eq!(json["nodes"]["backend-dev"]["cause"], "RESTART_FAILED");
        assert_eq!(json["nodes"]["backend-dev"]["cause_detail"], "no such program");
        assert_eq!(
            (&json["planned_connections"], &json["fault_tolerance"]["remaining_nodes"]),
            (&6.into(), &0.into())
        );
        assert_eq!(
            json["broken_links"],
            json!([{ "from": "api-docs", "to": "backend-dev", "state": "RESET" }])
        );
        assert_eq!(
            (&json["alerts"][0]["id"], &json["alerts"][0]["severity"]),
            (&"degraded_health".into(), &"critical".into())
        );
        assert_eq!(json["metrics"].as_object().map(|metrics| metrics.len()), Some(13));
        assert_eq!(json["metrics"]["node_failure_rate"], 0.5);
        assert_eq!(json["metrics"]["recovery_success_rate"], Value::Null, "not measured is not 0");
    }
}
