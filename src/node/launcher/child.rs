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

use super::stranger::Stranger;
use super::{Exit, KILL_BOUND};
use crate::node::agent::NodeSettings;
use crate::node::lifetime::STOP;

/// How long a child may take to read its settings; they fit the pipe, so that this is no wait at all.
const SETTINGS_BOUND: Duration = Duration::from_secs(10);

pub(super) struct Child {
    pid: u32,
    running: Arc<AtomicBool>,
    /// Dropping it kills at once.
    order: oneshot::Sender<Order>,
    ended: oneshot::Receiver<()>,
}

/// What is to become of a process.
enum Order {
    /// It is to end within this bound (zero: at once).
    End(Duration),
    /// It goes on, and nobody watches it any more.
    Leave,
}

/// What became of a process.
enum Outcome {
    Ended { status: Option<ExitStatus>, ordered: bool },
    Left,
}

/// A process that waits for its settings. Dropped, it is killed; without its launcher it ends by itself.
pub(super) struct Started {
    process: Owned,
    /// The lifetime pipe: its end tells the node that its launcher is gone, however that died.
    stdin: ChildStdin,
    pid: u32,
}

/// A process that is killed when this is dropped, unless it was let go.
struct Owned {
    child: tokio::process::Child,
    is_free: bool,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.is_free {
            // Fails only if it has ended.
            let _ = self.child.start_kill();
        }
    }
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
            .spawn()?;
        let (pid, stdin) = (child.id(), child.stdin.take());
        let process = Owned { child, is_free: false };
        let pid = pid.ok_or_else(|| io::Error::other("the process ended at once"))?;
        let stdin = stdin.ok_or_else(|| io::Error::other("its standard input is not piped"))?;
        Ok(Self { process, stdin, pid })
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
        Ok(Child::watched(self.pid, on_exit, |ordered| self.run_until_end(line, ordered)))
    }

    async fn run_until_end(mut self, settings: Vec<u8>, ordered: oneshot::Receiver<Order>) -> Outcome {
        match tokio::time::timeout(SETTINGS_BOUND, self.stdin.write_all(&settings)).await {
            Ok(Ok(())) => {}
            // It died before it read them; its status tells. Or it hangs: then it never joins, and is stopped.
            Ok(Err(error)) => tracing::debug!(pid = self.pid, %error, "settings not read"),
            Err(_) => tracing::warn!(pid = self.pid, "settings not read in time"),
        }
        let Owned { child, is_free } = &mut self.process;
        let ended = |status, ordered| Outcome::Ended { status, ordered };
        let bound = tokio::select! {
            status = child.wait() => return ended(status.ok(), false),
            order = ordered => match order.unwrap_or(Order::End(Duration::ZERO)) {
                Order::End(bound) => bound,
                Order::Leave => {
                    // The pipe closes without the order to end, as if this process were killed.
                    *is_free = true;
                    return Outcome::Left;
                }
            },
        };
        let asked = async {
            // The order to end at once; SIGTERM would be one to finish its work first. Whoever hangs does not read it.
            let _ = self.stdin.write_all(STOP).await;
            drop(self.stdin);
            child.wait().await
        };
        if let Ok(status) = tokio::time::timeout(bound, asked).await {
            return ended(status.ok(), true);
        }
        if !bound.is_zero() {
            tracing::warn!(pid = self.pid, ?bound, "node did not end in time and is killed");
        }
        if let Err(error) = child.start_kill() {
            tracing::warn!(pid = self.pid, %error, "node could not be killed");
        }
        match tokio::time::timeout(KILL_BOUND, child.wait()).await {
            Ok(status) => ended(status.ok(), true),
            Err(_) => {
                tracing::error!(pid = self.pid, "the node's process could not be killed");
                ended(None, true)
            }
        }
    }
}

impl Child {
    /// Goes on with a process that another launcher started.
    pub(super) fn adopted(stranger: Stranger, on_exit: impl FnOnce(Exit) + Send + 'static) -> Self {
        Self::watched(stranger.pid(), on_exit, |ordered| async move {
            let order = tokio::select! {
                () = stranger.ended() => return Outcome::Ended { status: None, ordered: false },
                order = ordered => order.unwrap_or(Order::End(Duration::ZERO)),
            };
            let Order::End(bound) = order else { return Outcome::Left };
            stranger.stop(bound).await;
            Outcome::Ended { status: None, ordered: true }
        })
    }

    fn watched<W>(
        pid: u32,
        on_exit: impl FnOnce(Exit) + Send + 'static,
        watch: impl FnOnce(oneshot::Receiver<Order>) -> W,
    ) -> Self
    where
        W: Future<Output = Outcome> + Send + 'static,
    {
        let running = Arc::new(AtomicBool::new(true));
        let (order, ordered) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let watch = watch(ordered);
        let still_running = Arc::clone(&running);
        tokio::spawn(async move {
            let outcome = watch.await;
            still_running.store(false, Ordering::Release);
            if let Outcome::Ended { status, ordered } = outcome {
                on_exit(Exit { pid, status, ordered });
            }
            // If nobody waits for the end, nobody needs to know.
            let _ = end.send(());
        });
        Self { pid, running, order, ended }
    }

    /// Its process id, as long as it runs.
    pub(super) fn running_pid(&self) -> Option<u32> {
        self.running.load(Ordering::Acquire).then_some(self.pid)
    }

    /// Asks it to end, kills it after the bound (zero: at once, also if it is stopped), and returns when it is gone.
    pub(super) async fn stop(self, bound: Duration) {
        self.follow(Order::End(bound)).await;
    }

    /// Lets it go on by itself: it finds out as if this process were killed.
    pub(super) async fn leave(self) {
        self.follow(Order::Leave).await;
    }

    async fn follow(self, order: Order) {
        // Both fail only if it has ended already.
        let _ = self.order.send(order);
        let _ = self.ended.await;
    }
}
