//! Everything that can happen to the coordinator, what it may answer, and what it asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{Event, FaultAnswer, RunOrder, TaskRef};
use super::metrics::Traffic;
use crate::types::{
    AttemptRef, Digest, Epoch, Incarnation, LinkReport, LinkState, Load, Measured, NodeId, NodeSpec, Outcome,
    Plan, RunId, SessionId, Stage, Summary, TaskOutput, Tick, ToolError, ToolName,
};

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Somebody declares nodes of the mesh.
    Declare(Vec<NodeSpec>),
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
        /// Which start, as [`Effect::RestartProcess`] said; 0 for its first, which nobody asked for.
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

/// What follows from an input.
#[derive(Debug)]
pub struct Decision {
    /// The answer to whoever caused the input.
    pub reply: Reply,
    /// The facts, already applied to the state; to be committed before any effect.
    pub events: Vec<Event>,
    /// What the shell must do, in order, after the commit.
    pub effects: Vec<Effect>,
    /// When to send [`Input::Timer`] at the latest; a moment that is past means now.
    pub wake_at: Option<Tick>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// The node is accepted.
    Welcome {
        /// This coordinator start.
        epoch: Epoch,
        /// How often to send heartbeats.
        heartbeat_interval: Duration,
        /// How often to probe each link.
        probe_interval: Duration,
    },
    /// The run, new or the one that the same request started before.
    Run(RunId),
    /// What HandleFault did.
    Fault(Box<FaultAnswer>),
    /// No.
    Refused(Refusal),
}

/// Why an input was refused. Each says whether to fix the request or to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fix: an older process of the node may not take the place of a newer one.
    #[error("node `{node}` has joined with incarnation {current}; {offered} is older")]
    StaleIncarnation {
        /// The node.
        node: NodeId,
        /// The one that is known.
        current: Incarnation,
        /// The one that was refused.
        offered: Incarnation,
    },
    /// Try again: another process of the node is connected and answers.
    #[error("node `{0}` is connected and answers; end its other process or give this one another node id")]
    NodeIdTaken(NodeId),
    /// Fix: the node is declared otherwise and has joined.
    #[error(
        "node `{0}` has joined with another declaration; leave it out, repeat the same or restart its process"
    )]
    DeclaredOtherwise(NodeId),
    /// Fix: there is no such node.
    #[error("node `{0}` does not belong to the mesh")]
    UnknownNode(NodeId),
    /// Fix: there is no such run.
    #[error("run `{0}` is not known")]
    UnknownRun(RunId),
    /// Fix: the id was used for another request.
    #[error("id `{0}` was used before for another request; use a new one")]
    IdReused(String),
    /// Fix: the mesh has as many nodes as its settings allow.
    #[error("the mesh has {0} nodes at most, see mesh.max_nodes")]
    TooManyNodes(usize),
    /// Try again: too many runs are open.
    #[error("{0} runs are open, as many as the server allows")]
    TooManyRuns(usize),
    /// Try again: too many runs of the project are open.
    #[error("{limit} runs of project `{project}` are open, as many as the server allows one project")]
    TooManyRunsOfProject {
        /// The project.
        project: String,
        /// How many it may have open.
        limit: usize,
    },
}

/// Something the shell must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message to a node, if this connection still stands.
    Send {
        /// To whom.
        node: NodeId,
        /// By which connection.
        session: SessionId,
        /// What.
        message: Message,
    },
    /// End a connection that a newer one replaced, or whose process is gone.
    CloseSession(SessionId),
    /// Start the process of a node again, in place of one that may be left.
    RestartProcess {
        /// Which.
        node: NodeId,
        /// Counts the starts, from 1.
        start: u64,
        /// Why it is FAILED; empty if an operator wants it started.
        cause: String,
    },
}

/// A message to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Do this.
    Assign(Box<Assign>),
    /// Stop this.
    Revoke {
        /// What.
        attempt: AttemptRef,
        /// Why.
        reason: String,
    },
    /// The result arrived; forget it.
    Acknowledge(AttemptRef),
    /// Are you there?
    Probe {
        /// Counts the probes of the connection.
        number: u64,
    },
    /// Look at this node and tell.
    ProbeRequest {
        /// Which.
        subject: NodeId,
        /// Counts the requests.
        number: u64,
    },
    /// The links to hold.
    Roster(Box<Roster>),
    /// Pass this on to a node that has no connection of its own.
    Forward {
        /// To whom.
        to: NodeId,
        /// What.
        message: Box<Message>,
    },
    /// End yourself.
    Shutdown {
        /// Why.
        reason: String,
    },
}

/// The links a node should hold and take.
#[derive(Debug, Clone, PartialEq)]
pub struct Roster {
    /// Greater in each later roster.
    pub version: u64,
    /// The shape in force.
    pub topology: Topology,
    /// Whom to dial.
    pub dial: Vec<Peer>,
    /// Who may dial.
    pub accept: Vec<(NodeId, Incarnation)>,
    /// Close and open every link anew.
    pub rebuild: bool,
}

/// A node to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeId,
    /// Its process start.
    pub incarnation: Incarnation,
    /// Where it listens.
    pub endpoint: String,
}

/// The shape of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Each node links to each other.
    FullMesh,
    /// Each node links to its successors on ten rings.
    Rings,
}

impl Topology {
    /// The name as it is written everywhere: `full_mesh`, `rings`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Topology::FullMesh => "full_mesh",
            Topology::Rings => "rings",
        }
    }
}

/// Do this.
#[derive(Debug, Clone, PartialEq)]
pub struct Assign {
    /// Which execution.
    pub attempt: AttemptRef,
    /// Of which task.
    pub task: TaskRef,
    /// How long it may take.
    pub timeout: Duration,
    /// The manifest of the tree.
    pub manifest: Digest,
    /// The spec.
    pub spec: Digest,
    /// The plan, after PLAN.
    pub plan: Option<Digest>,
    /// Outputs of earlier tasks that it reads.
    pub outputs: Vec<Digest>,
    /// The nodes that made `outputs`.
    pub makers: BTreeMap<Digest, NodeId>,
    /// Tasks that no node could finish, for AGGREGATE.
    pub failed: Vec<(TaskRef, String)>,
    /// The tree in place.
    pub tree_root: Option<String>,
    /// Cores it may use; 0 for the stages that only compute for a moment.
    pub cpu_slots: u32,
    /// The capabilities it uses.
    pub capabilities: Vec<String>,
}
