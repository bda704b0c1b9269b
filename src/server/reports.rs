//! The report of a run that has ended: its canonical result from the blob store, its execution from the core.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::service::{Service, blob_error, blocking, stopped};
use crate::coordinator::Coordinator;
use crate::coordinator::event::Origin;
use crate::coordinator::run::{Run, TaskState};
use crate::linters::report::{
    Execution, FaultRecord, Format, NodeExecution, Options, Report, TaskExecution, ToolExecution, write,
};
use crate::linters::toolchain::ToolchainMode;
use crate::proto::v1;
use crate::status::{ApiError, Precondition};
use crate::types::{Digest, Epoch, NodeId, RunId, RunResult, Stage, ToolName, UnixMillis};
use crate::workspace::blobs::BlobError;

/// The bytes of a report in the form asked for.
pub async fn render(
    service: &Arc<Service>,
    run: &RunId,
    format: v1::ReportFormat,
) -> Result<Vec<u8>, ApiError> {
    let (id, asked) = (run.clone(), run.clone());
    let mode = service.toolchain_mode.clone();
    let ended = service
        .engine
        .query(move |core, _| {
            let run = core.state().runs.get(&id)?;
            let ending =
                run.ending.as_ref().map(|ending| ending.result.as_ref().map(|made| made.output.digest));
            Some((ending, execution(core, &id, run, mode)))
        })
        .await
        .map_err(stopped)?;
    let Some((ending, execution)) = ended else {
        return Err(ApiError::NotFound { resource_type: "run", name: asked.to_string() });
    };
    let lacks = move |kind, description: &str| {
        let subject = format!("runs/{asked}");
        ApiError::FailedPrecondition(vec![Precondition { kind, subject, description: description.into() }])
    };
    let digest = match ending {
        None => return Err(lacks("RUN_OPEN", "it has not ended; watch it with WatchRun")),
        Some(None) => return Err(lacks("NO_REPORT", "it ended without a result; GetRun says how")),
        Some(Some(digest)) => digest,
    };
    let blobs = service.blobs.clone();
    blocking(move || {
        let bytes = blobs.get(&digest).map_err(|error| match error {
            BlobError::Missing(_) => lacks("REPORT_LOST", "its result was damaged or deleted; lint again"),
            error => blob_error(error),
        })?;
        let format = match format {
            v1::ReportFormat::Result => return Ok(bytes),
            v1::ReportFormat::Unspecified | v1::ReportFormat::Json => Format::Json,
            v1::ReportFormat::Sarif => Format::Sarif,
            v1::ReportFormat::Text => Format::Concise,
            v1::ReportFormat::Junit => Format::Junit,
        };
        let result: RunResult = serde_json::from_slice(&bytes).map_err(|error| {
            tracing::error!(%error, "a stored result is not readable");
            ApiError::Internal { request_id: String::new() }
        })?;
        drop(bytes);
        let options =
            Options { color: false, width: 120, statistics: false, quiet: false, source: &|_| None };
        let mut rendered = Vec::new();
        write(&Report { result, execution }, format, &options, &mut rendered).map_err(|error| {
            tracing::error!(%error, "a report could not be written");
            ApiError::Internal { request_id: String::new() }
        })?;
        Ok(rendered)
    })
    .await?
}

/// What the run's own record tells, so that it is the same whoever is connected when a report is asked for. `mode` is
/// where the linters of this server's nodes come from today.
fn execution(core: &Coordinator, id: &RunId, run: &Run, mode: Option<ToolchainMode>) -> Execution {
    let mut tools: BTreeMap<ToolName, ToolExecution> = BTreeMap::new();
    let mut nodes: BTreeMap<NodeId, NodeExecution> = BTreeMap::new();
    for task in &run.tasks {
        let TaskState::Done { node, measured, .. } = &task.state else { continue };
        let part = nodes
            .entry(node.clone())
            .or_insert_with(|| NodeExecution { agent_type: agent_type(core, run, node), tasks: Vec::new() });
        part.tasks.push(TaskExecution {
            stage: task.task.stage,
            tool: task.task.tool.clone(),
            shard: task.task.tool.as_ref().map(|_| task.task.shard + 1),
        });
        if task.task.stage == Stage::Lint
            && let Some(tool) = &task.task.tool
        {
            let part = tools.entry(tool.clone()).or_default();
            part.executable = measured.executable.clone().unwrap_or_default();
            part.seconds += measured.wall.as_secs_f64();
            part.cpu_seconds += measured.cpu.as_secs_f64();
            if !part.nodes.contains(node) {
                part.nodes.push(node.clone());
                part.nodes.sort();
            }
        }
    }
    let ended = run.ended_at.unwrap_or(run.started_at);
    // PLAN resolves and pins the versions of the linters, so its node's are those of the run.
    let planner = run.stage(Stage::Plan).find_map(|task| match &task.state {
        TaskState::Done { node, .. } => run.origins.get(node),
        _ => None,
    });
    // Where linters come from is part of what the toolchain's id names, so that of nodes with the same id is the run's.
    let has_same = |planner: &Origin| {
        core.presences().values().any(|presence| presence.toolchain_id == planner.toolchain_id)
    };
    Execution {
        run_id: id.clone(),
        started_at: rfc3339(run.started_at),
        ended_at: rfc3339(ended),
        seconds: (ended.0.saturating_sub(run.started_at.0)) as f64 / 1000.0,
        request: run.order.source,
        coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
        // A report says the same after a restart: it belongs to the coordinator that saw the run's end.
        epoch: run.tasks.iter().filter_map(|task| ended_in(&task.state)).max().unwrap_or(core.state().epoch),
        tools,
        nodes,
        retries: run.tasks.iter().map(|task| task.retries).sum(),
        faults: run
            .faults
            .iter()
            .map(|fault| FaultRecord {
                node_id: fault.node.clone(),
                cause: fault.cause,
                redistributed_tasks: fault.redistributed_tasks,
            })
            .collect(),
        toolchain_id: planner.and_then(|planner| planner.toolchain_id.parse::<Digest>().ok()),
        toolchain_mode: mode.filter(|_| planner.is_some_and(has_same)),
        environment_class: planner.map(|planner| planner.environment_class.clone()).unwrap_or_default(),
    }
}

/// What a node was. Runs of older releases do not tell; then what it is now, and nothing if it is gone.
fn agent_type(core: &Coordinator, run: &Run, node: &NodeId) -> String {
    let was = run.origins.get(node).map(|origin| &origin.agent_type);
    let is = core.state().members.get(node).map(|member| &member.spec.agent_type);
    was.or(is).cloned().unwrap_or_default()
}

/// The coordinator's start in which a task was given out that ended well.
const fn ended_in(state: &TaskState) -> Option<Epoch> {
    match state {
        TaskState::Done { attempt, .. } => Some(attempt.epoch),
        _ => None,
    }
}

/// UTC with milliseconds.
fn rfc3339(at: UnixMillis) -> String {
    let timestamp = crate::wire::time::timestamp(at);
    timestamp.to_string()
}
