//! A run's events as one client gets them: recorded ones exactly once and in order, progress when there is time.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::service::{Service, blob_error, blocking};
use crate::coordinator::event::{RunEvent, TaskRef};
use crate::engine::watch::{LoggedEvent, RunLog};
use crate::proto::v1;
use crate::proto::v1::run_event::Event;
use crate::status::ApiError;
use crate::types::{ClassifiedOutput, Digest, RunId, Stage};
use crate::wire;

/// Events read from the log at a time.
const PAGE: usize = 64;
/// Messages that may wait for a slow client; then the log is simply not read further.
const QUEUE: usize = 16;
/// Bytes of diagnostics in one message, about half of what the protocol promises as the most.
const BATCH_BYTES: usize = 512 * 1024;

/// What a client receives.
pub type Events = tokio_stream::wrappers::ReceiverStream<Result<v1::RunEvent, Status>>;

/// The client went away.
struct Gone;

/// Streams a run from the event after `after` to its last.
pub fn stream(service: Arc<Service>, run: RunId, log: Arc<RunLog>, after: u64) -> Events {
    let (client, events) = mpsc::channel(QUEUE);
    let follower = Follower { service, run, log, client, sequence: after };
    tokio::spawn(follower.follow());
    events.into()
}

struct Follower {
    service: Arc<Service>,
    run: RunId,
    log: Arc<RunLog>,
    client: mpsc::Sender<Result<v1::RunEvent, Status>>,
    sequence: u64,
}

impl Follower {
    async fn follow(mut self) {
        let mut progress = self.log.progress();
        let stopping = self.service.stopping.clone();
        loop {
            let newest = progress.borrow_and_update().clone();
            let page = self.log.after(self.sequence, PAGE);
            let is_all = page.len() < PAGE;
            for logged in page {
                self.sequence = logged.sequence;
                let ends = matches!(logged.event, RunEvent::Finished { .. });
                let told = wire::run::event(&self.run, &logged);
                if self.tell_diagnostics(&logged).await.is_err() || self.tell(told).await.is_err() || ends {
                    return;
                }
            }
            if !is_all {
                continue;
            }
            if self.has_told_all() {
                return;
            }
            // Progress may be missed: it is told only to clients that have read all there is.
            let told = Event::Progress(wire::run::progress(&newest));
            let at = self.service.engine.now().wall;
            let told = wire::run::unnumbered(&self.run, at, told);
            // A full queue means the client is slow: progress is what it loses.
            let _ = self.client.try_send(Ok(told));
            tokio::select! {
                changed = progress.changed() => if changed.is_err() {
                    // The run was forgotten while it was watched.
                    return;
                },
                () = self.client.closed() => return,
                () = stopping.cancelled() => {
                    let goodbye = ApiError::Unavailable {
                        reason: "SERVER_STOPPING",
                        message: format!("the server stops; watch run `{}` again after event {}", self.run, self.sequence),
                        retry: std::time::Duration::from_secs(1),
                    };
                    let _ = self.client.send(Err(goodbye.into())).await;
                    return;
                }
            }
        }
    }

    /// Whether the client has the last event of a run that has ended, perhaps from an earlier stream.
    fn has_told_all(&self) -> bool {
        let newest = self.log.after(self.sequence.saturating_sub(1), 1);
        newest.first().is_some_and(|logged| matches!(logged.event, RunEvent::Finished { .. }))
    }

    async fn tell(&self, event: v1::RunEvent) -> Result<(), Gone> {
        self.client.send(Ok(event)).await.map_err(|_| Gone)
    }

    /// Before the event that accepts a classified shard come its diagnostics.
    async fn tell_diagnostics(&self, logged: &LoggedEvent) -> Result<(), Gone> {
        let RunEvent::TaskAccepted { task, output, .. } = &logged.event else { return Ok(()) };
        if task.stage != Stage::Classify {
            return Ok(());
        }
        let batches = match self.batches(task, output.digest).await {
            Ok(batches) => batches,
            // A run that ended long ago has given up its intermediate blobs; its report has the diagnostics.
            Err(ApiError::NotFound { .. }) => return Ok(()),
            Err(error) => {
                tracing::warn!(run = %self.run, %error, "diagnostics cannot be streamed");
                return Ok(());
            }
        };
        for batch in batches {
            let told = wire::run::unnumbered(&self.run, logged.at, Event::Diagnostics(batch));
            self.tell(told).await?;
        }
        Ok(())
    }

    async fn batches(&self, task: &TaskRef, digest: Digest) -> Result<Vec<v1::DiagnosticBatch>, ApiError> {
        let (blobs, task) = (self.service.blobs.clone(), wire::run::task_ref(task));
        blocking(move || {
            let bytes = blobs.get(&digest).map_err(blob_error)?;
            let classified: ClassifiedOutput = serde_json::from_slice(&bytes).map_err(|error| {
                tracing::warn!(%error, "an output of CLASSIFY is not readable");
                ApiError::Internal { request_id: String::new() }
            })?;
            drop(bytes);
            let (mut batches, mut batch, mut size) = (Vec::new(), Vec::new(), 0);
            for diagnostic in classified.diagnostics {
                let diagnostic = v1::Diagnostic::from(diagnostic);
                size += diagnostic.encoded_len();
                batch.push(diagnostic);
                if size >= BATCH_BYTES {
                    let diagnostics = std::mem::take(&mut batch);
                    batches.push(v1::DiagnosticBatch { task: Some(task.clone()), diagnostics });
                    size = 0;
                }
            }
            if !batch.is_empty() {
                batches.push(v1::DiagnosticBatch { task: Some(task), diagnostics: batch });
            }
            Ok(batches)
        })
        .await?
    }
}
