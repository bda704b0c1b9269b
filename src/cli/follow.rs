//! Follows a run to its end, over broken connections.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::connect::Connection;
use super::interrupt::Interrupt;
use super::run_view::RunView;
use crate::proto::v1::{CancelRunRequest, CoordinateRequest, RunEvent, RunFinished, WatchRunRequest};

/// How often in a row a broken stream is taken up again; an event in between starts the count anew.
const RETRIES: u32 = 6;

/// The pause before the first retry; doubled for each further one, at most [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
}

/// A stream of a run's events, whichever call it comes from.
type Events = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<RunEvent, Status>> + Send>>;

/// What to follow.
#[derive(Debug, Clone)]
pub enum Start {
    /// Starts a run. A lost answer is asked for again with the same request id, which attaches to the same run.
    New(Box<CoordinateRequest>),
    /// Takes up a run after an event.
    Existing(WatchRunRequest),
}

/// Follows a run until it has ended. If the user interrupts, the run is cancelled when `cancel` says so.
pub async fn follow(
    connection: &Connection,
    start: Start,
    cancel: bool,
    interrupt: &Interrupt,
    watcher: &mut impl Watcher,
    view: &mut RunView,
) -> Result<RunFinished, FollowError> {
    let mut failures = 0;
    loop {
        let broken = tokio::select! {
            ended = attempt(connection, &start, watcher, view, &mut failures) => match ended {
                Ok(finished) => return Ok(finished),
                Err(status) => status,
            },
            () = interrupt.requested() => {
                if cancel && !view.run_id.is_empty() {
                    cancel_run(connection, &view.run_id, watcher).await;
                }
                return Err(FollowError::Interrupted);
            }
        };
        let is_new = view.run_id.is_empty() && matches!(start, Start::New(_));
        let action = if is_new { "starting the run" } else { "following the run" };
        if !is_transient(&broken) || failures >= RETRIES {
            return Err(FollowError::refused(action, broken));
        }
        let pause = pause_after(failures);
        failures += 1;
        let trouble = if view.run_id.is_empty() {
            "the run cannot start yet"
        } else {
            "the connection to the server broke"
        };
        watcher.notice(&format!(
            "{trouble} ({}); trying again in {} ms ({failures} of {RETRIES})",
            broken.message(),
            pause.as_millis(),
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => view.resumed(),
            () = interrupt.requested() => {}
        }
    }
}

/// One stream, to its end or to its break.
async fn attempt(
    connection: &Connection,
    start: &Start,
    watcher: &mut impl Watcher,
    view: &mut RunView,
    failures: &mut u32,
) -> Result<RunFinished, Status> {
    let mut events = open(connection, start, view).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        *failures = 0;
        view.apply(&event);
        watcher.event(&event, view);
        if let Some(finished) = &view.finished {
            return Ok(finished.clone());
        }
    }
    Err(Status::unavailable("the stream ended before the run did"))
}

async fn open(connection: &Connection, start: &Start, view: &RunView) -> Result<Events, Status> {
    let mut client = connection.coordinator();
    let watch = match start {
        Start::New(request) if view.run_id.is_empty() => {
            let stream = client.coordinate(request.as_ref().clone()).await?.into_inner();
            return Ok(Box::pin(stream.filter_map(|item| flatten(item.map(|message| message.event)))));
        }
        Start::New(_) => WatchRunRequest { run_id: view.run_id.clone(), after_sequence: view.last_sequence },
        Start::Existing(watch) => WatchRunRequest {
            run_id: watch.run_id.clone(),
            after_sequence: watch.after_sequence.max(view.last_sequence),
        },
    };
    let stream = client.watch_run(watch).await?.into_inner();
    Ok(Box::pin(stream.filter_map(|item| flatten(item.map(|message| message.event)))))
}

fn flatten(item: Result<Option<RunEvent>, Status>) -> Option<Result<RunEvent, Status>> {
    item.transpose()
}

/// Cancels a run and waits a bounded time for the answer: the user wants to go.
async fn cancel_run(connection: &Connection, run_id: &str, watcher: &mut impl Watcher) {
    watcher.notice("cancelling the run; press Ctrl-C again to leave at once");
    let mut client = connection.coordinator();
    let request = CancelRunRequest { run_id: run_id.to_owned() };
    match tokio::time::timeout(CANCEL_BOUND, client.cancel_run(request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => watcher.notice(&format!("the run could not be cancelled: {}", status.message())),
        Err(_) => watcher.notice("the server did not confirm the cancellation in time"),
    }
}

/// Whether the same call can succeed later. A broken transport arrives as UNKNOWN or UNAVAILABLE; ABORTED ends a
/// watcher that was too slow, which resumes.
fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted => true,
        Code::Unknown | Code::Internal | Code::Cancelled => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let pauses: Vec<u128> = (0..7).map(|n| pause_after(n).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn refusals_are_not_tried_again() {
        assert!(is_transient(&Status::unavailable("down")));
        assert!(is_transient(&Status::aborted("too slow")));
        for refusal in [Status::invalid_argument(""), Status::not_found(""), Status::internal("a bug")] {
            assert!(!is_transient(&refusal), "{refusal}");
        }
    }
}
