//! The admin listener: health for probes and metrics, in plaintext and without credentials, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::service::Service;
use super::{exposition, health, metrics};

/// How long a scrape may wait for the coordinator; Prometheus' own default is longer.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// Its routes: `grpc.health.v1`, `/livez`, `/readyz`, `/metrics`.
pub fn routes<H: Health>(health: HealthServer<H>, service: Arc<Service>) -> Routes {
    let asked = Arc::clone(&service);
    let router = Routes::new(health)
        .into_axum_router()
        .route("/livez", get(|| async { (StatusCode::OK, "live\n") }))
        .route("/readyz", get(move || ready(Arc::clone(&asked))))
        .route("/metrics", get(move || scrape(Arc::clone(&service))))
        // gRPC's own answer to an unknown path is HTTP 200, which a probe with a misspelt path would take for health.
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "not found; there are /livez, /readyz and /metrics\n")
        });
    Routes::from(router)
}

async fn scrape(service: Arc<Service>) -> Response {
    match tokio::time::timeout(SCRAPE_TIMEOUT, metrics::page(&service)).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the coordinator does not answer\n").into_response(),
    }
}

async fn ready(service: Arc<Service>) -> (StatusCode, String) {
    // As grpc.health.v1 has it: whatever the nodes that are still there could do, nothing new is taken.
    if service.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: the server stops\n".to_owned());
    }
    let look = |core: &crate::coordinator::Coordinator, _| {
        let all = core.state().members.len();
        (health::can_work(core), core.state().active().count(), all)
    };
    match service.engine.observe(look).await {
        Ok((true, active, all)) => (StatusCode::OK, format!("ready: {active} of {all} nodes are ACTIVE\n")),
        Ok((false, active, all)) => {
            let text = format!("not ready: {active} of {all} nodes are ACTIVE\n");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Err(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {stopped}\n")),
    }
}
