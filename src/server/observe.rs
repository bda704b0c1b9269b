//! The tasks that watch the coordinator for operators: health reports, traffic, alerts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{interval, sleep};

use super::alertmanager::{self, Alertmanager};
use super::service::Service;
use crate::coordinator::alert::{Alert, Rule};
use crate::coordinator::input::Input;

/// How often the coordinator is told of the traffic.
const TRAFFIC_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is asked for alerts at most; they are held for seconds.
const ALERT_INTERVAL: Duration = Duration::from_millis(200);

/// Runs all of them until the coordinator or the server stops.
pub async fn follow(service: Arc<Service>, alertmanagers: Vec<Alertmanager>) {
    let posts = alertmanagers.into_iter().map(|target| alertmanager::follow(target, Arc::clone(&service)));
    let posts: Vec<_> = posts.map(tokio::spawn).collect();
    let tasks = async { tokio::join!(service.health.follow(), tell_traffic(&service), log_alerts(&service)) };
    // Each ends by itself when the coordinator does.
    service.stopping.run_until_cancelled(tasks).await;
    for post in posts {
        post.abort();
    }
}

/// Gives the coordinator the sums of what passed, when they have changed.
async fn tell_traffic(service: &Service) {
    let mut ticks = interval(TRAFFIC_INTERVAL);
    let mut told = None;
    loop {
        ticks.tick().await;
        let traffic = service.counts.traffic.total();
        if told == Some(traffic) {
            continue;
        }
        told = Some(traffic);
        if service.engine.decide(Input::Traffic(traffic)).await.is_err() {
            return;
        }
    }
}

/// Writes into the log when an alert is raised and when it ends.
async fn log_alerts(service: &Service) {
    let mut revision = service.engine.revision();
    let mut known: BTreeMap<Rule, Alert> = BTreeMap::new();
    loop {
        revision.borrow_and_update();
        let look = |core: &crate::coordinator::Coordinator, _| core.alerts().collect::<Vec<Alert>>();
        let Ok(alerts) = service.engine.observe(look).await else { return };
        let raised: BTreeMap<Rule, Alert> = alerts.into_iter().map(|alert| (alert.rule, alert)).collect();
        for (rule, alert) in raised.iter().filter(|(rule, _)| !known.contains_key(rule)) {
            let (alert, recommendation) = (alert.message(), rule.recommendation());
            tracing::warn!(
                id = rule.id(),
                severity = rule.severity().as_str(),
                alert,
                recommendation,
                "alert raised"
            );
        }
        for rule in known.keys().filter(|rule| !raised.contains_key(rule)) {
            tracing::info!(id = rule.id(), "alert ended");
        }
        known = raised;
        sleep(ALERT_INTERVAL).await;
        if revision.changed().await.is_err() {
            return;
        }
    }
}
