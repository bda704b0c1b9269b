//! Nodes that were welcomed by a later coordinator start than this one.
//!
//! Either that start took over the store, and this one must stop, or the store was begun anew and counts from 1 again.
//! The store knows; a node's word alone stops nobody.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::engine::Handle;
use crate::types::{Epoch, NodeId};

/// The nodes that were warned of; members only, so they are bounded.
#[derive(Debug, Default)]
pub(super) struct LaterEpochs {
    warned: Mutex<BTreeSet<NodeId>>,
}

impl LaterEpochs {
    /// A node that has joined says that a later epoch welcomed it.
    pub(super) async fn told(&self, engine: &Handle, node: &NodeId, last: Epoch, own: Epoch) {
        // A coordinator that is not the owner stops, and closes all sessions.
        if engine.check_ownership().await.is_err() {
            return;
        }
        if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone()) {
            tracing::warn!(
                %node, last_epoch = last.0, epoch = own.0,
                "this node was welcomed by a later coordinator start than this one, which owns its store all the same; \
                 if the store was not begun anew, two coordinators share the node's address"
            );
        }
    }
}
