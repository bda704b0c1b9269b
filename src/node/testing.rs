//! What the tests of this module share.

use std::time::Duration;

use crate::types::{AttemptId, AttemptRef, Epoch, Incarnation, Measured, NodeId, RunId, Stage, TaskId};
use crate::wire::peer::{Assignment, AttemptResult, Ending, StageInputs};

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
