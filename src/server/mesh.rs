//! The rpcs about the mesh itself: its nodes, its health, its faults.

use std::time::Duration;

use tokio::time::Instant;

use super::orders::refused;
use super::service::{Service, stopped};
use crate::coordinator::decision::Reply;
use crate::coordinator::health::MeshHealth;
use crate::coordinator::input::Input;
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation};
use crate::types::NodeSpec;
use crate::wire;

/// How long InitializeMesh waits if the client does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);
/// How long it waits at most.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// What is kept of the caller's time for the answer itself.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The least time between two looks while waiting: in a mesh that comes up something changes all the time, and each look
/// measures all of it.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Declares what the client declares, waits for the nodes, and answers what is measured then.
pub async fn initialize(
    service: &Service,
    request: v1::InitializeMeshRequest,
    deadline: Option<Instant>,
) -> Result<v1::InitializeMeshResponse, ApiError> {
    let mut bad = Vec::new();
    let mut specs: Vec<NodeSpec> = Vec::new();
    for (index, declared) in request.specialists.into_iter().enumerate() {
        if specs.iter().any(|spec| spec.node_id.as_str() == declared.node_id) {
            let text = format!("`{}` is declared twice", declared.node_id);
            bad.push(FieldViolation::new(format!("specialists[{index}].node_id"), text));
        }
        match wire::specialist::read(declared, &format!("specialists[{index}]")) {
            Ok(spec) => specs.push(spec),
            Err(problems) => bad.extend(problems),
        }
    }
    let wait = match request.wait.map(wire::time::span) {
        None => DEFAULT_WAIT,
        Some(Some(wait)) if wait <= MAX_WAIT => wait,
        Some(_) => {
            let text = format!("must be 0 to {} s", MAX_WAIT.as_secs());
            bad.push(FieldViolation::new("wait", text));
            Duration::ZERO
        }
    };
    if !bad.is_empty() {
        return Err(ApiError::InvalidArgument(bad));
    }
    if let Reply::Refused(refusal) = service.engine.decide(Input::Declare(specs)).await.map_err(stopped)? {
        return Err(refused(refusal));
    }
    // An answer that is late for its caller is none: some of the time must be left for it.
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let most = left.map_or(wait, |left| left.saturating_sub(ANSWER_TIME.min(left / 5)));
    wait_until(service, wait.min(most), is_ready).await?;
    service
        .engine
        .observe(|core, now| {
            let health = core.mesh_health(now, &Service::tools());
            v1::InitializeMeshResponse {
                ready: is_ready(&health),
                mesh_health: health.topology_health,
                active_nodes: health.active_nodes,
                total_nodes: health.total_nodes,
                connections: health.connections,
                connectivity: health.connectivity,
                integration_progress: progress(&health),
                settings: Some(wire::mesh::settings(core.settings())),
                nodes: wire::mesh::nodes(core, now),
                epoch: core.state().epoch.0,
            }
        })
        .await
        .map_err(stopped)
}

/// Waits until all nodes are ACTIVE, at most so long. Answers whether they are. Work can begin then: links between nodes
/// may take a moment longer.
pub async fn wait_until_active(service: &Service, wait: Duration) -> Result<bool, ApiError> {
    wait_until(service, wait, is_active).await
}

async fn wait_until(
    service: &Service,
    wait: Duration,
    holds: fn(&MeshHealth) -> bool,
) -> Result<bool, ApiError> {
    let deadline = Instant::now() + wait;
    let mut revision = service.engine.revision();
    loop {
        revision.borrow_and_update();
        let measured =
            service.engine.observe(|core, now| core.mesh_health(now, &[])).await.map_err(stopped)?;
        if holds(&measured) {
            return Ok(true);
        }
        match tokio::time::timeout_at(deadline, revision.changed()).await {
            Ok(Ok(())) => tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_PAUSE)).await,
            Ok(Err(_)) | Err(_) => return Ok(false),
        }
    }
}

fn is_active(health: &MeshHealth) -> bool {
    health.total_nodes > 0 && health.active_nodes == health.total_nodes
}

/// All nodes are ACTIVE and hold every link they should.
fn is_ready(health: &MeshHealth) -> bool {
    is_active(health) && health.connections == health.planned_connections
}

fn progress(health: &MeshHealth) -> std::collections::BTreeMap<String, f64> {
    health.integration_progress.iter().map(|(tool, share)| (tool.to_string(), *share)).collect()
}

/// How results travel: from node to node once there is a link.
fn protocol(health: &MeshHealth) -> &'static str {
    if health.connections > 0 { "peer_to_peer" } else { "coordinator_relay" }
}

/// The mesh on one page.
pub async fn status(service: &Service) -> Result<v1::GetMeshStatusResponse, ApiError> {
    // Before the measurement: what changes meanwhile is told again to who resumes from here.
    let revision = service.health.revision();
    service
        .engine
        .observe(move |core, now| {
            let health = core.mesh_health(now, &Service::tools());
            let percent = (core.settings().fault_tolerance_level * 100.0).round();
            v1::GetMeshStatusResponse {
                timestamp: Some(wire::time::timestamp(now.wall)),
                integration_progress: progress(&health),
                metrics: Some(wire::mesh_health::health(&health, revision)),
                node_statuses: wire::mesh::nodes(core, now),
                topology: Some(v1::Topology {
                    r#type: health.topology.as_str().to_owned(),
                    fault_tolerance: format!("byzantine_{percent}_percent"),
                    communication_protocol: protocol(&health).to_owned(),
                }),
            }
        })
        .await
        .map_err(stopped)
}
