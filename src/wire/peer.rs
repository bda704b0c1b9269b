//! What the processes of a mesh say to each other, as plain data: attempts, assignments, results, load.
//!
//! Everything that arrives is checked here once, so that the rest of a process never meets a name or a digest that
//! breaks the rules.

pub mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::proto::peer::v1 as pb;
use crate::proto::v1 as public;
use crate::types::{
    AttemptId, AttemptRef, Digest, Epoch, Incarnation, InvalidName, Load, Measured, NodeId, ParseDigestError,
    RunId, Stage, TaskId, TaskOutput, ToolName,
};
use crate::wire::time;

/// A message of a peer that breaks the protocol. The peer's bug: drop the message, never the process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerMessageError {
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A name is not valid.
    #[error("field `{field}`: {source}")]
    Name {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// A digest is not valid.
    #[error("field `{field}`: {source}")]
    Digest {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        source: ParseDigestError,
    },
    /// A value is outside its range.
    #[error("field `{field}` {problem}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl AttemptRef {
    /// Reads it from the wire.
    pub fn from_proto(message: &pb::AttemptRef) -> Result<Self, PeerMessageError> {
        Ok(Self {
            run: RunId::new(&message.run_id)
                .map_err(|source| PeerMessageError::Name { field: "attempt.run_id", source })?,
            task: TaskId(message.task_id),
            attempt: AttemptId { epoch: Epoch(message.epoch), number: message.number },
        })
    }

    /// Writes it to the wire.
    pub fn to_proto(&self) -> pb::AttemptRef {
        pb::AttemptRef {
            run_id: self.run.to_string(),
            task_id: self.task.0,
            epoch: self.attempt.epoch.0,
            number: self.attempt.number,
        }
    }
}

/// Reads the attempt that a message must name.
pub fn attempt_of(message: Option<&pb::AttemptRef>) -> Result<AttemptRef, PeerMessageError> {
    AttemptRef::from_proto(message.ok_or(PeerMessageError::Missing("attempt"))?)
}

/// A task that no node could finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedTask {
    /// Its tool.
    pub tool: ToolName,
    /// Its shard, from 0.
    pub shard: u32,
    /// Why, for people.
    pub reason: String,
}

/// The blobs a task reads. Which are set depends on its stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageInputs {
    /// The manifest of the tree (PLAN, LINT).
    pub manifest: Option<Digest>,
    /// What the result depends on beside the tree (all stages).
    pub spec: Option<Digest>,
    /// The plan (LINT, AGGREGATE).
    pub plan: Option<Digest>,
    /// Outputs of earlier tasks, in the order of their tasks (CLASSIFY: one, AGGREGATE: all).
    pub outputs: Vec<Digest>,
    /// The nodes that made `outputs`; they are asked first.
    pub makers: BTreeMap<Digest, NodeId>,
    /// The tasks that no node could finish (AGGREGATE).
    pub failed: Vec<UnfinishedTask>,
}

/// What a node is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Which execution of which task.
    pub key: AttemptRef,
    /// Its stage.
    pub stage: Stage,
    /// The tool; always there for LINT and CLASSIFY.
    pub tool: Option<ToolName>,
    /// Which shard of the tool in the plan, from 0.
    pub shard: u32,
    /// How long it may take; greater than zero.
    pub timeout: Duration,
    /// Its inputs.
    pub inputs: StageInputs,
    /// The tree in place, if the node may read it there.
    pub tree_root: Option<PathBuf>,
    /// The cores it may use; at least 1.
    pub cpu_slots: u32,
    /// Capabilities it uses, for the node's measure of its load.
    pub capabilities: BTreeSet<String>,
}

impl Assignment {
    /// Reads it from the wire.
    pub fn from_proto(message: pb::Assign) -> Result<Self, PeerMessageError> {
        let key = attempt_of(message.attempt.as_ref())?;
        let stage = match message.stage() {
            public::Stage::Plan => Stage::Plan,
            public::Stage::Lint => Stage::Lint,
            public::Stage::Classify => Stage::Classify,
            public::Stage::Aggregate => Stage::Aggregate,
            public::Stage::Unspecified => return Err(PeerMessageError::Missing("stage")),
        };
        let tool = match message.tool.as_str() {
            "" if matches!(stage, Stage::Lint | Stage::Classify) => {
                return Err(PeerMessageError::Missing("tool"));
            }
            "" => None,
            name => Some(tool_name("tool", name)?),
        };
        let timeout = duration("timeout", message.timeout.as_ref())?;
        if timeout.is_zero() {
            return Err(PeerMessageError::Value { field: "timeout", problem: "is zero" });
        }
        let tree_root = (!message.tree_root.is_empty()).then(|| PathBuf::from(&message.tree_root));
        if tree_root.as_ref().is_some_and(|root| !root.is_absolute()) {
            return Err(PeerMessageError::Value { field: "tree_root", problem: "is not an absolute path" });
        }
        Ok(Self {
            key,
            stage,
            tool,
            shard: message.shard,
            timeout,
            inputs: inputs_from_proto(message.inputs.unwrap_or_default())?,
            tree_root,
            cpu_slots: message.cpu_slots.max(1),
            capabilities: message.capabilities.into_iter().collect(),
        })
    }

    /// Writes it to the wire. A root that is not UTF-8 cannot be named there: the tree is then made from its blobs.
    pub fn to_proto(&self) -> pb::Assign {
        let stage = match self.stage {
            Stage::Plan => public::Stage::Plan,
            Stage::Lint => public::Stage::Lint,
            Stage::Classify => public::Stage::Classify,
            Stage::Aggregate => public::Stage::Aggregate,
        };
        let text = |digest: &Option<Digest>| digest.as_ref().map(ToString::to_string).unwrap_or_default();
        pb::Assign {
            attempt: Some(self.key.to_proto()),
            stage: stage.into(),
            tool: self.tool.as_ref().map(ToString::to_string).unwrap_or_default(),
            shard: self.shard,
            timeout: Some(time::duration(self.timeout)),
            inputs: Some(pb::TaskInputs {
                manifest: text(&self.inputs.manifest),
                spec: text(&self.inputs.spec),
                plan: text(&self.inputs.plan),
                outputs: self.inputs.outputs.iter().map(ToString::to_string).collect(),
                makers: self.inputs.makers.iter().map(|(of, by)| (of.to_string(), by.to_string())).collect(),
                failed: self
                    .inputs
                    .failed
                    .iter()
                    .map(|task| pb::FailedTask {
                        tool: task.tool.to_string(),
                        shard: task.shard,
                        reason: task.reason.clone(),
                    })
                    .collect(),
            }),
            tree_root: self.tree_root.as_ref().and_then(|root| root.to_str()).unwrap_or_default().to_owned(),
            cpu_slots: self.cpu_slots,
            capabilities: self.capabilities.iter().cloned().collect(),
        }
    }
}

fn inputs_from_proto(message: pb::TaskInputs) -> Result<StageInputs, PeerMessageError> {
    let optional = |field, text: &str| {
        if text.is_empty() { Ok(None) } else { digest(field, text).map(Some) }
    };
    Ok(StageInputs {
        manifest: optional("inputs.manifest", &message.manifest)?,
        spec: optional("inputs.spec", &message.spec)?,
        plan: optional("inputs.plan", &message.plan)?,
        outputs: message
            .outputs
            .iter()
            .map(|text| digest("inputs.outputs", text))
            .collect::<Result<_, _>>()?,
        makers: message
            .makers
            .iter()
            .map(|(made, maker)| Ok((digest("inputs.makers", made)?, node_name("inputs.makers", maker)?)))
            .collect::<Result<_, _>>()?,
        failed: message
            .failed
            .into_iter()
            .map(|task| {
                Ok(UnfinishedTask {
                    tool: tool_name("inputs.failed.tool", &task.tool)?,
                    shard: task.shard,
                    reason: task.reason,
                })
            })
            .collect::<Result<_, _>>()?,
    })
}

/// How a task ended on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It made an output.
    Output {
        /// The blob's address.
        output: TaskOutput,
        /// The blob itself if it is small; else it was uploaded before.
        data: Option<Vec<u8>>,
    },
    /// It failed: the node's doing, not the tool's.
    Failure(String),
}

/// The end of one attempt, as its executor reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptResult {
    /// The execution.
    pub key: AttemptRef,
    /// Who executed it.
    pub executor: NodeId,
    /// The executor's incarnation when it did.
    pub incarnation: Incarnation,
    /// How it ended.
    pub ending: Ending,
    /// What was measured.
    pub measured: Measured,
}

impl AttemptResult {
    /// Reads it from the wire; bytes that are there must match their digest.
    pub fn from_proto(message: pb::TaskResult) -> Result<Self, PeerMessageError> {
        let key = attempt_of(message.attempt.as_ref())?;
        let executor = node_name("executor", &message.executor)?;
        let ending = match message.ending.ok_or(PeerMessageError::Missing("ending"))? {
            pb::task_result::Ending::Failure(reason) => Ending::Failure(reason),
            pb::task_result::Ending::Output(output) => {
                let digest = digest("output.digest", &output.digest)?;
                if let Some(data) = &output.data
                    && (u64::try_from(data.len()) != Ok(output.size) || Digest::of(data) != digest)
                {
                    return Err(PeerMessageError::Value {
                        field: "output.data",
                        problem: "does not match its size and digest",
                    });
                }
                Ending::Output { output: TaskOutput { digest, size: output.size }, data: output.data }
            }
        };
        let measured = message.measured.unwrap_or_default();
        Ok(Self {
            key,
            executor,
            incarnation: Incarnation(message.incarnation),
            ending,
            measured: Measured {
                executable: (!measured.executable.is_empty()).then_some(measured.executable),
                wall: duration("measured.wall", measured.wall.as_ref()).unwrap_or_default(),
                cpu: duration("measured.cpu", measured.cpu.as_ref()).unwrap_or_default(),
            },
        })
    }

    /// Writes it to the wire.
    pub fn to_proto(&self) -> pb::TaskResult {
        let ending = match &self.ending {
            Ending::Failure(reason) => pb::task_result::Ending::Failure(reason.clone()),
            Ending::Output { output, data } => pb::task_result::Ending::Output(pb::StageOutput {
                digest: output.digest.to_string(),
                size: output.size,
                data: data.clone(),
            }),
        };
        pb::TaskResult {
            attempt: Some(self.key.to_proto()),
            executor: self.executor.to_string(),
            incarnation: self.incarnation.0,
            ending: Some(ending),
            measured: Some(pb::Measured {
                executable: self.measured.executable.clone().unwrap_or_default(),
                wall: Some(time::duration(self.measured.wall)),
                cpu: Some(time::duration(self.measured.cpu)),
            }),
        }
    }
}

/// Reads a load from a beat; shares that are no numbers from 0 to 1 are clamped, since a peer may say anything.
pub fn load(beat: &pb::Beat) -> Load {
    let share = |value: f64| if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 };
    Load {
        running_tasks: beat.running_tasks,
        capabilities_in_use: beat.capabilities_in_use,
        cpu: share(beat.cpu),
        memory: share(beat.memory),
    }
}

fn node_name(field: &'static str, text: &str) -> Result<NodeId, PeerMessageError> {
    NodeId::new(text).map_err(|source| PeerMessageError::Name { field, source })
}

fn tool_name(field: &'static str, text: &str) -> Result<ToolName, PeerMessageError> {
    ToolName::new(text).map_err(|source| PeerMessageError::Name { field, source })
}

fn digest(field: &'static str, text: &str) -> Result<Digest, PeerMessageError> {
    text.parse().map_err(|source| PeerMessageError::Digest { field, source })
}

/// Reads a span of time; absent or negative is an error.
pub fn duration(
    field: &'static str,
    message: Option<&prost_types::Duration>,
) -> Result<Duration, PeerMessageError> {
    let message = *message.ok_or(PeerMessageError::Missing(field))?;
    time::span(message).ok_or(PeerMessageError::Value { field, problem: "is negative or malformed" })
}

#[cfg(test)]
mod tests;
