//! `lintmesh status`: the mesh on one screen.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::arguments::parse_duration;
use super::connect::{Connection, ServerArgs};
use super::exit::Exit;
use super::{output, time};
use crate::proto::v1::{BreakerState, GetMeshStatusRequest, GetMeshStatusResponse, NodeInfo, NodeStatus};

/// Between two looks while waiting.
const POLL: Duration = Duration::from_millis(250);

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Wait until the mesh is in this state; exit 1 if it is not within --timeout
    #[arg(long, value_name = "STATE", value_enum)]
    wait: Option<Wait>,
    /// How long to wait
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Wait {
    /// All nodes are ACTIVE
    Ready,
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<Exit> {
    let connection = connect(&args).await?;
    let status = match args.wait {
        None => ask(&connection).await?,
        Some(Wait::Ready) => {
            let until_ready = async {
                loop {
                    let status = ask(&connection).await?;
                    if is_ready(&status) {
                        return anyhow::Ok(status);
                    }
                    sleep(POLL).await;
                }
            };
            match timeout(args.timeout, until_ready).await {
                Ok(status) => status?,
                Err(_) => ask(&connection).await?,
            }
        }
    };
    if args.json {
        output::print_line(&format!("{:#}", as_json(&status)))?;
    } else {
        output::print(screen(&status).as_bytes())?;
    }
    let unmet = args.wait.is_some() && !is_ready(&status);
    Ok(if unmet { Exit::Findings } else { Exit::Success })
}

/// With `--wait` a server that is still starting is waited for too.
async fn connect(args: &StatusArgs) -> anyhow::Result<Connection> {
    let first = args.server.connect().await;
    let Err(mut error) = first else { return first };
    if args.wait.is_none() {
        return Err(error);
    }
    let again = async {
        loop {
            sleep(POLL).await;
            match args.server.connect().await {
                Ok(connection) => return connection,
                Err(later) => error = later,
            }
        }
    };
    match timeout(args.timeout, again).await {
        Ok(connection) => Ok(connection),
        Err(_) => Err(error),
    }
}

async fn ask(connection: &Connection) -> anyhow::Result<GetMeshStatusResponse> {
    let answer = connection.coordinator().get_mesh_status(GetMeshStatusRequest {}).await;
    Ok(answer.context("asking for the status")?.into_inner())
}

fn is_ready(status: &GetMeshStatusResponse) -> bool {
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

fn screen(status: &GetMeshStatusResponse) -> String {
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
        topology.r#type,
        topology.fault_tolerance,
        topology.communication_protocol,
        time::utc(status.timestamp.as_ref()),
    );
    let header = ["NODE", "STATUS", "TYPE", "LOAD", "TASKS", "BREAKER", "LAST HEARTBEAT", "CAUSE"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for (id, node) in &status.node_statuses {
        let health = mesh.node_health.get(id).cloned().unwrap_or_default();
        let most = node.specialist.as_ref().map_or(0, |spec| spec.max_concurrent_tasks);
        rows.push(vec![
            id.clone(),
            node_status(node).to_owned(),
            node.specialist.as_ref().map(|spec| spec.agent_type.clone()).unwrap_or_default(),
            format!("{:.2}", health.load_score),
            format!("{}/{most}", health.running_tasks),
            breaker(node).to_owned(),
            time::utc(node.last_heartbeat_time.as_ref()),
            node.cause.clone(),
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
        text.push_str(&format!("sandbox   {sandbox}{of}\n"));
    }
    if !status.integration_progress.is_empty() {
        let tools: Vec<String> = status
            .integration_progress
            .iter()
            .map(|(tool, progress)| format!("{tool} {:.0} %", progress * 100.0))
            .collect();
        text.push_str(&format!("progress  {}\n", tools.join(", ")));
    }
    text
}

fn as_json(status: &GetMeshStatusResponse) -> Value {
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
        assert!(text.contains("DEGRADED") && text.contains("HEARTBEAT_TIMEOUT"), "{text}");
        let json = as_json(&status(3));
        assert_eq!(json["ready"], false);
        assert_eq!(json["nodes"]["backend-dev"]["cause"], "HEARTBEAT_TIMEOUT");
    }
}
