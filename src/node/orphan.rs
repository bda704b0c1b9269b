//! A node whose launcher is gone: it waits for the next coordinator, but not for ever.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::way::Way;

/// Completes once the launcher is gone and there has been no session for so long since then.
pub(super) async fn is_given_up(orphaned: &CancellationToken, way: &Way, grace: Duration) {
    orphaned.cancelled().await;
    let from = Instant::now();
    tracing::warn!(?grace, "this node's launcher is gone; waiting for the next coordinator");
    loop {
        let now = Instant::now();
        let until = match way.closed_since() {
            // It cannot have been away for long enough before that.
            None => now + grace,
            Some(since) => since.unwrap_or(from).max(from) + grace,
        };
        if until <= now {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn second(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_launcher_ends_after_the_grace_without_a_session() {
        let (orphaned, way, start) = (CancellationToken::new(), Way::default(), Instant::now());
        let waiting = tokio::spawn({
            let (orphaned, way) = (orphaned.clone(), way.clone());
            async move { is_given_up(&orphaned, &way, GRACE).await }
        });
        let join = || way.opened(Instant::now(), mpsc::channel(1).0);
        join();
        // With its launcher a node may be without a session for ever.
        tokio::time::sleep(second(100)).await;
        way.closed(Instant::now());
        tokio::time::sleep(second(900)).await;
        orphaned.cancel();
        // The next coordinator comes in time, and goes in its turn.
        tokio::time::sleep(second(59)).await;
        join();
        tokio::time::sleep(second(500)).await;
        way.closed(Instant::now());
        tokio::time::sleep(second(30)).await;
        join();
        tokio::time::sleep(second(1)).await;
        way.closed(Instant::now());
        let left_alone = Instant::now();
        tokio::time::sleep(second(59)).await;
        assert!(!waiting.is_finished());
        waiting.await.expect("it ends");
        assert_eq!(Instant::now(), left_alone + GRACE, "{:?} after the start", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_joined_counts_from_its_launchers_end() {
        let (orphaned, start) = (CancellationToken::new(), Instant::now());
        orphaned.cancel();
        is_given_up(&orphaned, &Way::default(), GRACE).await;
        assert_eq!(start.elapsed(), GRACE);
    }
}
