//! What follows from an input: the answer, the facts, and what the shell must do.

use std::time::Duration;

use super::event::{Event, FaultAnswer};
use super::message::Message;
use crate::types::{Epoch, Incarnation, NodeId, RunId, SessionId, Tick};

/// What follows from an input.
#[derive(Debug)]
pub struct Decision {
    /// The answer to whoever caused the input.
    pub reply: Reply,
    /// The facts, already applied to the state; to be committed before any effect.
    pub events: Vec<Event>,
    /// What the shell must do, in order, after the commit.
    pub effects: Vec<Effect>,
    /// When to send [`Input::Timer`](super::input::Input::Timer) at the latest; a moment that is past means now.
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
    /// Fix: what is connected cannot be forgotten.
    #[error("node `{0}` is connected; end its process first")]
    NodeConnected(NodeId),
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
