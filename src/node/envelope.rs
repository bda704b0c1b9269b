//! What is around every message of a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::NodeId;

/// Who the coordinator is in messages.
pub(super) const COORDINATOR: &str = "coordinator";

/// What is to be said to the coordinator.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    /// Whom it is from, if this node passes it on; else empty.
    pub(super) origin: String,
    pub(super) payload: Payload,
}

impl From<Payload> for Said {
    fn from(payload: Payload) -> Self {
        Self { origin: String::new(), payload }
    }
}

/// Seals messages; clones count together, so that ids are unique for the incarnation.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    sender: NodeId,
    messages: Arc<AtomicU64>,
}

impl Envelope {
    /// Of a process that has sent nothing yet.
    pub(super) fn new(sender: NodeId) -> Self {
        Self { sender, messages: Arc::default() }
    }

    /// A message for the coordinator.
    pub(super) fn to_coordinator(&self, said: Said) -> pb::MeshMessage {
        self.pass_on(&said.origin, COORDINATOR, said.payload)
    }

    /// A message of this node.
    pub(super) fn seal(&self, receiver: &str, payload: Payload) -> pb::MeshMessage {
        self.pass_on("", receiver, payload)
    }

    /// A message of `origin` that this node passes on; of its own if that is empty.
    pub(super) fn pass_on(&self, origin: &str, receiver: &str, payload: Payload) -> pb::MeshMessage {
        pb::MeshMessage {
            sender_id: self.sender.to_string(),
            receiver_id: receiver.to_owned(),
            message_id: self.messages.fetch_add(1, Ordering::Relaxed) + 1,
            timestamp: Some(SystemTime::now().into()),
            payload: Some(payload),
            origin_id: origin.to_owned(),
        }
    }
}
