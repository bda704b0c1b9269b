//! Durable facts. State changes by applying these and by nothing else, so replaying them gives the state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::breaker::TripReason;
use crate::types::{
    AttemptId, Digest, FaultCause, Incarnation, Measured, NodeId, NodeSpec, NodeStatus, Outcome, Priority,
    RequestKind, RunId, Stage, Summary, TaskId, TaskOutput, ToolError, ToolName, UnixMillis,
};

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A node belongs to the mesh.
    NodeDeclared(NodeSpec),
    /// The nodes that configuration declares.
    MeshConfigured(BTreeSet<NodeId>),
    /// A node belongs to the mesh no more.
    NodeForgotten(NodeId),
    /// A node's process joined, for the first time in this incarnation.
    NodeJoined {
        /// The node, as it describes itself.
        spec: NodeSpec,
        /// Its process start.
        incarnation: Incarnation,
    },
    /// A node's status changed.
    NodeStatusChanged {
        /// The node.
        node: NodeId,
        /// Its new status.
        status: NodeStatus,
        /// Why it is not ACTIVE.
        cause: Option<FaultCause>,
    },
    /// A step of a node's recovery or of its leaving was taken. The details of those that are taken while a node is not
    /// ACTIVE say why it is not.
    NodeRecovery {
        /// The node.
        node: NodeId,
        /// Which step.
        step: RecoveryStep,
        /// In words.
        detail: String,
    },
    /// An operator drained a node, or took that back.
    NodeDrained {
        /// The node.
        node: NodeId,
        /// Whether it is drained now.
        drained: bool,
    },
    /// A node's circuit breaker opened, was closed, or lets a probe through before its time. That its time is over is no
    /// fact: it follows.
    NodeBreaker {
        /// The node.
        node: NodeId,
        /// When, for display.
        at: UnixMillis,
        /// How it is open; none if it is closed.
        trip: Option<Trip>,
    },
    /// An operator's request was carried out; kept so that repeating it gives the same answer.
    FaultHandled {
        /// The caller's id for it.
        fault_id: String,
        /// Digest of the request.
        body: Digest,
        /// The answer.
        answer: FaultAnswer,
    },
    /// Something happened in a run.
    Run {
        /// The run.
        run: RunId,
        /// Its number in the run, from 1 without gaps.
        sequence: u64,
        /// When, for display.
        at: UnixMillis,
        /// What.
        event: RunEvent,
    },
    /// A run that ended long ago was forgotten to make room.
    RunForgotten(RunId),
}

/// How a node's circuit breaker is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// Why it opened.
    pub reason: TripReason,
    /// From when it lets a probe through.
    pub probe_at: UnixMillis,
    /// Probes that failed since it was last closed: each makes it stay open for longer.
    pub failed_probes: u32,
}

/// A step of a node's recovery or of its leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RecoveryStep {
    /// Its process will be started after a pause.
    Waiting,
    /// Its launcher was asked to start its process.
    Restarting,
    /// Its new process joined.
    Restarted,
    /// The links to and from it are up.
    Linked,
    /// What it says it has was compared with what it should have.
    Synced,
    /// Waiting work was given to it.
    Rebalanced,
    /// Nothing will start it: it stays as it is until somebody does something.
    GivenUp,
    /// It gets no new work and finishes what it has.
    Draining,
    /// It has no work any more.
    Drained,
    /// It ended as it was asked to.
    Left,
}

impl RecoveryStep {
    /// The name as it is written in logs: `RESTARTED`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            RecoveryStep::Waiting => "WAITING",
            RecoveryStep::Restarting => "RESTARTING",
            RecoveryStep::Restarted => "RESTARTED",
            RecoveryStep::Linked => "LINKED",
            RecoveryStep::Synced => "SYNCED",
            RecoveryStep::Rebalanced => "REBALANCED",
            RecoveryStep::GivenUp => "GIVEN_UP",
            RecoveryStep::Draining => "DRAINING",
            RecoveryStep::Drained => "DRAINED",
            RecoveryStep::Left => "LEFT",
        }
    }

    /// Whether its detail says why the node is not ACTIVE.
    pub const fn explains(self) -> bool {
        match self {
            RecoveryStep::Waiting
            | RecoveryStep::Restarting
            | RecoveryStep::GivenUp
            | RecoveryStep::Draining
            | RecoveryStep::Drained
            | RecoveryStep::Left => true,
            RecoveryStep::Restarted
            | RecoveryStep::Linked
            | RecoveryStep::Synced
            | RecoveryStep::Rebalanced => false,
        }
    }
}

/// One fact of a run. Each has a number in its run, from 1 without gaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RunEvent {
    /// It was accepted.
    Started {
        /// What was asked.
        order: Box<RunOrder>,
        /// Which node is meant to do what.
        assignments: Assignments,
    },
    /// Tasks were made.
    TasksCreated {
        /// The new tasks.
        tasks: Vec<NewTask>,
        /// Which node is meant to do what, if that should be told again.
        assignments: Option<Assignments>,
    },
    /// A task was given to a node.
    TaskAssigned {
        /// The task.
        task: TaskRef,
        /// The execution.
        attempt: AttemptId,
        /// The node.
        node: NodeId,
        /// The node's process start.
        incarnation: Incarnation,
        /// The node that has it fell silent; this is a second attempt beside the first. The first good result counts.
        #[serde(default)]
        second: bool,
    },
    /// A task ended well.
    TaskAccepted {
        /// The task.
        task: TaskRef,
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
        /// What the node was, with the first task of the run that it did. None in facts of older releases.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
    },
    /// An attempt ended badly; the task waits for another.
    AttemptFailed {
        /// The task.
        task: TaskRef,
        /// The execution.
        attempt: AttemptId,
        /// The node.
        node: NodeId,
        /// Whether it counts against the task's budget.
        counts: bool,
        /// What kind of failure.
        cause: AttemptFault,
        /// In words.
        detail: String,
    },
    /// A task used up its attempts.
    TaskGivenUp {
        /// The task.
        task: TaskRef,
        /// Why.
        reason: String,
    },
    /// A node failed while it had work of this run.
    NodeFault {
        /// The node.
        node: NodeId,
        /// Why.
        cause: FaultCause,
    },
    /// Tasks were taken from a node. They wait for another, or go on in their second attempt.
    Redistributed {
        /// The node that had them.
        from: NodeId,
        /// The tasks.
        tasks: Vec<TaskRef>,
        /// Whether it counts against the tasks' budgets.
        counts: bool,
    },
    /// It ended.
    Finished {
        /// How.
        outcome: Outcome,
        /// The result, unless there is none.
        result: Option<FinishedResult>,
        /// Why there is none.
        detail: String,
    },
}

/// What a client asked for, in digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunOrder {
    /// Who asked.
    pub caller: String,
    /// The caller's id for the request; empty for none.
    pub request_id: String,
    /// Digest of the request's body, to tell a repetition from a mistake.
    pub body: Digest,
    /// Whose it is: projects share the mesh by CPU time. Empty for none, which is a project too.
    pub project: String,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// It takes the place of the caller's open runs of the project with the same key; empty for none.
    #[serde(default)]
    pub supersede_key: String,
    /// The manifest of the tree.
    pub manifest: Digest,
    /// Files to lint.
    pub files: u32,
    /// The spec blob.
    pub spec: Digest,
    /// The tree in place, if nodes may read it there.
    pub tree_root: Option<String>,
    /// The tools, with the pinned version of those that are not missing.
    pub tools: BTreeMap<ToolName, Option<String>>,
    /// How long it may take.
    pub timeout: Duration,
    /// How the tree was given.
    pub source: RequestKind,
}

/// Why an attempt ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptFault {
    /// The node could not do it.
    Failed,
    /// The node had no room for it.
    Rejected,
    /// The node did not know of it.
    Lost,
    /// The node did not report in time.
    Deadline,
    /// It used no CPU time and wrote nothing for too long.
    Hung,
}

impl AttemptFault {
    /// The name as it is written in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            AttemptFault::Failed => "ATTEMPT_FAILED",
            AttemptFault::Rejected => "ATTEMPT_REJECTED",
            AttemptFault::Lost => "ATTEMPT_LOST",
            AttemptFault::Deadline => "ATTEMPT_DEADLINE",
            AttemptFault::Hung => "ATTEMPT_HUNG",
        }
    }
}

/// Node to the names of the tasks meant for it.
pub type Assignments = BTreeMap<NodeId, Vec<String>>;

/// A task of a run, as events and people name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRef {
    /// Its number.
    pub id: TaskId,
    /// Its stage.
    pub stage: Stage,
    /// Its tool, for LINT and CLASSIFY.
    pub tool: Option<ToolName>,
    /// Its shard, from 0.
    pub shard: u32,
    /// How many shards its tool has.
    pub shards: u32,
}

impl std::fmt::Display for TaskRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.stage.as_str().to_ascii_lowercase())?;
        match &self.tool {
            Some(tool) => write!(f, " {tool} {}/{}", self.shard + 1, self.shards),
            None => Ok(()),
        }
    }
}

/// A task when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// Its names.
    pub task: TaskRef,
    /// Estimated effort; only compared.
    pub cost: u64,
}

/// What a node was when it worked on a run: reports tell of it, whatever has become of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its specialisation.
    pub agent_type: String,
    /// Its toolchain; empty if it did not tell this coordinator.
    pub toolchain_id: String,
    /// Interpreter, operating system, architecture; likewise.
    pub environment_class: String,
}

/// A result as a run's last event tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedResult {
    /// Digest and size of the canonical result.
    pub output: TaskOutput,
    /// The counts.
    pub summary: Summary,
    /// The tools that failed.
    pub tool_errors: BTreeMap<ToolName, String>,
}

/// The answer to HandleFault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultAnswer {
    /// The nodes it was about.
    pub nodes: Vec<NodeId>,
    /// The nodes that are ACTIVE.
    pub healthy_nodes: Vec<NodeId>,
    /// The tasks taken from the node, and the node that has each now.
    pub redistributed: Vec<(RunId, TaskRef, Option<NodeId>)>,
    /// ACTIVE / all.
    pub topology_health: f64,
    /// What was done, for people.
    pub steps: Vec<String>,
}
