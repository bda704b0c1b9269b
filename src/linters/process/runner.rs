//! Starts the shim, carries bytes, and waits for the end.

use std::fmt::Display;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bounds::{DRAIN_DEADLINE, KILL_DEADLINE, REAP_DEADLINE, SEARCH_DEADLINE, WALL_GRACE};
use super::control::{self, Report};
use super::{Exceeded, Finished, ProcessError, ProcessSpec, Progress, orphans};

/// A report is a few hundred bytes.
const REPORT_LIMIT: u64 = 64 << 10;

/// [`run_watched`], and nobody watches.
///
/// # Errors
/// See [`ProcessError`].
pub async fn run(
    spec: ProcessSpec,
    shim: &Path,
    cancel: &CancellationToken,
) -> Result<Finished, ProcessError> {
    run_watched(spec, shim, cancel, &Progress::default()).await
}

/// Runs `spec` beneath `shim`, the lintmesh binary, until it ends, a limit ends it, or `cancel` does.
///
/// When this returns, every process that the program started is gone; once cancelled it returns within
/// [`END_BOUND`](super::END_BOUND). When the returned future is dropped instead, the same happens shortly afterwards: the
/// shim sees its control socket close. But one that does not react, because it was stopped, is only killed from here:
/// whoever can cancel should, and wait.
///
/// # Errors
/// See [`ProcessError`]. A limit that was exceeded is no error but part of [`Finished`].
pub async fn run_watched(
    spec: ProcessSpec,
    shim: &Path,
    cancel: &CancellationToken,
    progress: &Progress,
) -> Result<Finished, ProcessError> {
    let broken = |reason: &dyn Display| ProcessError::Shim {
        program: spec.program.clone(),
        reason: reason.to_string(),
    };
    let not_started = |source| ProcessError::Start { program: spec.program.clone(), source };

    let frame = control::encode(&spec).map_err(not_started)?;
    if cancel.is_cancelled() {
        return Err(ProcessError::Cancelled);
    }
    let mark = mark().map_err(|error| broken(&error))?;
    let started = Instant::now();
    let (mut child, socket) = start(shim, &mark).map_err(|error| broken(&error))?;
    progress.shim.store(child.id().unwrap_or_default(), Ordering::Relaxed);
    let (from_shim, to_shim) = socket.into_split();
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(broken(&"its output is not piped"));
    };

    let budget = Budget::new(spec.limits.output_bytes);
    let (read_to_end, abandon) = (CancellationToken::new(), CancellationToken::new());
    let outputs = async {
        let outputs = tokio::join!(
            collect(stdout, &budget, progress, &abandon),
            collect(stderr, &budget, progress, &abandon),
            read_report(from_shim, &abandon),
        );
        read_to_end.cancel();
        outputs
    };
    let end = async {
        let wall = spec.limits.wall.saturating_add(WALL_GRACE);
        let end = supervise(&mut child, to_shim, &frame, wall, &budget.exhausted, cancel).await;
        if !end.status.is_some_and(|status| status.success()) {
            let mark = mark.clone();
            // Milliseconds, but for a process that hangs in the kernel; the search goes on without anybody who waits. If
            // the runtime is going down there is nobody left to tell.
            let search = tokio::task::spawn_blocking(move || orphans::end_marked(control::MARK, &mark));
            let _ = timeout(SEARCH_DEADLINE, search).await;
        }
        // Now nobody holds the pipes, so they end at once; the deadline is for a process beyond our reach. What a
        // cancelled one printed is wanted by nobody.
        let is_wanted = end.stopped != Some(Stop::Cancelled);
        if !is_wanted || timeout(DRAIN_DEADLINE, read_to_end.cancelled()).await.is_err() {
            abandon.cancel();
        }
        end
    };
    let ((stdout, stderr, report), end) = tokio::join!(outputs, end);
    let wall = started.elapsed();

    if end.stopped == Some(Stop::Cancelled) {
        return Err(ProcessError::Cancelled);
    }
    match report {
        Some(Report::Ended { code, signal, exceeded, cpu, peak_memory_bytes }) => {
            tracing::debug!(program = %spec.program.display(), ?wall, ?cpu, peak_memory_bytes, "process ended");
            let exceeded = match end.stopped {
                _ if budget.exhausted.is_cancelled() => Some(Exceeded::Output),
                Some(Stop::Wall) => Some(Exceeded::Wall),
                _ => exceeded,
            };
            Ok(Finished { code, signal, exceeded, stdout, stderr, wall, cpu })
        }
        Some(Report::NotStarted { errno }) => Err(not_started(std::io::Error::from_raw_os_error(errno))),
        Some(Report::Broken { reason }) => Err(broken(&reason)),
        None => Err(match end.status {
            Some(status) => broken(&format_args!("it ended without a report ({status})")),
            None => broken(&"it could not be ended"),
        }),
    }
}

/// A name for the processes of one run that no other run on this host has.
fn mark() -> std::io::Result<String> {
    let random = getrandom::u64().map_err(std::io::Error::other)?;
    Ok(format!("{}-{random:016x}", std::process::id()))
}

fn start(shim: &Path, mark: &str) -> std::io::Result<(Child, tokio::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new(shim)
        .arg(control::SUBCOMMAND)
        .env_clear()
        .env(control::MARK, mark)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((child, tokio::net::UnixStream::from_std(ours)?))
}

/// Why the node ended a process itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancelled,
    Output,
    Wall,
}

struct End {
    stopped: Option<Stop>,
    status: Option<ExitStatus>,
}

/// Sends the frame, waits for the shim, and stops it for one of the three reasons.
async fn supervise(
    child: &mut Child,
    mut to_shim: OwnedWriteHalf,
    frame: &[u8],
    wall: Duration,
    flooded: &CancellationToken,
    cancel: &CancellationToken,
) -> End {
    let exit = async {
        // A shim that died early breaks the pipe; its exit status says more than that error.
        let _ = to_shim.write_all(frame).await;
        child.wait().await
    };
    let stopped = tokio::select! {
        status = exit => return End { stopped: None, status: status.ok() },
        () = cancel.cancelled() => Stop::Cancelled,
        () = flooded.cancelled() => Stop::Output,
        () = sleep(wall) => Stop::Wall,
    };
    // End of file on the control socket: the shim ends everything, reports, and exits.
    drop(to_shim);
    let status = match timeout(KILL_DEADLINE, child.wait()).await {
        Ok(status) => status.ok(),
        Err(_) => {
            // It does not react; a linter may have stopped it. The linter is killed with it by its parent-death signal.
            let _ = child.start_kill();
            timeout(REAP_DEADLINE, child.wait()).await.ok().and_then(Result::ok)
        }
    };
    End { stopped: Some(stopped), status }
}

/// What may still be printed, on both outputs together.
struct Budget {
    left: AtomicU64,
    exhausted: CancellationToken,
}

impl Budget {
    fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes), exhausted: CancellationToken::new() }
    }

    /// Takes up to `wanted` bytes and returns how many it got.
    fn take(&self, wanted: usize) -> usize {
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(wanted as u64))
            })
            .unwrap_or_default();
        if before < wanted as u64 {
            self.exhausted.cancel();
        }
        usize::try_from(before).unwrap_or(usize::MAX).min(wanted)
    }
}

/// Reads to the end, keeping what the budget allows; the rest is read and dropped so that nobody blocks on it.
async fn collect(
    mut from: impl AsyncRead + Unpin,
    budget: &Budget,
    progress: &Progress,
    abandon: &CancellationToken,
) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            () = abandon.cancelled() => return kept,
        };
        match read {
            Ok(read) if read > 0 => {
                progress.printed.fetch_add(read as u64, Ordering::Relaxed);
                kept.extend_from_slice(&chunk[..budget.take(read)]);
            }
            _ => return kept,
        }
    }
}

async fn read_report(from: OwnedReadHalf, abandon: &CancellationToken) -> Option<Report> {
    let mut text = Vec::new();
    // Whatever arrived before an error is judged by the parser.
    let _ = abandon.run_until_cancelled(from.take(REPORT_LIMIT).read_to_end(&mut text)).await;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outputs_share_one_budget_and_keep_their_beginning() {
        let (budget, never, progress) = (Budget::new(5), CancellationToken::new(), Progress::default());
        assert_eq!(collect(&b"abc"[..], &budget, &progress, &never).await, b"abc");
        assert!(!budget.exhausted.is_cancelled());
        assert_eq!(collect(&b"def"[..], &budget, &progress, &never).await, b"de");
        assert!(budget.exhausted.is_cancelled());
        assert_eq!(collect(&b"g"[..], &budget, &progress, &never).await, b"");
        assert_eq!(progress.printed(), 7, "what is dropped was printed too");
    }

    #[test]
    fn exactly_the_budget_is_not_too_much() {
        let budget = Budget::new(3);
        assert_eq!(budget.take(3), 3);
        assert!(!budget.exhausted.is_cancelled());
    }
}
