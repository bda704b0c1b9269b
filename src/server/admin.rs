//! The admin listener: health for probes, in plaintext and without credentials, and nothing else.

use axum::http::StatusCode;
use axum::routing::get;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::health;
use crate::engine::Handle;

/// Its routes: `grpc.health.v1`, `/livez`, `/readyz`.
pub fn routes<H: Health>(service: HealthServer<H>, engine: Handle) -> Routes {
    let router = Routes::new(service)
        .into_axum_router()
        .route("/livez", get(|| async { (StatusCode::OK, "live\n") }))
        .route("/readyz", get(move || ready(engine.clone())))
        // gRPC's own answer to an unknown path is HTTP 200, which a probe with a misspelt path would take for health.
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; there are /livez and /readyz\n") });
    Routes::from(router)
}

async fn ready(engine: Handle) -> (StatusCode, String) {
    let look = |core: &crate::coordinator::Coordinator, _| {
        let all = core.state().members.len();
        (health::can_work(core), core.state().active().count(), all)
    };
    match engine.query(look).await {
        Ok((true, active, all)) => (StatusCode::OK, format!("ready: {active} of {all} nodes are ACTIVE\n")),
        Ok((false, active, all)) => {
            let text = format!("not ready: {active} of {all} nodes are ACTIVE\n");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Err(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {stopped}\n")),
    }
}
