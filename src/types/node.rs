//! What a node is, is for, and how it is doing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// A specialisation, for example `backend-dev`.
pub type AgentType = String;

/// A node's declared part in the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name.
    pub node_id: NodeId,
    /// Its specialisation.
    pub agent_type: AgentType,
    /// What it is for.
    pub capabilities: BTreeSet<String>,
    /// What it can also do when it must.
    pub fallback_capabilities: BTreeSet<String>,
    /// The tools and topics it is made for; shown to people, never used to decide.
    pub tools_focus: Vec<String>,
    /// Multiplies its suitability; greater than 0, at most 1.
    pub priority_weight: f64,
    /// How many tasks it runs at a time; at least 1.
    pub max_concurrent_tasks: u32,
}

/// Operational status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NodeStatus {
    /// Declared or starting, or ended in order: not there, which is no fault.
    Initializing,
    /// Fully operational.
    Active,
    /// Silent or draining: gets no new work, keeps what it has for now.
    Degraded,
    /// Out of the mesh: its work has been given to others.
    Failed,
}

impl NodeStatus {
    /// The name as it is written everywhere: `ACTIVE`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            NodeStatus::Initializing => "INITIALIZING",
            NodeStatus::Active => "ACTIVE",
            NodeStatus::Degraded => "DEGRADED",
            NodeStatus::Failed => "FAILED",
        }
    }
}

impl std::fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a node is not ACTIVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FaultCause {
    /// Its session was reset and it did not return.
    SessionLost,
    /// No heartbeat for longer than allowed.
    HeartbeatTimeout,
    /// Its process ended.
    ProcessExited,
    /// An operator said so with HandleFault.
    Operator,
    /// It answers no probes, and no peer has an answer from it either.
    Silent,
    /// It does not answer the coordinator, but a peer.
    Unreachable,
    /// It was asked to take no more work.
    Draining,
    /// It could not be started again.
    RestartFailed,
}

impl FaultCause {
    /// The name as it is written in events: `SESSION_LOST`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            FaultCause::SessionLost => "SESSION_LOST",
            FaultCause::HeartbeatTimeout => "HEARTBEAT_TIMEOUT",
            FaultCause::ProcessExited => "PROCESS_EXITED",
            FaultCause::Operator => "OPERATOR",
            FaultCause::Silent => "SILENT",
            FaultCause::Unreachable => "UNREACHABLE",
            FaultCause::Draining => "DRAINING",
            FaultCause::RestartFailed => "RESTART_FAILED",
        }
    }
}

/// What a node measured of itself, sent with each heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Attempts it is running.
    pub running_tasks: u32,
    /// Distinct capabilities those attempts use.
    pub capabilities_in_use: u32,
    /// Share of its host's CPU used by the node and its children since the last beat, 0 to 1.
    pub cpu: f64,
    /// Share of its host's memory held by the node and its children, 0 to 1.
    pub memory: f64,
}
