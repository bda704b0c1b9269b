//! What happened, for the log.

use crate::coordinator::event::{Event, RunEvent};

/// Tells operators what happened, by names and numbers only.
pub(super) fn log(event: &Event) {
    match event {
        Event::NodeJoined { spec, incarnation } => {
            tracing::info!(node = %spec.node_id, incarnation = incarnation.0, "node joined");
        }
        Event::NodeStatusChanged { node, status, cause } => {
            let cause = cause.map_or("", crate::types::FaultCause::as_str);
            tracing::info!(%node, %status, cause, "node status changed");
        }
        Event::NodeRecovery { node, step, detail } => {
            tracing::info!(%node, step = step.as_str(), detail, "node recovery");
        }
        Event::NodeBreaker { node, trip: Some(trip), .. } => {
            let reason = trip.reason.as_str();
            tracing::warn!(%node, reason, failed_probes = trip.failed_probes, "node breaker opened");
        }
        Event::NodeBreaker { node, trip: None, .. } => tracing::info!(%node, "node breaker closed"),
        Event::Run { run, event, .. } => match event {
            RunEvent::Started { order, .. } => {
                tracing::info!(%run, files = order.files, project = order.project, "run started");
            }
            RunEvent::TaskAssigned { task, attempt, node, second, .. } => {
                tracing::debug!(%run, task = %task, %attempt, %node, second, "task assigned");
            }
            RunEvent::TaskAccepted { task, attempt, node, .. } => {
                tracing::debug!(%run, task = %task, %attempt, %node, "task accepted");
            }
            RunEvent::AttemptFailed { task, attempt, node, cause, detail, .. } => {
                tracing::warn!(%run, task = %task, %attempt, %node, cause = cause.as_str(), detail, "attempt failed");
            }
            RunEvent::TaskGivenUp { task, reason } => {
                tracing::warn!(%run, task = %task, reason, "task given up");
            }
            RunEvent::Redistributed { from, tasks, .. } => {
                tracing::warn!(%run, node = %from, tasks = tasks.len(), "tasks taken from node");
            }
            RunEvent::Finished { outcome, detail, .. } => {
                tracing::info!(%run, %outcome, detail, "run finished");
            }
            RunEvent::TasksCreated { .. } | RunEvent::NodeFault { .. } => {}
        },
        Event::NodeForgotten(node) => {
            tracing::info!(%node, "node belongs to the mesh no more")
        }
        Event::NodeDeclared(_)
        | Event::MeshConfigured(_)
        | Event::NodeDrained { .. }
        | Event::FaultHandled { .. }
        | Event::RunForgotten(_) => {}
    }
}
