//! StreamHealth: at once, with each change, and at the interval.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::service::Service;
use crate::proto::v1;
use crate::status::ApiError;
use crate::wire;

/// The shortest interval.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// A first report may be so old: clients that come together share it.
const FIRST_AGE: Duration = Duration::from_millis(20);
/// A report at the interval may be so old, as a share of the interval.
const AGE_SHARE: u32 = 10;
/// And at most so old.
const MOST_AGE: Duration = Duration::from_secs(1);

type Answer = Result<v1::StreamHealthResponse, Status>;

/// Opens a stream of reports.
pub fn open(
    service: Arc<Service>,
    request: v1::StreamHealthRequest,
) -> Result<ReceiverStream<Answer>, ApiError> {
    let interval = match request.interval.map(wire::time::span) {
        None => service.settings.mesh.health_check_interval,
        Some(Some(interval)) if interval >= MIN_INTERVAL => interval,
        Some(_) => {
            let text = format!("must be at least {} ms", MIN_INTERVAL.as_millis());
            return Err(ApiError::invalid("interval", text));
        }
    };
    // Room for one report that waits to be read, and for the word that ends the stream.
    let (client, reports) = mpsc::channel(2);
    let stopping = service.stopping.clone();
    tokio::spawn(async move {
        let watcher = Watcher { service, client: client.clone(), interval, told: request.after_revision };
        tokio::select! {
            ending = watcher.run() => if let Some(ending) = ending {
                // Its place is kept for it; if the client is gone, nobody wants to know.
                let _ = client.try_send(Err(ending.into()));
            },
            () = client.closed() => {}
            () = stopping.cancelled() => {
                let _ = client.try_send(Err(ApiError::Unavailable {
                    reason: "SERVER_STOPPING",
                    message: "the server stops".into(),
                    retry: Duration::from_secs(1),
                }.into()));
            }
        }
    });
    Ok(reports.into())
}

/// One open stream.
struct Watcher {
    service: Arc<Service>,
    client: mpsc::Sender<Answer>,
    interval: Duration,
    /// The revision of the last report.
    told: u64,
}

impl Watcher {
    /// Until the coordinator stops, or the client reads nothing for too long.
    async fn run(mut self) -> Option<ApiError> {
        let service = Arc::clone(&self.service);
        let hub = &service.health;
        let mut changes = hub.changes();
        let first = hub.report(FIRST_AGE).await.ok()?;
        changes.mark_unchanged();
        let mut due = Instant::now() + self.interval;
        let mut at_interval = first.revision != self.told;
        loop {
            if at_interval || changes.borrow().revision > self.told {
                // Waited for before the report is taken: a slow reader gets the newest, not the history.
                if let Err(ending) = self.room().await {
                    return Some(ending);
                }
                let most_age = if at_interval { (self.interval / AGE_SHARE).min(MOST_AGE) } else { MOST_AGE };
                let changed = changes.borrow_and_update().clone();
                let report = match at_interval {
                    true => hub.report(most_age).await.ok()?,
                    false => changed,
                };
                self.told = report.revision;
                if self.client.try_send(Ok(report.response)).is_err() {
                    return None;
                }
                due = Instant::now() + self.interval;
            }
            at_interval = tokio::select! {
                changed = changes.changed() => {
                    changed.ok()?;
                    false
                }
                () = sleep_until(due) => true,
            };
        }
    }

    /// Waits until the report before has been taken.
    async fn room(&self) -> Result<(), ApiError> {
        let patience = self.service.settings.mesh.message_timeout;
        match timeout(patience, self.client.reserve_many(2)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                tracing::info!(after_revision = self.told, "a reader of StreamHealth is too slow; ended");
                Err(self.slow_consumer(patience))
            }
        }
    }

    fn slow_consumer(&self, patience: Duration) -> ApiError {
        ApiError::Aborted {
            reason: "SLOW_CONSUMER",
            message: format!(
                "nothing was read for {} s; resume with after_revision {}",
                patience.as_secs_f64(),
                self.told
            ),
            metadata: vec![("after_revision", self.told.to_string())],
        }
    }
}
