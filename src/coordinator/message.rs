//! What the coordinator says to nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::TaskRef;
use crate::types::{AttemptRef, Digest, Incarnation, NodeId};

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
