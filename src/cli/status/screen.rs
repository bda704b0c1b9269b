//! The mesh on one screen, and the same as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::{output, time};
use crate::linters::report::visible;
use crate::proto::v1::{BreakerState, GetMeshStatusResponse, NodeInfo, NodeStatus};

/// Whether all nodes are ACTIVE, and there is one.
pub(super) fn is_ready(status: &GetMeshStatusResponse) -> bool {
    status.metrics.as_ref().is_some_and(|mesh| mesh.total_nodes > 0 && mesh.active_nodes == mesh.total_nodes)
}

fn node_status(node: &NodeInfo) -> &'static str {
    match node.status() {
        NodeStatus::Unspecified => "UNKNOWN",
        NodeStatus::Initializing => "INITIALIZING",
        NodeStatus::Active => "ACTIVE",
        NodeStatus::Degraded => "DEGRADED",
        NodeStatus::Failed => "FAILED",
    }
}

fn breaker(node: &NodeInfo) -> &'static str {
    match node.breaker() {
        BreakerState::Unspecified => "",
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half-open",
    }
}

fn shown(text: &str) -> String {
    visible(text).into_owned()
}

/// What a terminal shows; names from elsewhere cannot move the cursor.
pub(super) fn screen(status: &GetMeshStatusResponse) -> String {
    let mesh = status.metrics.clone().unwrap_or_default();
    let topology = status.topology.clone().unwrap_or_default();
    let mut text = format!(
        "mesh    {} of {} nodes active, {} links, connectivity {:.2}, system health {:.2}\n\
         work    {} open runs, {} tasks running, {} queued\n\
         shape   {}, {}, {}\n\
         time    {}\n\n",
        mesh.active_nodes,
        mesh.total_nodes,
        mesh.connections,
        mesh.connectivity,
        mesh.system_health,
        mesh.open_runs,
        mesh.running_tasks,
        mesh.queued_tasks,
        shown(&topology.r#type),
        shown(&topology.fault_tolerance),
        shown(&topology.communication_protocol),
        time::utc(status.timestamp.as_ref()),
    );
    let header = ["NODE", "STATUS", "TYPE", "LOAD", "TASKS", "BREAKER", "LAST HEARTBEAT", "CAUSE"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for (id, node) in &status.node_statuses {
        let health = mesh.node_health.get(id).cloned().unwrap_or_default();
        let most = node.specialist.as_ref().map_or(0, |spec| spec.max_concurrent_tasks);
        rows.push(vec![
            shown(id),
            node_status(node).to_owned(),
            shown(node.specialist.as_ref().map_or("", |spec| &spec.agent_type)),
            format!("{:.2}", health.load_score),
            format!("{}/{most}", health.running_tasks),
            breaker(node).to_owned(),
            time::utc(node.last_heartbeat_time.as_ref()),
            shown(&node.cause),
        ]);
    }
    text.push_str(&output::table(&rows));
    // The same on all nodes of one machine, so it is not worth a column.
    let mut sandboxes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, node) in status.node_statuses.iter().filter(|(_, node)| !node.sandbox.is_empty()) {
        sandboxes.entry(&node.sandbox).or_default().push(id);
    }
    text.push('\n');
    for (sandbox, nodes) in &sandboxes {
        let of = if sandboxes.len() == 1 { String::new() } else { format!(" ({})", nodes.join(", ")) };
        text.push_str(&format!("sandbox   {}{}\n", shown(sandbox), shown(&of)));
    }
    if !status.integration_progress.is_empty() {
        let tools: Vec<String> = status
            .integration_progress
            .iter()
            .map(|(tool, progress)| format!("{} {:.0} %", shown(tool), progress * 100.0))
            .collect();
        text.push_str(&format!("progress  {}\n", tools.join(", ")));
    }
    text
}

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
                "status": node_status(node),
                "cause": node.cause,
                "capabilities": spec.capabilities,
                "breaker": breaker(node),
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
        "ready": is_ready(status),
        "timestamp": status.timestamp.as_ref().map(time::rfc3339),
        "active_nodes": mesh.active_nodes,
        "total_nodes": mesh.total_nodes,
        "topology_health": mesh.topology_health,
        "system_health": mesh.system_health,
        "connections": mesh.connections,
        "connectivity": mesh.connectivity,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::MeshHealth;

    fn status(active: u32) -> GetMeshStatusResponse {
        let node = NodeInfo {
            status: NodeStatus::Degraded.into(),
            cause: "HEARTBEAT_TIMEOUT".into(),
            ..NodeInfo::default()
        };
        GetMeshStatusResponse {
            metrics: Some(MeshHealth { active_nodes: active, total_nodes: 4, ..MeshHealth::default() }),
            node_statuses: [("backend-dev".to_owned(), node)].into(),
            ..GetMeshStatusResponse::default()
        }
    }

    #[test]
    fn ready_means_every_node_is_active_and_there_is_one() {
        assert!(is_ready(&status(4)));
        assert!(!is_ready(&status(3)));
        assert!(!is_ready(&GetMeshStatusResponse::default()));
    }

    #[test]
    fn the_screen_and_the_json_say_why_a_node_is_not_active() {
        let text = screen(&status(3));
        assert!(text.contains("3 of 4 nodes active"), "{text}");
        let mut hostile = status(3);
        let node = hostile.node_statuses.remove("backend-dev").expect("there");
        hostile.node_statuses.insert("x\u{1b}[2Jy".into(), node);
        assert!(!screen(&hostile).contains('\u{1b}'));
        assert!(text.contains("DEGRADED") && text.contains("HEARTBEAT_TIMEOUT"), "{text}");
        let json = as_json(&status(3));
        assert_eq!(json["ready"], false);
        assert_eq!(json["nodes"]["backend-dev"]["cause"], "HEARTBEAT_TIMEOUT");
    }
}
