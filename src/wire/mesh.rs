//! Nodes and settings of the mesh on the wire.

use std::collections::BTreeMap;

use crate::coordinator::Coordinator;
use crate::coordinator::breaker::State as BreakerState;
use crate::coordinator::node::Member;
use crate::coordinator::settings::Settings;
use crate::proto::v1;
use crate::types::{FaultCause, NodeId, NodeStatus, Now};

use super::time;

impl From<NodeStatus> for v1::NodeStatus {
    fn from(status: NodeStatus) -> Self {
        match status {
            NodeStatus::Initializing => v1::NodeStatus::Initializing,
            NodeStatus::Active => v1::NodeStatus::Active,
            NodeStatus::Degraded => v1::NodeStatus::Degraded,
            NodeStatus::Failed => v1::NodeStatus::Failed,
        }
    }
}

impl From<BreakerState> for v1::BreakerState {
    fn from(state: BreakerState) -> Self {
        match state {
            BreakerState::Closed => v1::BreakerState::Closed,
            BreakerState::Open => v1::BreakerState::Open,
            BreakerState::HalfOpen => v1::BreakerState::HalfOpen,
        }
    }
}

/// A node as the coordinator knows it.
fn node(core: &Coordinator, id: &NodeId, member: &Member, now: Now) -> v1::NodeInfo {
    let presence = core.presences().get(id);
    let breaker = presence.map_or(BreakerState::Closed, |at| at.breaker.state(now.tick));
    v1::NodeInfo {
        specialist: Some((&member.spec).into()),
        status: v1::NodeStatus::from(member.status).into(),
        cause: cause(member.cause),
        cause_detail: member.detail.clone(),
        last_heartbeat_time: presence.and_then(|at| at.heard_at).map(|(_, wall)| time::timestamp(wall)),
        peers: core.live_links(id).map(ToString::to_string).collect(),
        incarnation: member.incarnation.map_or(0, |incarnation| incarnation.0),
        tools: presence
            .map(|at| at.tools.iter().map(|(tool, version)| (tool.to_string(), version.clone())).collect())
            .unwrap_or_default(),
        sandbox: presence.map(|at| at.sandbox.clone()).unwrap_or_default(),
        breaker: v1::BreakerState::from(breaker).into(),
        process_id: presence.map_or(0, |at| at.process_id),
    }
}

fn cause(cause: Option<FaultCause>) -> String {
    cause.map_or("", FaultCause::as_str).to_owned()
}

/// All nodes, by id.
pub fn nodes(core: &Coordinator, now: Now) -> BTreeMap<String, v1::NodeInfo> {
    core.state().members.iter().map(|(id, member)| (id.to_string(), node(core, id, member, now))).collect()
}

/// The settings in force.
pub fn settings(settings: &Settings) -> v1::MeshSettings {
    v1::MeshSettings {
        heartbeat_interval: Some(time::duration(settings.heartbeat_interval)),
        message_timeout: Some(time::duration(settings.message_timeout)),
        consensus_threshold: settings.consensus_threshold,
        fault_tolerance_level: settings.fault_tolerance_level,
        load_balancing_strategy: settings.load_balancing_strategy.as_str().to_owned(),
        max_retry_attempts: settings.max_retry_attempts,
        circuit_breaker_threshold: settings.circuit_breaker_threshold,
        recovery_timeout: Some(time::duration(settings.recovery_timeout)),
        task_timeout: Some(time::duration(settings.task_timeout)),
        batch_size: settings.batch_size,
        flush_interval: Some(time::duration(settings.flush_interval)),
        health_check_interval: Some(time::duration(settings.health_check_interval)),
        probe_interval: Some(time::duration(settings.probe_interval)),
        progress_timeout: Some(time::duration(settings.progress_timeout)),
    }
}
