//! Everything that can happen to the coordinator.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::RunOrder;
use super::metrics::Traffic;
use crate::types::{
    AttemptRef, Digest, Incarnation, LinkReport, LinkState, Load, Measured, NodeId, NodeSpec, Outcome, Plan,
    RunId, SessionId, Stage, Summary, TaskOutput, ToolError, ToolName,
};

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Somebody declares nodes of the mesh.
    Declare(Vec<NodeSpec>),
    /// The nodes that configuration declares, at the coordinator's start. Those of an earlier configuration that it does
    /// not have any more leave the mesh.
    Configure(Vec<NodeSpec>),
    /// A node's Hello arrived.
    Joined {
        /// The new connection.
        session: SessionId,
        /// What it said.
        hello: Box<Hello>,
    },
    /// A connection ended.
    SessionClosed {
        /// Which.
        session: SessionId,
        /// Whose.
        node: NodeId,
        /// How.
        ending: SessionEnding,
    },
    /// A process that the launcher started ended.
    ProcessExited {
        /// Whose.
        node: NodeId,
        /// Which process.
        process_id: u32,
    },
    /// A heartbeat arrived.
    Beat {
        /// By which connection.
        session: SessionId,
        /// From whom.
        node: NodeId,
        /// What the node measured.
        beat: Beat,
    },
    /// A node answered a probe of its session.
    ProbeAnswered {
        /// By which connection.
        session: SessionId,
        /// Who.
        node: NodeId,
        /// The probe's number.
        number: u64,
        /// Between probe and answer.
        round_trip: Duration,
        /// The node's clock less the coordinator's, in milliseconds.
        clock_offset_ms: i64,
    },
    /// A node's view of one of its links changed.
    LinkChanged {
        /// By which connection.
        session: SessionId,
        /// The observer.
        node: NodeId,
        /// The peer.
        subject: NodeId,
        /// What the link is now.
        state: LinkState,
    },
    /// A node looked at another because it was asked to.
    ProbeReported {
        /// By which connection.
        session: SessionId,
        /// The observer.
        node: NodeId,
        /// The node it looked at.
        subject: NodeId,
        /// Which request it answers.
        number: u64,
        /// How long the answer took; none if there was none.
        round_trip: Option<Duration>,
    },
    /// A node was asked to end: it takes no new work.
    NodeDraining {
        /// By which connection.
        session: SessionId,
        /// Which.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// A node cannot take an assignment.
    Rejected {
        /// From whom.
        node: NodeId,
        /// Which.
        attempt: AttemptRef,
        /// Why.
        reason: String,
    },
    /// A node says a task ended.
    TaskEnded {
        /// From whom.
        executor: NodeId,
        /// That node's process start when it did the work.
        incarnation: Incarnation,
        /// Which execution.
        attempt: AttemptRef,
        /// How.
        ending: Ending,
        /// What was measured.
        measured: Measured,
        /// The node that passed the message on, if its executor did not bring it itself.
        via: Option<NodeId>,
    },
    /// What an attempt made has arrived, and waits until there is room to store it; [`Input::TaskEnded`] follows then.
    ResultWaits {
        /// Whose.
        executor: NodeId,
        /// That node's process start when it did the work.
        incarnation: Incarnation,
        /// Which execution.
        attempt: AttemptRef,
    },
    /// A client asks for a run.
    StartRun {
        /// The id to give it; chosen by the shell, which has the randomness.
        run: RunId,
        /// What is asked.
        order: Box<RunOrder>,
    },
    /// Somebody cancels a run.
    CancelRun {
        /// Which.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// An operator says what to do about nodes.
    HandleFault(FaultRequest),
    /// The coordinator's process is about to end its nodes: whoever goes from here on goes in order.
    Stopping,
    /// A node's process could not be started, or has ended.
    RestartFailed {
        /// The node.
        node: NodeId,
        /// Which start, as [`Effect::RestartProcess`](super::decision::Effect::RestartProcess) said; 0 for its first, which nobody asked for.
        start: u64,
        /// In words.
        reason: String,
    },
    /// What the shell counted of the messages between coordinator and nodes since its start.
    Traffic(Traffic),
    /// Time passed: silence and deadlines are looked at, with this input only.
    Timer,
}

/// How a node's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnding {
    /// From the other side: its process or its machine's network said so.
    Reset,
    /// From this side: it did not keep up, or stayed silent for too long. Says nothing about the node's process.
    Given,
}

/// A heartbeat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Beat {
    /// What the node measured of itself.
    pub load: Load,
    /// What it measured of its links.
    pub links: Vec<LinkReport>,
    /// What it runs, and since when each attempt has not moved.
    pub attempts: Vec<(AttemptRef, Duration)>,
    /// Its own timers came late: what it says of the silence of others is not to be trusted.
    pub abstaining: bool,
}

/// What HandleFault asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRequest {
    /// The caller's id for it; empty for none.
    pub fault_id: String,
    /// Digest of the request.
    pub body: Digest,
    /// What to do.
    pub action: FaultAction,
    /// With whom.
    pub target: FaultTarget,
}

/// What an operator may do with nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAction {
    /// Mark FAILED, give its work to others.
    Fail,
    /// Bring back, from whatever it is in.
    Recover,
    /// Give it no more work.
    Drain {
        /// How long what it runs may take to end; none for [`Settings::drain_timeout`](super::settings::Settings).
        bound: Option<Duration>,
    },
    /// Close its circuit breaker.
    ResetBreaker,
    /// Have its links closed and opened.
    RebuildConnections,
    /// Let go of it; only if it is not connected.
    Forget,
}

/// Whom an operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultTarget {
    /// One node.
    Node(NodeId),
    /// Every node.
    All,
}

/// Who a node is and what it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Its declared part.
    pub spec: NodeSpec,
    /// Its process start.
    pub incarnation: Incarnation,
    /// Its machine; nodes of one machine share its cores.
    pub host_id: String,
    /// The cores of its machine that linters may use.
    pub cpu_slots: u32,
    /// Equal ids mean equal tools.
    pub toolchain_id: String,
    /// Its tools and their versions.
    pub tools: BTreeMap<ToolName, String>,
    /// Interpreter, operating system, architecture.
    pub environment_class: String,
    /// What may fail at once with it.
    pub failure_domain: String,
    /// Where other nodes reach it; none if it takes no links.
    pub peer_endpoint: Option<String>,
    /// It was asked to end and takes no new work.
    pub draining: bool,
    /// What confines its linters.
    pub sandbox: String,
    /// Its process on its machine.
    pub process_id: u32,
    /// Attempts it runs.
    pub running: Vec<AttemptRef>,
    /// Attempts whose results it holds and will send again.
    pub unacknowledged: Vec<AttemptRef>,
}

/// How a task ended, as its executor says.
#[derive(Debug, Clone)]
pub enum Ending {
    /// It made an output, which is in the blob store.
    Made {
        /// The output.
        output: TaskOutput,
        /// What the shell read in it.
        facts: Facts,
    },
    /// It failed: the node's doing, not the tool's.
    Failed(String),
}

/// What the core must know of an output.
#[derive(Debug, Clone)]
pub enum Facts {
    /// Of PLAN.
    Plan(Plan),
    /// Of LINT.
    Lint {
        /// The tool's failure.
        error: Option<ToolError>,
    },
    /// Of CLASSIFY: nothing.
    Classify,
    /// Of AGGREGATE.
    Aggregate {
        /// How the run ends.
        outcome: Outcome,
        /// The counts.
        summary: Summary,
        /// The tools that failed.
        tool_errors: BTreeMap<ToolName, String>,
    },
}

impl Facts {
    /// The stage whose output they are read from.
    pub const fn stage(&self) -> Stage {
        match self {
            Facts::Plan(_) => Stage::Plan,
            Facts::Lint { .. } => Stage::Lint,
            Facts::Classify => Stage::Classify,
            Facts::Aggregate { .. } => Stage::Aggregate,
        }
    }
}
