//! One launched process: watched by a task of its own, which alone signals and reaps it.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, Command};
use tokio::sync::oneshot;

use super::Exit;
use crate::node::agent::NodeSettings;

/// How long a child may take to read its settings; they fit the pipe, so that this is no wait at all.
const SETTINGS_BOUND: Duration = Duration::from_secs(10);

pub(super) struct Child {
    pid: u32,
    running: Arc<AtomicBool>,
    /// Says within which bound to end; dropping it kills at once.
    stop: oneshot::Sender<Duration>,
    ended: oneshot::Receiver<()>,
}

impl Child {
    /// Starts the process and hands it its settings.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        settings: &NodeSettings,
        on_exit: impl FnOnce(Exit) + Send + 'static,
    ) -> io::Result<Self> {
        let mut line = serde_json::to_vec(settings)?;
        line.push(b'\n');
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            // Standard output belongs to the command that launches: a report may be written there.
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // Out of reach of the terminal's Ctrl-C: the launcher decides when its nodes end.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process ended at once"))?;
        let stdin = child.stdin.take().ok_or_else(|| io::Error::other("its standard input is not piped"))?;
        let running = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let watch = Watch { child, stdin, pid, stopped };
        let still_running = Arc::clone(&running);
        tokio::spawn(async move {
            let (status, ordered) = watch.run_until_end(&line).await;
            still_running.store(false, Ordering::Release);
            on_exit(Exit { pid, status, ordered });
            // If nobody waits for the end, nobody needs to know.
            let _ = end.send(());
        });
        Ok(Self { pid, running, stop, ended })
    }

    /// Its process id, which means nothing any more once it was reaped.
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Its process id, as long as it runs.
    pub(super) fn running_pid(&self) -> Option<u32> {
        self.running.load(Ordering::Acquire).then_some(self.pid)
    }

    /// Asks it to end, kills it after the bound (zero: at once, also if it is stopped), and returns when it is reaped.
    pub(super) async fn stop(self, bound: Duration) {
        // Both fail only if it has ended already.
        let _ = self.stop.send(bound);
        let _ = self.ended.await;
    }
}

struct Watch {
    child: tokio::process::Child,
    /// The lifetime pipe: the node ends when this is closed, also by the death of this process.
    stdin: ChildStdin,
    pid: u32,
    stopped: oneshot::Receiver<Duration>,
}

impl Watch {
    /// How it ended, and whether it was told to.
    async fn run_until_end(mut self, settings: &[u8]) -> (Option<ExitStatus>, bool) {
        match tokio::time::timeout(SETTINGS_BOUND, self.stdin.write_all(settings)).await {
            Ok(Ok(())) => {}
            // It died before it read them; its status tells. Or it hangs: then it never joins, and is stopped.
            Ok(Err(error)) => tracing::debug!(pid = self.pid, %error, "settings not read"),
            Err(_) => tracing::warn!(pid = self.pid, "settings not read in time"),
        }
        let bound = tokio::select! {
            status = self.child.wait() => return (status.ok(), false),
            bound = &mut self.stopped => bound.unwrap_or_default(),
        };
        // The end of its lifeline is the order to end at once. SIGTERM would be one to finish its work first.
        drop(self.stdin);
        if let Ok(status) = tokio::time::timeout(bound, self.child.wait()).await {
            return (status.ok(), true);
        }
        if !bound.is_zero() {
            tracing::warn!(pid = self.pid, ?bound, "node did not end in time and is killed");
        }
        if let Err(error) = self.child.start_kill() {
            tracing::warn!(pid = self.pid, %error, "node could not be killed");
        }
        (self.child.wait().await.ok(), true)
    }
}
