//! A task of a run, and where it is.

use std::cmp::Reverse;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::coordinator::event::TaskRef;
use crate::types::{
    AttemptId, Incarnation, Measured, NodeId, Stage, TaskId, TaskOutput, ToolError, ToolName,
};

/// What waiting tasks have in common that decides where they can go: the tool matters for LINT only.
pub type Kind = (Stage, Option<ToolName>);

/// A unit of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its names.
    pub task: TaskRef,
    /// The same for people, made once: whoever watches the run is told the names again and again.
    #[serde(skip)]
    pub name: Arc<str>,
    /// Estimated effort; only compared.
    pub cost: u64,
    /// Where it is.
    pub state: TaskState,
    /// Attempts that count against its budget.
    pub crashes: u32,
    /// Attempts that were taken back or failed, for the report.
    pub retries: u32,
}

/// One node's try at a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// Its number.
    pub attempt: AttemptId,
    /// The node.
    pub node: NodeId,
    /// The node's process start.
    pub incarnation: Incarnation,
}

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TaskState {
    /// It waits for a node.
    Queued,
    /// A node has it.
    Running {
        /// The execution.
        attempt: AttemptId,
        /// The node.
        node: NodeId,
        /// The node's process start.
        incarnation: Incarnation,
        /// Another execution, on another node, started because the first one's fell silent.
        second: Option<Execution>,
    },
    /// It ended well.
    Done {
        /// The execution.
        attempt: AttemptId,
        /// The node.
        node: NodeId,
        /// What it made.
        output: TaskOutput,
        /// The tool's failure, for LINT.
        tool_error: Option<ToolError>,
        /// What was measured.
        measured: Measured,
    },
    /// It used up its attempts.
    GivenUp {
        /// Why.
        reason: String,
    },
}

impl Task {
    /// What decides where it can go.
    pub fn kind(&self) -> Kind {
        (self.task.stage, self.task.tool.clone().filter(|_| self.task.stage == Stage::Lint))
    }

    /// Its place among the waiting tasks of its kind.
    pub const fn place(&self) -> (Reverse<u64>, TaskId) {
        (Reverse(self.cost), self.task.id)
    }

    /// Who tries it now: nobody, one node or two.
    pub fn executions(&self) -> Vec<Execution> {
        match &self.state {
            TaskState::Running { attempt, node, incarnation, second } => {
                let first = Execution { attempt: *attempt, node: node.clone(), incarnation: *incarnation };
                std::iter::once(first).chain(second.clone()).collect()
            }
            TaskState::Queued | TaskState::Done { .. } | TaskState::GivenUp { .. } => Vec::new(),
        }
    }

    /// The nodes that try it, or the one that did it.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        let (node, second) = match &self.state {
            TaskState::Running { node, second, .. } => (Some(node), second.as_ref()),
            TaskState::Done { node, .. } => (Some(node), None),
            TaskState::Queued | TaskState::GivenUp { .. } => (None, None),
        };
        node.into_iter().chain(second.map(|second| &second.node))
    }

    /// What it made, if it ended well.
    pub const fn output(&self) -> Option<TaskOutput> {
        match &self.state {
            TaskState::Done { output, .. } => Some(*output),
            _ => None,
        }
    }

    /// Whether it has ended, well or not.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, TaskState::Done { .. } | TaskState::GivenUp { .. })
    }
}
