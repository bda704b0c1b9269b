//! Looks at a server again and again, whatever is not there yet, until what is waited for is so.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use super::error::ConnectError;

/// Between two looks.
const POLL: Duration = Duration::from_millis(250);

/// What was known when the waiting ended.
#[derive(Debug)]
pub(super) enum Waited<T> {
    /// What was seen last, whether it was enough or not.
    Seen(T),
    /// The last look saw nothing, for a reason that may pass.
    Unseen(anyhow::Error),
}

/// Looks until what is seen is `enough`, at most for `limit`. A server that cannot be reached may be about to start, or
/// to start again, and is waited for; `Err` only for what will not pass, such as a wrong token.
pub(super) async fn until<T>(
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
    enough: impl Fn(&T) -> bool,
) -> anyhow::Result<Waited<T>> {
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(seen)) if enough(&seen) => return Ok(Waited::Seen(seen)),
            Ok(Ok(seen)) => last = Some(Waited::Seen(seen)),
            Ok(Err(error)) if may_pass(&error) => last = Some(Waited::Unseen(error)),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        if timeout_at(deadline, sleep(POLL)).await.is_err() {
            return Ok(
                last.unwrap_or_else(|| Waited::Unseen(anyhow::Error::msg("the server gave no answer")))
            );
        }
    }
}

/// The error of a wait in which nothing was seen in the end.
pub(super) fn in_vain(unseen: anyhow::Error, what: &str, limit: Duration) -> anyhow::Error {
    unseen.context(format!("{what} within {} s", limit.as_secs_f64()))
}

/// Whether trying again can help; a wrong token or URL will be as wrong later.
fn may_pass(error: &anyhow::Error) -> bool {
    let status = error.chain().find_map(|cause| cause.downcast_ref::<Status>());
    match status.map(Status::code) {
        Some(code) => matches!(
            code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Unknown
                | Code::Cancelled
        ),
        None => error.is::<ConnectError>(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::cli::error::UsageError;

    fn refused() -> anyhow::Error {
        anyhow::Error::from(Status::unavailable("starting")).context("asking")
    }

    /// What a wait of 30 s ends with, and after how many seconds, if the nth look ends like `look(n)`.
    async fn waited(
        look: impl Fn(u32) -> anyhow::Result<u32>,
        enough: u32,
    ) -> (anyhow::Result<Waited<u32>>, u64) {
        let (begin, looks) = (Instant::now(), AtomicU32::new(0));
        let next = || std::future::ready(look(looks.fetch_add(1, Ordering::Relaxed)));
        let ended = until(Duration::from_secs(30), next, |seen| *seen >= enough).await;
        (ended, begin.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn broken_looks_are_repeated_until_enough_is_seen_or_the_time_is_over() {
        let (ended, after) = waited(|n| if n < 8 { Err(refused()) } else { Ok(n) }, 20).await;
        assert!(matches!(ended, Ok(Waited::Seen(20))), "{ended:?}");
        assert_eq!(after, 5);
        let (ended, after) = waited(|_| Ok(1), 2).await;
        assert!(matches!(ended, Ok(Waited::Seen(1))), "the last that was seen: {ended:?}");
        assert_eq!(after, 30);
        let (ended, after) = waited(|n| if n < 8 { Ok(n) } else { Err(refused()) }, 20).await;
        let Ok(Waited::Unseen(error)) = ended else { panic!("what was in the way at the end: {ended:?}") };
        assert_eq!(after, 30);
        let text = crate::cli::error::render(&in_vain(error, "not ready", Duration::from_secs(30)));
        assert_eq!(text, "error: not ready within 30 s: asking: starting (UNAVAILABLE)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_not_waited_for_longer() {
        let begin = Instant::now();
        let ended = until(Duration::from_secs(30), std::future::pending, |_: &u32| true).await;
        assert!(matches!(ended, Ok(Waited::Unseen(_))), "{ended:?}");
        assert_eq!(begin.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_waited_for() {
        assert!(may_pass(&refused()));
        assert!(!may_pass(&Status::unauthenticated("no token").into()));
        let (ended, after) = waited(|_| Err(UsageError("bad URL".into()).into()), 1).await;
        assert!(ended.is_err() && after == 0, "{ended:?}");
    }
}
