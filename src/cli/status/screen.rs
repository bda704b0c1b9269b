//! The mesh on one screen.

use std::collections::BTreeMap;

use super::facts::{self, BrokenLink};
use crate::cli::{output, time};
use crate::linters::report::visible;
use crate::proto::v1::{FaultTolerance, GetMeshStatusResponse, MeshHealth, MeshMetrics};

/// Broken links that are named; the rest are counted, so that the screen stays one.
const MOST_LINKS: usize = 4;

fn shown(text: &str) -> String {
    visible(text).into_owned()
}

/// What a terminal shows; names from elsewhere cannot move the cursor.
pub(super) fn screen(status: &GetMeshStatusResponse) -> String {
    let mesh = status.metrics.clone().unwrap_or_default();
    let topology = status.topology.clone().unwrap_or_default();
    let missing = match facts::missing_connections(&mesh) {
        0 => String::new(),
        missing => format!(" ({missing} missing)"),
    };
    let degraded = if facts::is_degraded(&mesh) { " (DEGRADED)" } else { "" };
    let mut text = format!(
        "mesh    {} of {} nodes active, {} links{missing}, connectivity {:.2}, system health {:.2}{degraded}\n\
         faults  {}\n\
         work    {} open runs, {} tasks running, {} queued\n\
         shape   {}, {}, {}\n\
         time    {}\n\
         figures {}\n\
         {}\n",
        mesh.active_nodes,
        mesh.total_nodes,
        mesh.connections,
        mesh.connectivity,
        mesh.system_health,
        mesh.fault_tolerance.as_ref().map_or_else(|| "not told".to_owned(), tolerance),
        mesh.open_runs,
        mesh.running_tasks,
        mesh.queued_tasks,
        shown(&topology.r#type),
        shown(&topology.fault_tolerance),
        shown(&topology.communication_protocol),
        time::utc(status.timestamp.as_ref()),
        mesh.metrics.as_ref().map(figures).unwrap_or_default(),
        alerts(&mesh),
    );
    let header = ["NODE", "STATUS", "TYPE", "LOAD", "TASKS", "BREAKER", "LAST HEARTBEAT", "CAUSE"];
    let mut rows = vec![header.map(String::from).to_vec()];
    let mut details = String::new();
    for (id, node) in &status.node_statuses {
        let health = mesh.node_health.get(id).cloned().unwrap_or_default();
        let most = node.specialist.as_ref().map_or(0, |spec| spec.max_concurrent_tasks);
        rows.push(vec![
            shown(id),
            facts::node_status(node).to_owned(),
            shown(node.specialist.as_ref().map_or("", |spec| &spec.agent_type)),
            format!("{:.2}", health.load_score),
            format!("{}/{most}", health.running_tasks),
            facts::breaker(node).to_owned(),
            time::utc(node.last_heartbeat_time.as_ref()),
            shown(&node.cause),
        ]);
        if !node.cause_detail.is_empty() {
            details.push_str(&format!("detail    {}: {}\n", shown(id), one_line(&node.cause_detail)));
        }
    }
    text.push_str(&output::table(&rows));
    text.push('\n');
    text.push_str(&details);
    let broken = facts::broken_links(&mesh);
    if !broken.is_empty() {
        text.push_str(&format!("broken    {}\n", links(&broken)));
    }
    // The same on all nodes of one machine, so it is not worth a column.
    let mut sandboxes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, node) in status.node_statuses.iter().filter(|(_, node)| !node.sandbox.is_empty()) {
        sandboxes.entry(&node.sandbox).or_default().push(id);
    }
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

/// Words from elsewhere, which may have lines of their own.
fn one_line(text: &str) -> String {
    shown(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn tolerance(told: &FaultTolerance) -> String {
    let FaultTolerance { tolerated_nodes, unavailable_nodes, remaining_nodes } = told;
    format!(
        "{remaining_nodes} more nodes may fail ({tolerated_nodes} tolerated, {unavailable_nodes} unavailable)"
    )
}

/// One line for each alert, at most five.
fn alerts(mesh: &MeshHealth) -> String {
    if mesh.alerts.is_empty() {
        return "alerts  none\n".to_owned();
    }
    let line = |alert: &crate::proto::v1::Alert| {
        let severity = facts::severity(alert.severity());
        let (id, message) = (shown(&alert.id), one_line(&alert.message));
        format!("alerts  {severity} {id}: {message}; {}\n", one_line(&alert.recommendation))
    };
    mesh.alerts.iter().map(line).collect()
}

/// Those of the thirteen figures that no other line has; what was not measured is left out.
fn figures(metrics: &MeshMetrics) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let parts = [
        ("latency", metrics.average_message_latency.map(|seconds| format!("{:.1} ms", seconds * 1000.0))),
        ("messages", metrics.message_throughput.map(|rate| format!("{rate:.1}/s"))),
        ("bytes", metrics.network_bandwidth_usage.map(|rate| format!("{rate:.0}/s"))),
        ("cpu", metrics.total_cpu_usage.map(percent)),
        ("memory", metrics.total_memory_usage.map(percent)),
        ("tasks completed", metrics.task_completion_rate.map(percent)),
        ("nodes failed", metrics.node_failure_rate.map(percent)),
        ("recovered", metrics.recovery_success_rate.map(percent)),
        ("agreed", metrics.consensus_agreement_rate.map(percent)),
    ];
    let measured = parts.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    measured.collect::<Vec<_>>().join(", ")
}

fn links(broken: &[BrokenLink<'_>]) -> String {
    let named = broken.iter().take(MOST_LINKS);
    let named: Vec<String> =
        named.map(|link| format!("{} to {} ({})", shown(link.from), shown(link.to), link.state)).collect();
    let more = match broken.len().saturating_sub(MOST_LINKS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Alert, AlertSeverity, LinkHealth, LinkState, NodeHealth, NodeInfo, NodeStatus};

    /// A mesh in which one node could not be started again.
    fn status() -> GetMeshStatusResponse {
        let node = NodeInfo {
            status: NodeStatus::Failed.into(),
            cause: "RESTART_FAILED".into(),
            cause_detail: "kubectl:\nno such program\u{1b}[2J".into(),
            ..NodeInfo::default()
        };
        let link = |peer: u32| LinkHealth {
            peer_id: format!("n{peer}"),
            state: LinkState::Reset.into(),
            ..LinkHealth::default()
        };
        let healthy =
            |links| NodeHealth { status: NodeStatus::Active.into(), links, ..NodeHealth::default() };
        let mut node_health: BTreeMap<String, NodeHealth> =
            (1..=6).map(|peer| (format!("n{peer}"), healthy(Vec::new()))).collect();
        node_health.insert("api-docs".to_owned(), healthy((1..=6).map(link).collect()));
        let mesh = MeshHealth {
            active_nodes: 2,
            total_nodes: 4,
            system_health: 0.5,
            connections: 2,
            planned_connections: 8,
            node_health,
            metrics: Some(MeshMetrics {
                average_message_latency: Some(0.0125),
                node_failure_rate: Some(0.5),
                ..MeshMetrics::default()
            }),
            alerts: vec![Alert {
                id: "degraded_health".into(),
                severity: AlertSeverity::Critical.into(),
                message: "2 of 4 nodes".into(),
                recommendation: "bring them back".into(),
                ..Alert::default()
            }],
            fault_tolerance: Some(FaultTolerance {
                tolerated_nodes: 1,
                unavailable_nodes: 2,
                remaining_nodes: 0,
            }),
            ..MeshHealth::default()
        };
        GetMeshStatusResponse {
            metrics: Some(mesh),
            node_statuses: [("backend-dev".to_owned(), node)].into(),
            ..GetMeshStatusResponse::default()
        }
    }

    #[test]
    fn the_screen_says_what_is_wrong_why_and_how_much_more_may_fail() {
        let text = screen(&status());
        for line in [
            "mesh    2 of 4 nodes active, 2 links (6 missing), connectivity 0.00, system health 0.50 (DEGRADED)",
            "faults  0 more nodes may fail (1 tolerated, 2 unavailable)",
            "figures latency 12.5 ms, nodes failed 50 %",
            "alerts  critical degraded_health: 2 of 4 nodes; bring them back",
            "broken    api-docs to n1 (RESET), api-docs to n2 (RESET), api-docs to n3 (RESET), api-docs to n4 (RESET) \
             and 2 more",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
        }
        assert!(text.contains("FAILED") && text.contains("RESTART_FAILED"), "{text}");
        assert!(text.contains("\ndetail    backend-dev: kubectl: no such program"), "{text}");
    }

    #[test]
    fn names_from_elsewhere_cannot_move_the_cursor() {
        let mut hostile = status();
        let node = hostile.node_statuses.remove("backend-dev").expect("there");
        hostile.node_statuses.insert("x\u{1b}[2Jy".into(), node);
        assert!(!screen(&hostile).contains('\u{1b}'));
    }

    #[test]
    fn a_mesh_without_trouble_is_shown_without() {
        let text = screen(&GetMeshStatusResponse {
            metrics: Some(MeshHealth { system_health: 1.0, ..MeshHealth::default() }),
            ..GetMeshStatusResponse::default()
        });
        assert!(text.contains("alerts  none\n") && !text.contains("DEGRADED"), "{text}");
        assert!(!text.contains("missing") && !text.contains("broken") && !text.contains("detail"), "{text}");
    }
}
