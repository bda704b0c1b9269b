//! A node whose launcher is gone: it waits for the next coordinator, but not for ever.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::way::Way;

/// Held by the launcher whose nodes have their folders beside it; the system lets go of it when that dies.
const LIFELINE: &str = "launcher.lock";
/// How often an orphan looks whether it has a launcher again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the nodes whose folders are in `dir` that they have a launcher, until the file is closed.
pub(super) fn hold_lifeline(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LIFELINE))?;
    // Shared: a node that looks holds it for a moment.
    file.lock_shared()?;
    Ok(file)
}

/// Whether there is a launcher for the nodes whose folders are in `dir`.
pub(super) fn has_launcher(dir: &Path) -> bool {
    let Ok(file) = OpenOptions::new().write(true).open(dir.join(LIFELINE)) else { return false };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Completes once the launcher is gone and for so long since then there has been neither a session nor another launcher.
/// With a launcher a node has no more reason to end than before: one that cannot store its facts welcomes nobody.
pub(super) async fn is_given_up(
    orphaned: &CancellationToken,
    way: &Way,
    grace: Duration,
    has_launcher: impl Fn() -> bool,
) {
    orphaned.cancelled().await;
    let mut alone_from = Instant::now();
    tracing::warn!(?grace, "this node's launcher is gone; waiting for the next coordinator");
    loop {
        let now = Instant::now();
        if has_launcher() {
            alone_from = now;
        }
        let until = match way.closed_since() {
            None => now + grace,
            Some(since) => since.unwrap_or(alone_from).max(alone_from) + grace,
        };
        if until <= now {
            return;
        }
        tokio::time::sleep_until(until.min(now + LOOK_INTERVAL)).await;
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
            async move { is_given_up(&orphaned, &way, GRACE, || false).await }
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
        is_given_up(&orphaned, &Way::default(), GRACE, || false).await;
        assert_eq!(start.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_with_another_launcher_waits_for_it_however_long() {
        let (orphaned, start) = (CancellationToken::new(), Instant::now());
        orphaned.cancel();
        let has_launcher = || start.elapsed() < second(1000);
        is_given_up(&orphaned, &Way::default(), GRACE, has_launcher).await;
        let alone = start.elapsed() - second(1000);
        assert!(alone <= GRACE && alone + LOOK_INTERVAL >= GRACE, "{alone:?}");
    }

    #[test]
    fn a_launcher_is_seen_while_it_holds_the_lifeline() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(!has_launcher(dir.path()));
        let held = hold_lifeline(dir.path()).expect("made");
        assert!(has_launcher(dir.path()));
        drop(held);
        assert!(!has_launcher(dir.path()));
        hold_lifeline(dir.path()).expect("there");
    }
}
