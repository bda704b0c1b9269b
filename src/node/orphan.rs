//! A node whose launcher is gone: it waits for the next coordinator, but not for ever.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::way::Way;

/// How the names of lifelines begin: each is a file in the folder of a node, held by the launcher that adopted the process
/// it is named for. The system lets go of it when that launcher dies. One for each process: beside an adopted one there
/// may be others of its node that nobody knows of any more, and these must not take its launcher for theirs.
const LIFELINE: &str = "launcher.";
/// How often an orphan looks whether it has a launcher again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a launcher tries to take a lifeline at which its node looks just now, and the pause between: 0.2 s in all.
const HOLD_TRIES: u32 = 20;
const HOLD_PAUSE: Duration = Duration::from_millis(10);

fn lifeline(folder: &Path, process: u32) -> PathBuf {
    folder.join(format!("{LIFELINE}{process}"))
}

/// Shows a process of the node with this folder that it has a launcher, until the file is closed.
pub(super) async fn hold_lifeline(folder: &Path, process: u32) -> io::Result<File> {
    let path = lifeline(folder, process);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    for _ in 0..HOLD_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A node that looks holds it for a moment.
            Err(TryLockError::WouldBlock) => tokio::time::sleep(HOLD_PAUSE).await,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Whether there is a launcher for a process of the node with this folder.
pub(super) fn has_launcher(folder: &Path, process: u32) -> bool {
    let Ok(file) = OpenOptions::new().write(true).open(lifeline(folder, process)) else { return false };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Removes the lifelines of earlier processes of a node.
pub(super) fn cut_lifelines(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let is_lifeline = |name: &str| name.starts_with(LIFELINE);
    for entry in entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_lifeline)) {
        // One that stays is an empty file that nobody holds.
        let _ = fs::remove_file(entry.path());
    }
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

    #[tokio::test]
    async fn a_launcher_is_seen_while_it_holds_the_lifeline_and_only_by_the_process_it_adopted() {
        let dir = tempfile::tempdir().expect("a folder");
        let seen = || [7, 8].map(|process| has_launcher(dir.path(), process));
        assert_eq!(seen(), [false, false]);
        let held = hold_lifeline(dir.path(), 7).await.expect("made");
        assert_eq!(seen(), [true, false]);
        assert!(hold_lifeline(dir.path(), 7).await.is_err(), "it is held by one");
        drop(held);
        assert_eq!(seen(), [false, false]);
        let again = hold_lifeline(dir.path(), 7).await.expect("there");
        fs::write(dir.path().join("results"), "").expect("written");
        cut_lifelines(dir.path());
        assert_eq!(seen(), [false, false]);
        drop(again);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "nothing else is removed");
    }
}
