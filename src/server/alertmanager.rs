//! Posts alerts to an Alertmanager (API v2): when they are raised, again while they last, and when they end.
//!
//! A post tells everything that is raised, so nothing is queued but the ends that were not yet told: at most one for
//! each rule. It never waits for anything of the coordinator but a look at the alerts. One post at a time, with a
//! deadline; after a failure the next waits longer, which is what a circuit breaker would do for a single caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::time::{Instant, sleep, sleep_until};

use super::alert_post::{Client, ClientError, PostError};
use super::service::Service;
use crate::config::AlertSettings;
use crate::coordinator::alert::{Alert, Rule};
use crate::types::UnixMillis;
use crate::wire;

/// An alert that is not told again for so many resend intervals has ended, for the Alertmanager.
const KEPT_INTERVALS: u32 = 4;
/// Waits after failures: doubled from the first to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often the coordinator is asked at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// One Alertmanager.
pub struct Alertmanager {
    client: Client,
    resend: Duration,
    labels: BTreeMap<String, String>,
}

impl Alertmanager {
    /// Those that the settings name.
    pub fn all(settings: &AlertSettings) -> Result<Vec<Self>, ClientError> {
        let one = |url: &String| {
            let base: Uri = url.parse().map_err(|_| ClientError::Url(url.clone()))?;
            let client = Client::new(&base, "/api/v2/alerts", settings.alertmanager_ca.as_deref())?;
            Ok(Self { client, resend: settings.resend_interval, labels: settings.labels.clone() })
        };
        settings.alertmanager_url.iter().map(one).collect()
    }
}

/// What an Alertmanager has to be told.
#[derive(Debug, Default)]
struct Outbox {
    raised: BTreeMap<Rule, Alert>,
    /// Ends that were not told yet: the alert, when it ended, and until when that is worth telling.
    ended: BTreeMap<Rule, (Alert, UnixMillis, Instant)>,
}

impl Outbox {
    /// Takes the alerts of the moment. Answers whether one was raised or ended.
    fn take(&mut self, alerts: Vec<Alert>, wall: UnixMillis, until: Instant) -> bool {
        let raised: BTreeMap<Rule, Alert> = alerts.into_iter().map(|alert| (alert.rule, alert)).collect();
        let mut changed = raised.keys().any(|rule| !self.raised.contains_key(rule));
        for (rule, alert) in std::mem::take(&mut self.raised) {
            if !raised.contains_key(&rule) {
                self.ended.insert(rule, (alert, wall, until));
                changed = true;
            }
        }
        self.ended.retain(|rule, _| !raised.contains_key(rule));
        self.raised = raised;
        changed
    }

    /// Forgets ends that the Alertmanager has concluded by itself.
    fn expire(&mut self, now: Instant) {
        self.ended.retain(|_, (_, _, until)| now < *until);
    }

    fn is_empty(&self) -> bool {
        self.raised.is_empty() && self.ended.is_empty()
    }

    /// The body of a post.
    fn body(&self, labels: &BTreeMap<String, String>, wall: UnixMillis, kept: Duration) -> serde_json::Value {
        let until = UnixMillis(wall.0.saturating_add(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)));
        let raised = self.raised.values().map(|alert| entry(alert, until, labels));
        raised.chain(self.ended.values().map(|(alert, ended, _)| entry(alert, *ended, labels))).collect()
    }
}

fn entry(alert: &Alert, ends_at: UnixMillis, more: &BTreeMap<String, String>) -> serde_json::Value {
    let mut labels = more.clone();
    labels.insert("alertname".into(), format!("lintmesh_{}", alert.rule.id()));
    labels.insert("severity".into(), alert.rule.severity().as_str().into());
    serde_json::json!({
        "labels": labels,
        "annotations": { "summary": alert.message(), "description": alert.rule.recommendation() },
        "startsAt": wire::time::timestamp(alert.since).to_string(),
        "endsAt": wire::time::timestamp(ends_at).to_string(),
    })
}

/// Tells an Alertmanager until the coordinator stops.
pub async fn follow(target: Alertmanager, service: Arc<Service>) {
    let mut revision = service.engine.revision();
    let mut outbox = Outbox::default();
    let kept = target.resend * KEPT_INTERVALS;
    let (mut next_post, mut wait) = (Instant::now(), FIRST_WAIT);
    loop {
        revision.borrow_and_update();
        let look = |core: &crate::coordinator::Coordinator, _| core.alerts().collect::<Vec<Alert>>();
        let Ok(alerts) = service.engine.observe(look).await else { return };
        let (now, wall) = (Instant::now(), service.engine.now().wall);
        // While posts fail the next waits, whatever changes.
        if outbox.take(alerts, wall, now + kept) && wait == FIRST_WAIT {
            next_post = now;
        }
        outbox.expire(now);
        if !outbox.is_empty() && now >= next_post {
            let body = outbox.body(&target.labels, wall, kept).to_string();
            match target.client.post(body.into()).await {
                Ok(()) => {
                    service.counts.alert_posts.count("delivered");
                    outbox.ended.clear();
                    wait = FIRST_WAIT;
                    next_post = Instant::now() + target.resend;
                }
                Err(error) => {
                    service.counts.alert_posts.count("failed");
                    report(&target, &error, wait);
                    next_post = Instant::now() + wait.min(target.resend);
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
        sleep(LOOK_INTERVAL).await;
        tokio::select! {
            changed = revision.changed() => if changed.is_err() { return },
            () = sleep_until(next_post), if !outbox.is_empty() => {}
        }
    }
}

fn report(target: &Alertmanager, error: &PostError, wait: Duration) {
    let (url, wait) = (target.client.url(), wait.as_secs());
    tracing::warn!(%url, %error, retry_seconds = wait, "an Alertmanager could not be told of alerts");
}

#[cfg(test)]
mod tests;
