//! A node process that another launcher started: no child of this one, so it is known by its number and its start.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use super::KILL_BOUND;
use crate::node::process_table;

/// How often is looked whether a process has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often a process is asked to end: its first SIGTERM lets it finish its work, the second ends it, and two that come
/// together count as one.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// A living process that is surely the one that was meant.
pub(super) struct Stranger {
    pid: Pid,
    started: u64,
    /// Means this process for ever, whoever gets its number later. Some sandboxes give none.
    handle: Option<OwnedFd>,
}

impl Stranger {
    /// The process with this number, if it is the one that started then; none if that one has ended.
    pub(super) fn find(pid: u32, started: u64) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let handle = pidfd_open(number, PidfdFlags::empty())
            .inspect_err(|error| tracing::debug!(pid, %error, "no handle of the process"))
            .ok();
        let found = Self { pid: number, started, handle };
        // After the handle was taken: so it is of the process that is looked at here.
        found.is_listed().then_some(found)
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn is_listed(&self) -> bool {
        process_table::read_one(self.pid())
            .is_some_and(|process| process.started == self.started && !process.has_ended)
    }

    fn lives(&self) -> bool {
        let Some(handle) = &self.handle else { return self.is_listed() };
        // Readable from its end on.
        let mut asked = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        poll(&mut asked, PollTimeout::ZERO).map_or_else(|_| self.is_listed(), |ready| ready == 0)
    }

    /// Completes when it has ended. Cancel safe.
    pub(super) async fn ended(&self) {
        while self.lives() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Asks it to end, and kills it after the bound (zero: at once). Answers whether it is gone.
    pub(super) async fn stop(&self, bound: Duration) -> bool {
        let asked = Instant::now();
        while asked.elapsed() < bound {
            self.signal(Signal::TERM);
            tokio::time::sleep(ASK_INTERVAL).await;
            if !self.lives() {
                return true;
            }
        }
        if !bound.is_zero() {
            tracing::warn!(pid = self.pid(), ?bound, "node did not end in time and is killed");
        }
        self.kill();
        let gone = tokio::time::timeout(KILL_BOUND, self.ended()).await.is_ok();
        if !gone {
            tracing::error!(pid = self.pid(), "the node's process could not be killed");
        }
        gone
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let sent = match &self.handle {
            Some(handle) => pidfd_send_signal(handle, signal),
            // A moment remains in which the number could change hands; without handles there is no better way.
            None if self.is_listed() => kill_process(self.pid, signal),
            None => Ok(()),
        };
        if let Err(error) = sent {
            // It has ended: that is what is wanted.
            tracing::debug!(pid = self.pid(), %error, "not signalled");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn started(pid: u32) -> u64 {
        process_table::read_one(pid).expect("there").started
    }

    fn spawn(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("started");
        // It says something once it is as it should be.
        let mut said = [0; 1];
        let output = child.stdout.as_mut().expect("piped");
        std::io::Read::read_exact(output, &mut said).expect("said");
        child
    }

    #[tokio::test]
    async fn only_the_process_that_started_then_is_found() {
        let mut child = spawn("echo; exec sleep 600");
        let start = started(child.id());
        assert!(Stranger::find(child.id(), start + 1).is_none(), "another one with its number");
        let found = Stranger::find(child.id(), start).expect("found");
        assert_eq!(found.pid(), child.id());
        assert!(tokio::time::timeout(Duration::from_millis(50), found.ended()).await.is_err());
        assert!(found.stop(Duration::ZERO).await);
        assert!(Stranger::find(child.id(), start).is_none(), "not reaped yet, but dead");
        child.wait().expect("reaped");
        assert!(Stranger::find(child.id(), start).is_none());
        found.ended().await;
    }

    #[tokio::test]
    async fn one_that_ends_by_the_second_sigterm_is_not_killed_and_one_that_is_deaf_is() {
        let twice = "n=0; trap 'n=$((n+1)); [ $n -ge 2 ] && exit 7' TERM; echo; while :; do sleep 0.01; done";
        let deaf = "trap '' TERM; echo; while :; do sleep 0.01; done";
        for (script, bound, code) in
            [(twice, Duration::from_secs(60), Some(7)), (deaf, Duration::from_millis(250), None)]
        {
            let mut child = spawn(script);
            let found = Stranger::find(child.id(), started(child.id())).expect("found");
            assert!(found.stop(bound).await, "{script}");
            assert_eq!(child.wait().expect("ended").code(), code, "{script}");
        }
    }

    #[tokio::test]
    async fn without_a_handle_it_is_watched_by_looking() {
        let mut child = spawn("echo; exec sleep 600");
        let mut found = Stranger::find(child.id(), started(child.id())).expect("found");
        found.handle = None;
        assert!(found.stop(Duration::ZERO).await);
        child.wait().expect("ended");
    }
}
