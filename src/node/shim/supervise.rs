//! Watches the linter and its descendants, and ends them all.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, SysconfVar, getpid, sysconf};

use super::super::process_table;
use crate::linters::process::control::Report;
use crate::linters::process::{Exceeded, Limits, ProcessSpec};

/// The first sample comes early for what explodes at once; later ones are rarer.
const FIRST_SAMPLE: Duration = Duration::from_millis(10);
const SLOWEST_SAMPLES: Duration = Duration::from_millis(200);
/// Sampling takes at most one part in this many of the time, however many processes the host has.
const SAMPLING_SHARE: u32 = 20;
/// How long killed processes get to disappear; only one that hangs in the kernel takes longer. This is for an end that
/// the shim began, at a limit; one that its node wants is not waited for that long (see `linters::process::bounds`).
const END_DEADLINE: Duration = Duration::from_secs(8);
const END_INTERVAL: Duration = Duration::from_millis(5);

/// Returns when neither the linter nor anything it started is left.
///
/// # Errors
/// The system refused something that cannot be done without; all processes have been ended, if possible.
pub(super) fn until_all_is_over(
    linter: Pid,
    spec: &ProcessSpec,
    control: &UnixStream,
    signals: &SigSet,
) -> Result<Report, String> {
    let signals = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| format!("cannot receive signals: {error}"));
    let mut watch = Watch { linter, status: None, peak_memory: 0 };
    let result = match &signals {
        Ok(signals) => watch.until_it_ends(&spec.limits, control, signals),
        Err(error) => Err(error.clone()),
    };
    watch.end_everything(signals.as_ref().ok())?;
    let exceeded = result?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| format!("no CPU time: {error}"))?;
    let cpu = duration(usage.user_time()) + duration(usage.system_time());
    let largest = u64::try_from(usage.max_rss()).unwrap_or(0).saturating_mul(1024);
    let (code, signal) = match watch.status {
        Some(WaitStatus::Exited(_, code)) => (Some(code), None),
        Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
        _ => return Err("the linter's status was lost".into()),
    };
    let exceeded = exceeded
        .or_else(|| cpu_exceeded(signal, cpu, &spec.limits))
        .or_else(|| file_exceeded(code, signal, spec));
    Ok(Report::Ended { code, signal, exceeded, cpu, peak_memory_bytes: watch.peak_memory.max(largest) })
}

struct Watch {
    linter: Pid,
    status: Option<WaitStatus>,
    peak_memory: u64,
}

impl Watch {
    /// Until the linter ends, a limit is exceeded (that one is returned), or the shim is told to stop.
    fn until_it_ends(
        &mut self,
        limits: &Limits,
        control: &UnixStream,
        signals: &SignalFd,
    ) -> Result<Option<Exceeded>, String> {
        let start = now();
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|n| u64::try_from(n).ok());
        let (mut interval, mut next_sample) = (FIRST_SAMPLE, start + FIRST_SAMPLE);
        loop {
            self.reap();
            if self.status.is_some() {
                return Ok(None);
            }
            let time = now();
            if time.duration_since(start) >= limits.wall {
                return Ok(Some(Exceeded::Wall));
            }
            if time >= next_sample {
                let tree = process_table::descendants(&process_table::read(), getpid().as_raw());
                let pages: u64 = tree.iter().map(|process| process.resident_pages).sum();
                let memory = pages.saturating_mul(page.unwrap_or(4096));
                self.peak_memory = self.peak_memory.max(memory);
                // First, since a crowd of processes uses memory too.
                if tree.len() as u64 > u64::from(limits.processes) {
                    return Ok(Some(Exceeded::Processes));
                }
                if memory > limits.memory_bytes {
                    return Ok(Some(Exceeded::Memory));
                }
                let sampled = now();
                interval = next_interval(interval, sampled.duration_since(time));
                next_sample = sampled + interval;
            }
            let wait = (next_sample.saturating_duration_since(now()))
                .min(limits.wall.saturating_sub(now().duration_since(start)));
            if wait_for(Some(control), signals, wait)? {
                return Ok(None);
            }
        }
    }

    /// Collects every child that has ended, adopted ones too; false when there is no child left at all.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(status) if status.pid() == Some(self.linter) => self.status = Some(status),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Kills until no child is left. No child means no descendant either, since orphans become children.
    fn end_everything(&mut self, signals: Option<&SignalFd>) -> Result<(), String> {
        let start = now();
        while self.reap() {
            if now().duration_since(start) > END_DEADLINE {
                return Err("a process could not be killed".into());
            }
            // The group at once, which no fork escapes; then those that left it. Either may be gone already.
            let _ = killpg(self.linter, Signal::SIGKILL);
            for process in process_table::descendants(&process_table::read(), getpid().as_raw()) {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            match signals {
                Some(signals) => drop(wait_for(None, signals, END_INTERVAL)),
                None => std::thread::sleep(END_INTERVAL),
            }
        }
        Ok(())
    }
}

/// Waits for a signal, the node, or the time; true when the shim is to stop.
fn wait_for(control: Option<&UnixStream>, signals: &SignalFd, time: Duration) -> Result<bool, String> {
    // Rounded up, or the last fraction of a millisecond would be spent spinning.
    let timeout = PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
    let mut sources = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    sources.extend(control.map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
    match poll(&mut sources, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(format!("cannot wait: {error}")),
    }
    // A node says nothing after its frame, so whatever there is means its end.
    let mut stop = sources.get(1).is_some_and(|control| control.any().unwrap_or(true));
    while let Ok(Some(signal)) = signals.read_signal() {
        stop |= signal.ssi_signo != Signal::SIGCHLD as u32;
    }
    Ok(stop)
}

/// Half as long again each time, never so often that sampling itself is the load.
fn next_interval(interval: Duration, cost: Duration) -> Duration {
    (interval * 3 / 2).min(SLOWEST_SAMPLES).max(cost.saturating_mul(SAMPLING_SHARE))
}

/// The kernel sends SIGXCPU at the limit, and SIGKILL a second later to who ignores it.
fn cpu_exceeded(signal: Option<i32>, cpu: Duration, limits: &Limits) -> Option<Exceeded> {
    let killed = signal == Some(Signal::SIGKILL as i32) && cpu >= limits.cpu;
    (killed || signal == Some(Signal::SIGXCPU as i32)).then_some(Exceeded::Cpu)
}

/// SIGXFSZ tells it; but CPython ignores that signal and fails with an error, so a file at the limit tells it too.
fn file_exceeded(code: Option<i32>, signal: Option<i32>, spec: &ProcessSpec) -> Option<Exceeded> {
    let signalled = signal == Some(Signal::SIGXFSZ as i32);
    let failed = code.is_some_and(|code| code != 0);
    (signalled || (failed && holds_file_of(&spec.scratch, spec.limits.file_bytes)))
        .then_some(Exceeded::FileSize)
}

fn holds_file_of(folder: &Path, bytes: u64) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => holds_file_of(&entry.path(), bytes),
        Ok(metadata) => metadata.is_file() && metadata.len() >= bytes,
        Err(_) => false,
    })
}

fn duration(time: nix::sys::time::TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a process of its own without a runtime: there is no clock to take"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            wall: Duration::from_secs(1),
            cpu: Duration::from_secs(2),
            memory_bytes: 1,
            file_bytes: 1000,
            output_bytes: 1,
            processes: 1,
        }
    }

    #[test]
    fn samples_grow_rarer_up_to_a_bound_and_never_take_more_than_their_share() {
        let mut interval = FIRST_SAMPLE;
        for _ in 0..20 {
            let next = next_interval(interval, Duration::from_millis(1));
            assert!(next >= interval);
            interval = next;
        }
        assert_eq!(interval, SLOWEST_SAMPLES);
        assert_eq!(next_interval(interval, Duration::from_millis(30)), Duration::from_millis(600));
    }

    #[test]
    fn only_the_signals_of_the_limit_blame_it() {
        let long = Duration::from_secs(3);
        assert_eq!(cpu_exceeded(Some(Signal::SIGXCPU as i32), long, &limits()), Some(Exceeded::Cpu));
        assert_eq!(cpu_exceeded(Some(Signal::SIGKILL as i32), long, &limits()), Some(Exceeded::Cpu));
        assert_eq!(cpu_exceeded(Some(Signal::SIGKILL as i32), Duration::ZERO, &limits()), None);
        assert_eq!(cpu_exceeded(Some(Signal::SIGSEGV as i32), long, &limits()), None);
        assert_eq!(cpu_exceeded(None, long, &limits()), None);
    }

    #[test]
    fn a_file_at_the_limit_blames_it_only_if_the_linter_failed() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("deep")).unwrap();
        let spec = |file_bytes| ProcessSpec {
            program: "p".into(),
            arguments: vec![],
            environment: vec![],
            directory: "/".into(),
            scratch: scratch.path().into(),
            limits: Limits { file_bytes, ..limits() },
        };
        assert_eq!(file_exceeded(Some(1), None, &spec(1000)), None);
        fs::write(scratch.path().join("deep/file"), [0; 1000]).unwrap();
        assert_eq!(file_exceeded(Some(1), None, &spec(1000)), Some(Exceeded::FileSize));
        assert_eq!(file_exceeded(Some(1), None, &spec(1001)), None);
        assert_eq!(file_exceeded(Some(0), None, &spec(1000)), None);
        let signal = Some(Signal::SIGXFSZ as i32);
        assert_eq!(file_exceeded(None, signal, &spec(1001)), Some(Exceeded::FileSize));
    }
}
