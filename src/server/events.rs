//! A run's events as one client gets them: recorded ones exactly once and in order, progress when there is time.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::service::{Service, blob_error, blocking};
use crate::coordinator::event::{RunEvent, TaskRef};
use crate::engine::watch::{Expired, LoggedEvent, RunLog};
use crate::proto::v1;
use crate::proto::v1::run_event::Event;
use crate::status::ApiError;
use crate::types::{ClassifiedOutput, Diagnostic, Digest, RunId, Stage};
use crate::wire;

/// Events read from the log at a time.
const PAGE: usize = 64;
/// Messages that may wait for a slow client; then the log is simply not read further.
const QUEUE: usize = 16;
/// Bytes of diagnostics in one message, about half of what the protocol promises as the most.
const BATCH_BYTES: usize = 512 * 1024;
/// Bytes of a tool's message in a diagnostic that is too large otherwise.
const MESSAGE_BYTES: usize = 64 * 1024;

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

/// What a client is told that asks for events which are not kept any more, and how it goes on.
pub fn expired(run: &RunId, after: u64, gone: Expired) -> ApiError {
    let Expired { oldest, newest } = gone;
    let last_gone = oldest.saturating_sub(1);
    ApiError::OutOfRange {
        reason: "POSITION_EXPIRED",
        message: format!(
            "the events of run `{run}` up to {last_gone} are not kept any more, and after_sequence is {after}; watch it \
             after {last_gone}, or ask for its state with GetRun and for its report with DownloadReport"
        ),
        metadata: vec![
            ("run_id", run.to_string()),
            ("oldest_sequence", oldest.to_string()),
            ("newest_sequence", newest.to_string()),
        ],
    }
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
        let mut changes = self.log.changes();
        let stopping = self.service.stopping.clone();
        loop {
            changes.mark_unchanged();
            // Before the events are read: progress is never ahead of what was told.
            let newest = self.service.engine.progress(&self.run, &self.log).await;
            let page = match self.log.after(self.sequence, PAGE) {
                Ok(page) => page,
                Err(overtaken) => {
                    let _ = self.client.send(Err(expired(&self.run, self.sequence, overtaken).into())).await;
                    return;
                }
            };
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
            // Progress may be missed: it is told only to clients that have read all there is. A coordinator that has
            // stopped makes none; what ends the stream then is the server's stop.
            if let Ok(newest) = newest {
                let told = Event::Progress(wire::run::progress(&newest));
                let at = self.service.engine.now().wall;
                let told = wire::run::unnumbered(&self.run, at, told);
                // A full queue means the client is slow: progress is what it loses.
                let _ = self.client.try_send(Ok(told));
            }
            tokio::select! {
                // Events first: a run that ends because the server stops is told to have ended.
                biased;
                // It goes on even if the run is forgotten: the log is held here, and ends with it.
                _ = changes.changed() => {}
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
        self.log.has_ended() && self.sequence >= self.log.newest()
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
            Ok(split(&task, classified.diagnostics))
        })
        .await?
    }
}

/// In as many messages as keep each below the protocol's limit.
fn split(task: &v1::TaskRef, diagnostics: Vec<Diagnostic>) -> Vec<v1::DiagnosticBatch> {
    let batch = |diagnostics| v1::DiagnosticBatch { task: Some(task.clone()), diagnostics };
    let (mut batches, mut open, mut size) = (Vec::new(), Vec::new(), 0);
    for diagnostic in diagnostics {
        let mut diagnostic = v1::Diagnostic::from(diagnostic);
        if diagnostic.encoded_len() > BATCH_BYTES {
            shorten(&mut diagnostic.message);
            diagnostic.reported_by.iter_mut().for_each(|reported| shorten(&mut reported.message));
        }
        let length = diagnostic.encoded_len();
        if size + length > BATCH_BYTES && !open.is_empty() {
            batches.push(batch(std::mem::take(&mut open)));
            size = 0;
        }
        size += length;
        open.push(diagnostic);
    }
    if !open.is_empty() {
        batches.push(batch(open));
    }
    batches
}

/// Cuts a message that no stream can carry whole; a tool may quote a line as long as a file.
fn shorten(message: &mut String) {
    if message.len() > MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
        message.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Reported, Severity, ToolName, TreePath};

    fn diagnostic(message: &str) -> Diagnostic {
        let tool = ToolName::new("ruff").expect("valid");
        Diagnostic {
            path: TreePath::new("a.py").expect("valid"),
            line: 1,
            column: None,
            end: None,
            tool: tool.clone(),
            code: "F821".into(),
            name: None,
            message: message.into(),
            severity: Severity::High,
            url: None,
            fingerprint: String::new(),
            line_hash: String::new(),
            reported_by: vec![Reported {
                tool,
                line: 1,
                column: None,
                code: "F821".into(),
                message: message.into(),
            }],
        }
    }

    #[test]
    fn no_message_is_over_the_limit_and_none_is_left_out() {
        let task = v1::TaskRef { tool: "ruff".into(), ..v1::TaskRef::default() };
        let sizes = [10, 100_000, 100_000, 100_000, 10, 255_000, 10, 3_000_000, 10];
        let batches = split(&task, sizes.iter().map(|size| diagnostic(&"é".repeat(size / 2))).collect());
        assert!(batches.iter().all(|batch| batch.encoded_len() < 600 << 10 && !batch.diagnostics.is_empty()));
        let told: Vec<_> = batches.iter().flat_map(|batch| &batch.diagnostics).collect();
        assert_eq!(told.len(), sizes.len());
        for (told, size) in told.iter().zip(sizes) {
            assert_eq!(told.message, told.reported_by[0].message);
            assert_eq!(told.message.len() == size, size < 1_000_000, "only what does not fit is cut");
        }
        assert!(told[7].message.len() <= MESSAGE_BYTES + 3 && told[7].message.ends_with('…'));
        assert_eq!(split(&task, Vec::new()), []);
    }
}
