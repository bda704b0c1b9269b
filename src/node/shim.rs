//! The shim: the process between a node and a linter.
//!
//! It restricts itself, starts the linter, watches it and its descendants, and ends all of them before it
//! ends. Every way to die leads to the same result: the node's death closes the control socket, the shim's
//! own death reaches the linter as its parent-death signal. It must start within milliseconds, so
//! there is no runtime, no argument parser and no log here.

pub(super) mod environment;
mod limits;
mod sandbox;
mod supervise;

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid, setsid};

use crate::linters::process::ProcessSpec;
use crate::linters::process::control::{self, Report};
pub use sandbox::{SandboxStatus, sandbox_status};

/// The whole life of the shim. Its standard input must be the control socket of a node.
pub fn main() -> ExitCode {
    let Ok((mut control, spec)) = receive() else {
        // Standard error is the linter's, but there is no linter: a person typed this.
        let _ =
            writeln!(io::stderr(), "lintmesh {}: only a lintmesh node can start this", control::SUBCOMMAND);
        return ExitCode::from(2);
    };
    let report = run(&spec, &control);
    let sent = serde_json::to_vec(&report).map_err(io::Error::from).and_then(|text| control.write_all(&text));
    // The node takes a status other than 0 for "no report" and searches for processes left behind.
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn receive() -> io::Result<(UnixStream, ProcessSpec)> {
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let spec = control::decode(&mut control)?;
    Ok((control, spec))
}

fn run(spec: &ProcessSpec, control: &UnixStream) -> Report {
    let broken = |reason: String| Report::Broken { reason };
    let signals = match prepare(spec) {
        Ok(signals) => signals,
        Err(reason) => return broken(reason),
    };
    match start(spec) {
        Ok(linter) => supervise::until_all_is_over(linter, spec, control, &signals).unwrap_or_else(broken),
        Err(error) => match error.raw_os_error() {
            Some(errno) => Report::NotStarted { errno },
            None => broken(error.to_string()),
        },
    }
}

/// Everything that restricts the shim itself and is inherited by the linter.
fn prepare(spec: &ProcessSpec) -> Result<SigSet, String> {
    // A session of its own: a Ctrl-C for the node does not hit the linter beside the shim's back.
    setsid().map_err(|error| format!("cannot leave the session: {error}"))?;
    // Processes whose parent dies come to the shim, so that none is lost.
    prctl::set_child_subreaper(true).map_err(|error| format!("cannot adopt orphans: {error}"))?;
    for folder in environment::folders(&spec.scratch) {
        fs::create_dir_all(&folder)
            .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    }
    // Here, not in the child: there a missing folder would look like a missing program.
    std::env::set_current_dir(&spec.directory)
        .map_err(|error| format!("cannot enter {}: {error}", spec.directory.display()))?;
    limits::apply(&spec.limits)?;
    sandbox::restrict(&spec.scratch).map_err(|error| format!("cannot restrict itself: {error}"))?;
    // Blocked before the start, so that not even the first one is missed.
    let signals: SigSet =
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;
    Ok(signals)
}

fn start(spec: &ProcessSpec) -> io::Result<Pid> {
    let shim = getpid();
    let mut alone = Some(sandbox::linter_alone().map_err(io::Error::other)?);
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.arguments)
        .env_clear()
        .envs(environment::variables(spec))
        .envs(std::env::var_os(control::MARK).map(|mark| (control::MARK, mark)))
        .stdin(Stdio::null())
        // A group of its own: a linter that signals its group does not hit the shim.
        .process_group(0);
    let in_child = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The shim may have died before the line above; then nobody would tell.
        if getppid() != shim {
            return Err(io::Error::from(nix::errno::Errno::ESRCH));
        }
        // The mask is inherited through exec, and a linter that cannot be terminated is rude.
        SigSet::empty().thread_set_mask()?;
        if let Some(alone) = alone.take()
            && alone.restrict_self().is_err()
        {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes prctl(2),
    // getppid(2), pthread_sigmask(3), landlock_restrict_self(2) and close(2) only, and allocates nothing: errors are
    // plain numbers, and what it captures is a number and a descriptor that was opened before. The shim has one thread, so no lock can be held by another; that thread is the main one, which lives
    // as long as the shim, so the parent-death signal means the shim's death.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(in_child);
    }
    let linter = command.spawn()?;
    let pid = i32::try_from(linter.id()).map_err(io::Error::other)?;
    Ok(Pid::from_raw(pid))
}
