//! How a result came about. Nothing here is part of what is compared or signed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::linters::toolchain::ToolchainMode;
use crate::types::{AgentType, Digest, Epoch, FaultCause, NodeId, RequestKind, RunId, Stage, ToolName};

/// One tool's part in the execution.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolExecution {
    /// The program that ran; empty if none did.
    pub executable: String,
    /// Elapsed time of its processes, summed over the tasks, in seconds.
    pub seconds: f64,
    /// CPU time of its processes, summed over the tasks, in seconds.
    pub cpu_seconds: f64,
    /// The nodes that ran it, sorted.
    pub nodes: Vec<NodeId>,
}

/// A task that a node finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskExecution {
    /// Its stage.
    pub stage: Stage,
    /// Its tool, in LINT and CLASSIFY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolName>,
    /// Which of the tool's shards, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
}

/// One node's part in the execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeExecution {
    /// Its specialisation.
    pub agent_type: AgentType,
    /// What it finished, in order.
    pub tasks: Vec<TaskExecution>,
}

/// A fault that struck during the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// The node.
    pub node_id: NodeId,
    /// Why it was taken out.
    pub cause: FaultCause,
    /// How many of the run's tasks went to other nodes.
    pub redistributed_tasks: u32,
}

/// How a result came about: where, when, by whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// The run; `none` if there was nothing to lint.
    pub run_id: RunId,
    /// When it was accepted, RFC 3339 in UTC.
    pub started_at: String,
    /// When it ended, RFC 3339 in UTC.
    pub ended_at: String,
    /// Elapsed time in seconds.
    pub seconds: f64,
    /// How the tree was given.
    pub request: RequestKind,
    /// The version of the coordinator.
    pub coordinator_version: String,
    /// The coordinator start that ended the run; 0 without one.
    pub epoch: Epoch,
    /// By tool name.
    pub tools: BTreeMap<ToolName, ToolExecution>,
    /// By node.
    pub nodes: BTreeMap<NodeId, NodeExecution>,
    /// Attempts beyond the first of each task.
    pub retries: u32,
    /// In the order in which they struck.
    pub faults: Vec<FaultRecord>,
    /// Which linters the nodes had; absent if no node told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toolchain_id: Option<Digest>,
    /// Where they came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toolchain_mode: Option<ToolchainMode>,
    /// Interpreter, system, architecture and dependency environment of the nodes.
    pub environment_class: String,
}
