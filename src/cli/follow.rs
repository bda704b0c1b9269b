//! Follows a run to its end, over broken connections.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::connect::Connection;
use super::interrupt::Interrupt;
use super::reconnect::{self, Outage};
use super::run_view::RunView;
use crate::proto::v1::run_event::Event;
use crate::proto::v1::{
    CancelRunRequest, CoordinateRequest, GetRunRequest, Run, RunEvent, RunFinished, RunState, WatchRunRequest,
};

/// How long a server that was reached may take to say what becomes of a watch.
const OPEN_BOUND: Duration = Duration::from_secs(10);

/// How long a cancelled run may take to say that it has ended.
const CANCEL_BOUND: Duration = Duration::from_secs(5);

/// What the follower tells while it follows.
pub trait Watcher {
    /// An event arrived; `view` includes it.
    fn event(&mut self, event: &RunEvent, view: &RunView);
    /// Something to tell the user beside the events.
    fn notice(&mut self, text: &str);
}

/// Why a run was not followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The server refused, or could not be reached within the budget of retries.
    #[error("{context}")]
    Refused {
        /// What was being done.
        context: String,
        /// The answer.
        source: Box<Status>,
    },
    /// The user asked to end.
    #[error("cancelled")]
    Interrupted,
}

impl FollowError {
    fn refused(context: &str, source: Status) -> Self {
        FollowError::Refused { context: context.to_owned(), source: Box::new(source) }
    }

    /// Whether the server lacks files of the tree, which it may have had before it was restarted.
    pub fn lacks_files(&self) -> bool {
        let FollowError::Refused { source, .. } = self else { return false };
        source.get_details_error_info().is_some_and(|info| info.reason == "BLOB_MISSING")
    }
}

/// A stream of a run's events, whichever call it comes from, each with the start of the coordinator that tells it.
type Events = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<(RunEvent, u64), Status>> + Send>>;

/// What to follow.
#[derive(Debug, Clone)]
pub enum Start {
    /// Starts a run. A lost answer is asked for again with the same request id, which attaches to the same run.
    New(Box<CoordinateRequest>),
    /// Takes up a run after an event.
    Existing(WatchRunRequest),
}

/// How to follow it.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Whether the run is cancelled if the user interrupts.
    pub cancel: bool,
    /// How long to try again when the connection breaks.
    pub patience: Duration,
}

/// Follows a run until it has ended.
pub async fn follow(
    connection: &Connection,
    start: Start,
    manner: Manner,
    interrupt: &Interrupt,
    watcher: &mut impl Watcher,
    view: &mut RunView,
) -> Result<RunFinished, FollowError> {
    if let Start::Existing(watch) = &start {
        view.skip_to(&watch.run_id, watch.after_sequence);
    }
    let outage = Outage::new(Some(manner.patience));
    let mut follower = Follower {
        connection,
        start,
        cancels: manner.cancel,
        watcher,
        view,
        outage,
        epoch: 0,
        has_skipped: false,
    };
    let ended = tokio::select! {
        ended = follower.follow() => Some(ended),
        () = interrupt.requested() => None,
    };
    if let Some(ended) = ended {
        return ended;
    }
    if manner.cancel && !follower.view.run_id.is_empty() {
        follower.cancel_run().await;
    }
    Err(FollowError::Interrupted)
}

struct Follower<'a, W> {
    connection: &'a Connection,
    start: Start,
    /// Whether the run ends with this client.
    cancels: bool,
    watcher: &'a mut W,
    view: &'a mut RunView,
    outage: Outage,
    /// The coordinator's start that spoke last; 0 before the first word.
    epoch: u64,
    /// Whether events were left out that are not kept any more.
    has_skipped: bool,
}

impl<W: Watcher> Follower<'_, W> {
    async fn follow(&mut self) -> Result<RunFinished, FollowError> {
        loop {
            let broken = match self.attempt().await {
                Ok(finished) => return Ok(finished),
                Err(status) => status,
            };
            if self.skips_expired(&broken) {
                continue;
            }
            if !self.may_pass(&broken) {
                return Err(FollowError::refused(self.action(&broken), broken));
            }
            let (trouble, now) = (reconnect::trouble(&broken), Instant::now());
            let Some(retry) = self.outage.broke(now, self.what_broke(), &trouble, reconnect::random()) else {
                self.give_up();
                return Err(FollowError::refused(self.action(&broken), broken));
            };
            if let Some(notice) = retry.notice {
                self.watcher.notice(&notice);
            }
            tokio::time::sleep(retry.pause).await;
            self.view.resumed();
        }
    }

    /// One stream, to its end or to its break.
    async fn attempt(&mut self) -> Result<RunFinished, Status> {
        let mut events = self.open().await?;
        while let Some(told) = events.next().await {
            let (event, epoch) = told?;
            self.is_back(epoch);
            self.view.apply(&event);
            self.watcher.event(&event, self.view);
            if let Some(finished) = &self.view.finished {
                return Ok(finished.clone());
            }
        }
        // A stream ends well if there is nothing more to tell.
        let run = self.run().await?;
        if run.state() != RunState::Finished {
            return Err(Status::unavailable("the stream ended before the run did"));
        }
        self.is_back(self.epoch);
        let finished = RunFinished {
            outcome: run.outcome,
            summary: run.summary,
            report_digest: run.report_digest,
            detail: run.detail,
        };
        if self.has_skipped {
            // Its last event is among those that are not kept any more; but it is known what it said.
            let event = RunEvent {
                run_id: run.run_id,
                sequence: run.last_sequence,
                time: run.end_time,
                event: Some(Event::Finished(finished.clone())),
            };
            self.view.apply(&event);
            self.watcher.event(&event, self.view);
        }
        self.view.finished = Some(finished.clone());
        Ok(finished)
    }

    async fn open(&self) -> Result<Events, Status> {
        let mut client = self.connection.coordinator();
        if let (Start::New(request), true) = (&self.start, self.view.run_id.is_empty()) {
            let stream = client.coordinate(request.as_ref().clone()).await?.into_inner();
            return Ok(Box::pin(
                stream.filter_map(|told| flatten(told.map(|told| (told.event, told.epoch)))),
            ));
        }
        let watch =
            WatchRunRequest { run_id: self.view.run_id.clone(), after_sequence: self.view.last_sequence };
        let stream = bounded(client.watch_run(watch)).await?.into_inner();
        Ok(Box::pin(stream.filter_map(|told| flatten(told.map(|told| (told.event, told.epoch))))))
    }

    async fn run(&self) -> Result<Run, Status> {
        let mut client = self.connection.coordinator();
        let request = GetRunRequest { run_id: self.view.run_id.clone() };
        Ok(bounded(client.get_run(request)).await?.into_inner().run.unwrap_or_default())
    }

    /// The server spoke: tells so if it was away.
    fn is_back(&mut self, epoch: u64) {
        let was_restarted = self.epoch != 0 && epoch != self.epoch;
        self.epoch = epoch;
        let Some(lasted) = self.outage.holds(Instant::now()) else { return };
        if self.view.last_sequence == 0 && matches!(self.start, Start::New(_)) {
            self.watcher.notice(&format!("the run could start after {:.1} s", lasted.as_secs_f64()));
            return;
        }
        let restarted = if was_restarted { "the coordinator was restarted; " } else { "" };
        let going_on = match self.view.last_sequence {
            0 => String::new(),
            last => format!("; going on after event {last}"),
        };
        self.watcher.notice(&format!("{restarted}{}{going_on}", reconnect::connected_again(lasted)));
    }

    /// Goes on behind events that the server does not keep any more, and says so.
    fn skips_expired(&mut self, status: &Status) -> bool {
        let Some((run_id, oldest)) = expired(status) else { return false };
        let last_gone = oldest.saturating_sub(1);
        if last_gone <= self.view.last_sequence {
            return false;
        }
        self.watcher.notice(&format!(
            "the server does not keep the run's events up to {last_gone} any more; going on after them"
        ));
        self.view.skip_to(&run_id, last_gone);
        self.has_skipped = true;
        true
    }

    /// Whether the same call can succeed later. A run that was accepted is worth more attempts than a new one: its server
    /// may only be busy with all the others that come back.
    fn may_pass(&self, status: &Status) -> bool {
        let is_busy = matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded);
        reconnect::may_pass(status) || is_busy && !self.view.run_id.is_empty()
    }

    fn what_broke(&self) -> &'static str {
        if self.view.run_id.is_empty() { "the run cannot start yet" } else { reconnect::BROKE }
    }

    fn give_up(&mut self) {
        let RunView { run_id, last_sequence, .. } = &*self.view;
        if !run_id.is_empty() {
            // A server that was only out of reach cancels the run now; one that was restarted goes on with it.
            let then =
                if self.cancels { "it may have cancelled the run; if not" } else { "if it comes back" };
            let text = format!(
                "the server was not reached again; {then}: `lintmesh watch {run_id} --after {last_sequence} {}`",
                self.connection.flags()
            );
            self.watcher.notice(&text);
        }
    }

    fn action(&self, status: &Status) -> &'static str {
        if self.view.run_id.is_empty() {
            "starting the run"
        } else if status.code() == Code::NotFound && self.epoch != 0 {
            "following the run, which the server does not know any more"
        } else {
            "following the run"
        }
    }

    /// Cancels a run and waits a bounded time for the answer: the user wants to go.
    async fn cancel_run(&mut self) {
        self.watcher.notice("cancelling the run; press Ctrl-C again to leave at once");
        let request = CancelRunRequest { run_id: self.view.run_id.clone() };
        let cancelled = reconnect::repeated(
            CANCEL_BOUND,
            |_| {},
            || {
                let (mut client, request) = (self.connection.coordinator(), request.clone());
                async move { client.cancel_run(request).await }
            },
        );
        let trouble = match timeout(CANCEL_BOUND, cancelled).await {
            Ok(Ok(_)) => return,
            Ok(Err(status)) => format!("the run could not be cancelled: {}", reconnect::trouble(&status)),
            Err(_) => "the server did not confirm the cancellation in time".to_owned(),
        };
        let (run_id, flags) = (&self.view.run_id, self.connection.flags());
        let text = format!("{trouble}; it may go on: see to it with `lintmesh cancel {run_id} {flags}`");
        self.watcher.notice(&text);
    }
}

/// The answer, if it comes in time.
async fn bounded<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(OPEN_BOUND, call).await.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")))
}

fn flatten<T>(told: Result<(Option<T>, u64), Status>) -> Option<Result<(T, u64), Status>> {
    told.map(|(event, epoch)| Some((event?, epoch))).transpose()
}

/// The run, and its oldest event that is kept, if that is what a server complains of.
fn expired(status: &Status) -> Option<(String, u64)> {
    let info = status.get_details_error_info().filter(|info| info.reason == "POSITION_EXPIRED")?;
    let oldest = info.metadata.get("oldest_sequence")?.parse().ok()?;
    Some((info.metadata.get("run_id")?.clone(), oldest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ApiError;

    #[test]
    fn a_position_that_is_gone_tells_where_to_go_on() {
        let gone = |metadata| {
            Status::from(ApiError::OutOfRange {
                reason: "POSITION_EXPIRED",
                message: "gone".into(),
                metadata,
            })
        };
        let full = vec![("run_id", "run-1".to_owned()), ("oldest_sequence", "18".to_owned())];
        assert_eq!(expired(&gone(full)), Some(("run-1".to_owned(), 18)));
        assert_eq!(expired(&gone(vec![("run_id", "run-1".to_owned())])), None);
        assert_eq!(expired(&Status::out_of_range("of something else")), None);
    }
}
