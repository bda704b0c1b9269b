//! How far a run is, made from the committed state.

use std::collections::BTreeMap;

use super::watch::{NodePart, Progress};
use crate::coordinator::Coordinator;
use crate::types::{NodeId, NodeStatus, RunId};

/// How far a run is, as its watchers are told. Takes as long as the run has tasks.
pub fn progress(core: &Coordinator, id: &RunId) -> Progress {
    let Some(run) = core.state().runs.get(id) else { return Progress::default() };
    let mut nodes: BTreeMap<&NodeId, (NodePart, u32)> = core
        .state()
        .members
        .iter()
        .map(|(node, member)| {
            let status = match member.status {
                NodeStatus::Active => "idle".to_owned(),
                other => other.as_str().to_ascii_lowercase(),
            };
            let connections = core.live_links(node).cloned().collect();
            (node, (NodePart { status, connections, ..NodePart::default() }, 0))
        })
        .collect();
    for task in &run.tasks {
        for node in task.nodes() {
            let (part, finished) = nodes.entry(node).or_default();
            part.tasks.push(task.name.clone());
            *finished += u32::from(task.output().is_some());
        }
    }
    let nodes = nodes
        .into_iter()
        .map(|(node, (mut part, done))| {
            if !part.tasks.is_empty() {
                part.progress = f64::from(done) / part.tasks.len() as f64;
                if part.status == "idle" {
                    part.status = "assigned".to_owned();
                }
            }
            (node.clone(), part)
        })
        .collect();
    let (waiting, running) = if run.is_open() { run.waiting_and_running() } else { (0, 0) };
    Progress {
        tools: run.tool_progress(),
        nodes,
        waiting_tasks: u32::try_from(waiting).unwrap_or(u32::MAX),
        running_tasks: u32::try_from(running).unwrap_or(u32::MAX),
        runs_ahead: core.queue().position(id),
    }
}
