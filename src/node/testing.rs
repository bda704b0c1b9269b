//! What the tests of this module share.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::backoff::Random;
use super::envelope::Envelope;
use super::held::Held;
use super::inputs::{Inputs, Sources};
use super::link::{links, tcp};
use super::peers::{PeerOptions, Peers};
use super::secret::Secret;
use super::stages::{StageError, StageProduct, StageRunner};
use super::way::Way;
use crate::linters::process::Progress;
use crate::types::{AttemptId, AttemptRef, Epoch, Incarnation, Measured, NodeId, RunId, Stage, TaskId};
use crate::wire::peer::{Assignment, AttemptResult, Ending, StageInputs};

/// For executors whose results come from a former process only.
pub(crate) struct Idle;

impl StageRunner for Idle {
    fn run(
        &self,
        _: Assignment,
        _: CancellationToken,
        _: Arc<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<StageProduct, StageError>> + Send + '_>> {
        Box::pin(std::future::ready(Err(StageError::Cancelled)))
    }
}

fn random() -> Random {
    Arc::new(|| 0.5)
}

/// Links of a node that has none; what they say to the rest of the node is heard by nobody.
pub(in crate::node) fn peers() -> Peers {
    Peers::new(PeerOptions {
        node: node_id(),
        incarnation: Incarnation(1),
        mesh_id: "default".into(),
        tls_ca: None,
        connector: tcp(),
        random: random(),
        envelope: Envelope::new(node_id()),
        held: Held::default(),
        from_peers: mpsc::channel(1).0,
        stop: CancellationToken::new(),
    })
}

/// Blobs of a coordinator that is not there.
pub(in crate::node) fn inputs(peers: &Peers) -> Inputs {
    let links = links("http://127.0.0.1:9", None, &Secret::new("secret"), &tcp(), &random()).expect("valid");
    let (held, way) = (Held::default(), Way::default());
    Inputs::new(Sources { link: links.blobs, held, peers: peers.clone(), way, random: random() })
}

pub(crate) fn key(number: u64) -> AttemptRef {
    AttemptRef {
        run: RunId::new("run").expect("valid"),
        task: TaskId(number),
        attempt: AttemptId { epoch: Epoch(1), number },
    }
}

pub(crate) fn node_id() -> NodeId {
    NodeId::new("backend-dev").expect("valid")
}

pub(crate) fn result(number: u64) -> AttemptResult {
    AttemptResult {
        key: key(number),
        executor: node_id(),
        incarnation: Incarnation(1),
        ending: Ending::Failure("disk full".into()),
        measured: Measured::default(),
    }
}

pub(crate) fn assignment(number: u64) -> Assignment {
    Assignment {
        key: key(number),
        stage: Stage::Plan,
        tool: None,
        shard: 0,
        timeout: Duration::from_secs(10),
        inputs: StageInputs::default(),
        tree_root: None,
        cpu_slots: 1,
        capabilities: ["planning".to_owned()].into(),
    }
}
