//! grpc.health.v1, kept true: readiness follows the nodes, liveness only this process.

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::engine::Handle;
use crate::types::Stage;

/// Health names that say whether work can be done. `""` is the server as a whole.
const READY: [&str; 5] = [
    "",
    "readiness",
    "lintmesh.v1.CoordinatorService",
    "lintmesh.v1.WorkspaceService",
    "lintmesh.peer.v1.NodeService",
];
/// The health name that says whether the process lives.
const LIVE: &str = "liveness";

/// Sets what is true before the first node has joined. Done before any listener answers: the library's own start is
/// SERVING.
pub async fn start(reporter: &HealthReporter) {
    set(reporter, false).await;
    reporter.set_service_status(LIVE, ServingStatus::Serving).await;
}

/// Follows the mesh until the engine stops, or the server: then readiness is NOT_SERVING for good, whatever the nodes
/// that are still there could do.
pub async fn follow(reporter: HealthReporter, engine: Handle, stopping: CancellationToken) {
    let mut revision = engine.revision();
    let followed = async {
        let mut told = false;
        loop {
            revision.borrow_and_update();
            let Ok(ready) = engine.observe(|core, _| can_work(core)).await else { return };
            // The library would send the same status again to everybody who watches.
            if ready != told {
                set(&reporter, ready).await;
                told = ready;
            }
            if revision.changed().await.is_err() {
                return;
            }
        }
    };
    // One task says both, so that no last word about the nodes can come after the final one.
    stopping.run_until_cancelled(followed).await;
    set(&reporter, false).await;
}

/// Ends every open `Watch`, which would hold up the end of its listener. Whoever watched has been told NOT_SERVING.
pub async fn end(mut reporter: HealthReporter) {
    for name in READY.into_iter().chain([LIVE]) {
        reporter.clear_service_status(name).await;
    }
}

/// Whether the ACTIVE nodes cover every stage, and few enough others are missing.
pub fn can_work(core: &crate::coordinator::Coordinator) -> bool {
    let settings = core.settings();
    let active: Vec<_> = core.state().active().map(|(_, member)| &member.spec).collect();
    let covered = Stage::ALL.iter().all(|stage| {
        let need = settings.required.of(*stage);
        active.iter().any(|spec| {
            need.iter()
                .all(|name| spec.capabilities.contains(name) || spec.fallback_capabilities.contains(name))
        })
    });
    covered && 1.0 - core.state().health() <= settings.fault_tolerance_level
}

async fn set(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in READY {
        reporter.set_service_status(name, status).await;
    }
}
