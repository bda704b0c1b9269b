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
use super::stranger::Stranger;
use crate::node::agent::NodeSettings;
use crate::node::lifetime::STOP;

/// How long a child may take to read its settings; they fit the pipe, so that this is no wait at all.
const SETTINGS_BOUND: Duration = Duration::from_secs(10);

pub(super) struct Child {
    pid: u32,
    running: Arc<AtomicBool>,
    /// Says within which bound to end; dropping it kills at once.
    stop: oneshot::Sender<Duration>,
    ended: oneshot::Receiver<()>,
}

/// A process that waits for its settings. Dropped, it is killed; without its launcher it ends by itself.
pub(super) struct Started {
    child: tokio::process::Child,
    /// The lifetime pipe: its end tells the node that its launcher is gone, however that died.
    stdin: ChildStdin,
    pid: u32,
}

impl Started {
    /// Starts the process.
    pub(super) fn new(program: &Path, arguments: &[OsString]) -> io::Result<Self> {
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
        Ok(Self { child, stdin, pid })
    }

    /// Its process id.
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Hands it its settings, by which it becomes a node.
    pub(super) fn told(
        self,
        settings: &NodeSettings,
        on_exit: impl FnOnce(Exit) + Send + 'static,
    ) -> io::Result<Child> {
        let mut line = serde_json::to_vec(settings)?;
        line.push(b'\n');
        Ok(Child::watched(self.pid, on_exit, |stopped| self.run_until_end(line, stopped)))
    }

    /// How it ended, and whether it was told to.
    async fn run_until_end(
        mut self,
        settings: Vec<u8>,
        stopped: oneshot::Receiver<Duration>,
    ) -> (Option<ExitStatus>, bool) {
        match tokio::time::timeout(SETTINGS_BOUND, self.stdin.write_all(&settings)).await {
            Ok(Ok(())) => {}
            // It died before it read them; its status tells. Or it hangs: then it never joins, and is stopped.
            Ok(Err(error)) => tracing::debug!(pid = self.pid, %error, "settings not read"),
            Err(_) => tracing::warn!(pid = self.pid, "settings not read in time"),
        }
        let bound = tokio::select! {
            status = self.child.wait() => return (status.ok(), false),
            bound = stopped => bound.unwrap_or_default(),
        };
        let ended = async {
            // The order to end at once; SIGTERM would be one to finish its work first. Whoever hangs does not read it.
            let _ = self.stdin.write_all(STOP).await;
            drop(self.stdin);
            self.child.wait().await
        };
        if let Ok(status) = tokio::time::timeout(bound, ended).await {
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

impl Child {
    /// Goes on with a process that another launcher started.
    pub(super) fn adopted(stranger: Stranger, on_exit: impl FnOnce(Exit) + Send + 'static) -> Self {
        Self::watched(stranger.pid(), on_exit, |stopped| async move {
            let bound = tokio::select! {
                () = stranger.ended() => return (None, false),
                bound = stopped => bound.unwrap_or_default(),
            };
            stranger.stop(bound).await;
            (None, true)
        })
    }

    fn watched<W>(
        pid: u32,
        on_exit: impl FnOnce(Exit) + Send + 'static,
        watch: impl FnOnce(oneshot::Receiver<Duration>) -> W,
    ) -> Self
    where
        W: Future<Output = (Option<ExitStatus>, bool)> + Send + 'static,
    {
        let running = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let watch = watch(stopped);
        let still_running = Arc::clone(&running);
        tokio::spawn(async move {
            let (status, ordered) = watch.await;
            still_running.store(false, Ordering::Release);
            on_exit(Exit { pid, status, ordered });
            // If nobody waits for the end, nobody needs to know.
            let _ = end.send(());
        });
        Self { pid, running, stop, ended }
    }

    /// Its process id, as long as it runs.
    pub(super) fn running_pid(&self) -> Option<u32> {
        self.running.load(Ordering::Acquire).then_some(self.pid)
    }

    /// Asks it to end, kills it after the bound (zero: at once, also if it is stopped), and returns when it is gone.
    pub(super) async fn stop(self, bound: Duration) {
        // Both fail only if it has ended already.
        let _ = self.stop.send(bound);
        let _ = self.ended.await;
    }
}
