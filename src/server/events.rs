//! A run's events as one client gets them: recorded ones exactly once and in order, progress when there is time.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::service::{Service, blob_error, blocking};
use crate::coordinator::event::{RunEvent, TaskRef};
use crate::engine::watch::{Expired, LoggedEvent, Progress, RunLog};
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
pub type Events = tokio_stream::wrappers::ReceiverStream<Told>;

/// An event, or the word that ends the stream.
type Told = Result<v1::RunEvent, Status>;

/// Why a stream ends before its run.
enum Ending {
    /// The client went away.
    Silent,
    /// There is something to say.
    Because(ApiError),
}

/// Streams a run from the event after `after` to its last.
pub fn stream(service: Arc<Service>, run: RunId, log: Arc<RunLog>, after: u64) -> Events {
    // One place is kept for the word that ends the stream: a client that reads nothing leaves no other.
    let (client, events) = mpsc::channel(QUEUE + 1);
    let Ok(last) = client.clone().try_reserve_owned() else { unreachable!("nothing is queued yet") };
    let stopping = service.stopping.clone();
    let mut follower = Follower { service, run, log, client, stopping, sequence: after };
    tokio::spawn(async move {
        if let Err(Ending::Because(error)) = follower.follow().await {
            last.send(Err(error.into()));
        }
    });
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
    client: mpsc::Sender<Told>,
    stopping: CancellationToken,
    /// The last event that was told.
    sequence: u64,
}

impl Follower {
    async fn follow(&mut self) -> Result<(), Ending> {
        let mut changes = self.log.changes();
        let mut storage = self.service.engine.storage_changes();
        loop {
            changes.mark_unchanged();
            storage.mark_unchanged();
            // Before the events are read: progress is never ahead of what was told.
            let newest = self.progress().await?;
            let page = self
                .log
                .after(self.sequence, PAGE)
                .map_err(|overtaken| Ending::Because(expired(&self.run, self.sequence, overtaken)))?;
            let is_all = page.len() < PAGE;
            for logged in page {
                self.tell_diagnostics(&logged).await?;
                self.tell(wire::run::event(&self.run, &logged)).await?;
                self.sequence = logged.sequence;
                if matches!(logged.event, RunEvent::Finished { .. }) {
                    return Ok(());
                }
            }
            if !is_all {
                continue;
            }
            if self.has_told_all() {
                return Ok(());
            }
            let lacks_progress = newest.is_none();
            // Progress may be missed: it is told only to clients that have read all there is. A coordinator that has
            // stopped makes none; what ends the stream then is the server's stop.
            if let Some(newest) = newest {
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
                () = self.client.closed() => return Err(Ending::Silent),
                () = self.stopping.cancelled() => return Err(self.goodbye()),
                // Perhaps what was missed can be told.
                Ok(()) = storage.changed(), if lacks_progress => {}
            }
        }
    }

    /// How far the run is; none if that cannot be said now: what is stored of it is told all the same.
    async fn progress(&self) -> Result<Option<Arc<Progress>>, Ending> {
        // First, so that no questions pile up that nobody waits for.
        if self.service.stores_facts().is_err() {
            return Ok(None);
        }
        tokio::select! {
            biased;
            progress = self.service.engine.progress(&self.run, &self.log) => Ok(progress.ok()),
            _ = self.service.until_stalled() => Ok(None),
            () = self.client.closed() => Err(Ending::Silent),
            () = self.stopping.cancelled() => Ok(None),
        }
    }

    /// Whether the client has the last event of a run that has ended, perhaps from an earlier stream.
    fn has_told_all(&self) -> bool {
        self.log.has_ended() && self.sequence >= self.log.newest()
    }

    /// What a client is told when the server stops before its run has ended.
    fn goodbye(&self) -> Ending {
        Ending::Because(ApiError::Unavailable {
            reason: "SERVER_STOPPING",
            message: format!(
                "the server stops; watch run `{}` again after event {}",
                self.run, self.sequence
            ),
            retry: std::time::Duration::from_secs(1),
        })
    }

    async fn tell(&self, event: v1::RunEvent) -> Result<(), Ending> {
        tokio::select! {
            // A client that reads is told what there is, also while the server stops.
            biased;
            sent = self.client.send(Ok(event)) => sent.map_err(|_| Ending::Silent),
            () = self.stopping.cancelled() => Err(self.goodbye()),
        }
    }

    /// Before the event that accepts a classified shard come its diagnostics.
    async fn tell_diagnostics(&self, logged: &LoggedEvent) -> Result<(), Ending> {
        let RunEvent::TaskAccepted { task, output, .. } = &logged.event else { return Ok(()) };
        if task.stage != Stage::Classify {
            return Ok(());
        }
        let batches = tokio::select! {
            biased;
            batches = self.batches(task, output.digest) => batches,
            () = self.stopping.cancelled() => return Err(self.goodbye()),
        };
        let batches = match batches {
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
mod tests;
