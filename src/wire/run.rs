//! Runs and their events on the wire.

use crate::coordinator::event::{Assignments, RunEvent, TaskRef};
use crate::coordinator::run::Run;
use crate::engine::watch::{LoggedEvent, Progress};
use crate::proto::v1;
use crate::types::{RunId, UnixMillis};

use super::{lint, time};

/// A task's names.
pub fn task_ref(task: &TaskRef) -> v1::TaskRef {
    v1::TaskRef {
        task_id: task.id.0,
        stage: v1::Stage::from(task.stage).into(),
        tool: task.tool.as_ref().map(ToString::to_string).unwrap_or_default(),
        shard: if task.tool.is_some() { task.shard + 1 } else { 0 },
        shards: task.shards,
    }
}

/// Which node is meant to do what.
fn assignments(assignments: &Assignments) -> v1::Assignments {
    let nodes = assignments
        .iter()
        .map(|(node, tasks)| {
            let part = v1::NodeAssignment {
                assigned_tasks: tasks.clone(),
                status: if tasks.is_empty() { "idle" } else { "assigned" }.to_owned(),
                progress: 0.0,
                connections: Vec::new(),
            };
            (node.to_string(), part)
        })
        .collect();
    v1::Assignments { nodes }
}

/// A recorded event, as watchers get it: the same message whenever it is told, so that a resumed watch is the same story.
pub fn event(run: &RunId, logged: &LoggedEvent) -> v1::RunEvent {
    use v1::run_event::Event;
    let told = match &logged.event {
        RunEvent::Started { order, assignments: meant } => Event::Started(v1::RunStarted {
            files: order.files,
            tools: order.tools.keys().map(ToString::to_string).collect(),
            assignments: Some(assignments(meant)),
        }),
        RunEvent::TasksCreated { assignments: Some(meant), .. } => Event::Assignments(assignments(meant)),
        RunEvent::TasksCreated { tasks, assignments: None } => Event::TasksCreated(v1::TasksCreated {
            tasks: tasks.iter().map(|new| task_ref(&new.task)).collect(),
        }),
        RunEvent::TaskAssigned { task, attempt, node, second, .. } => Event::TaskAssigned(v1::TaskAssigned {
            task: Some(task_ref(task)),
            node_id: node.to_string(),
            attempt: attempt.to_string(),
            second: *second,
        }),
        RunEvent::TaskAccepted { task, attempt, node, output, tool_error, .. } => {
            Event::TaskAccepted(v1::TaskAccepted {
                task: Some(task_ref(task)),
                node_id: node.to_string(),
                attempt: attempt.to_string(),
                output_digest: output.digest.to_string(),
                tool_error: tool_error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            })
        }
        RunEvent::AttemptFailed { task, node, cause, detail, .. } => Event::Fault(v1::Fault {
            node_id: node.to_string(),
            cause: cause.as_str().to_owned(),
            detail: format!("{task}: {detail}"),
        }),
        RunEvent::TaskGivenUp { task, reason } => Event::Fault(v1::Fault {
            node_id: String::new(),
            cause: "TASK_GIVEN_UP".to_owned(),
            detail: format!("{task}: {reason}"),
        }),
        RunEvent::NodeFault { node, cause } => Event::Fault(v1::Fault {
            node_id: node.to_string(),
            cause: cause.as_str().to_owned(),
            detail: format!("{node} failed while it had work of this run"),
        }),
        RunEvent::Redistributed { from, tasks, .. } => Event::Redistribution(v1::Redistribution {
            from_node_id: from.to_string(),
            tasks: tasks.iter().map(task_ref).collect(),
        }),
        RunEvent::Finished { outcome, result, detail } => Event::Finished(v1::RunFinished {
            outcome: v1::Outcome::from(*outcome).into(),
            summary: result.as_ref().map(lint::summary),
            report_digest: result.as_ref().map(|made| made.output.digest.to_string()).unwrap_or_default(),
            detail: detail.clone(),
        }),
    };
    v1::RunEvent {
        run_id: run.to_string(),
        sequence: logged.sequence,
        time: Some(time::timestamp(logged.at)),
        event: Some(told),
    }
}

/// An event that is not recorded.
pub fn unnumbered(run: &RunId, at: UnixMillis, event: v1::run_event::Event) -> v1::RunEvent {
    v1::RunEvent { run_id: run.to_string(), sequence: 0, time: Some(time::timestamp(at)), event: Some(event) }
}

/// How far a run is.
pub fn progress(progress: &Progress) -> v1::RunProgress {
    v1::RunProgress {
        tools: progress
            .tools
            .iter()
            .map(|(tool, counts)| {
                let counts = v1::ToolRunProgress {
                    queued: counts.queued,
                    running: counts.running,
                    done: counts.done,
                    progress: counts.fraction,
                };
                (tool.to_string(), counts)
            })
            // A map's value that is all zeros is encoded as no value, which protobuf.js cannot read.
            .filter(|(_, counts)| *counts != v1::ToolRunProgress::default())
            .collect(),
        nodes: progress
            .nodes
            .iter()
            .map(|(node, part)| {
                let part = v1::NodeAssignment {
                    assigned_tasks: part.tasks.iter().map(ToString::to_string).collect(),
                    status: part.status.clone(),
                    progress: part.progress,
                    connections: part.connections.iter().map(ToString::to_string).collect(),
                };
                (node.to_string(), part)
            })
            .collect(),
        waiting_tasks: progress.waiting_tasks,
        running_tasks: progress.running_tasks,
        runs_ahead: progress.runs_ahead,
    }
}

/// A run as GetRun and ListRuns show it.
pub fn run(id: &RunId, run: &Run, so_far: &Progress) -> v1::Run {
    let ending = run.ending.as_ref();
    let result = ending.and_then(|ending| ending.result.as_ref());
    let state = if run.is_open() { v1::RunState::Open } else { v1::RunState::Finished };
    let outcome = ending.map_or(v1::Outcome::Unspecified, |ending| v1::Outcome::from(ending.outcome));
    v1::Run {
        run_id: id.to_string(),
        project: run.order.project.clone(),
        state: state.into(),
        outcome: outcome.into(),
        start_time: Some(time::timestamp(run.started_at)),
        end_time: run.ended_at.map(time::timestamp),
        last_sequence: run.sequence,
        progress: Some(progress(so_far)),
        summary: result.map(lint::summary),
        report_digest: result.map(|made| made.output.digest.to_string()).unwrap_or_default(),
        priority: run.order.priority.into(),
        supersede_key: run.order.supersede_key.clone(),
        detail: ending.map(|ending| ending.detail.clone()).unwrap_or_default(),
    }
}
