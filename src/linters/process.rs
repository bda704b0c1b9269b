//! Runs one linter process under limits. The only part of `linters` that touches the operating system.
//!
//! The node never starts a linter itself: it starts the shim (`lintmesh exec`), which enforces the limits
//! from beside the linter and outlives neither its node nor its linter.

mod bounds;
pub mod control;
mod orphans;
mod runner;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

pub use bounds::{END_BOUND, WALL_MARGIN};
pub use runner::{run, run_watched};

/// What a process may use. Each limit ends the process and everything it started.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Elapsed time.
    pub wall: Duration,
    /// CPU time of the process.
    pub cpu: Duration,
    /// Memory of the process and all its descendants, in bytes.
    pub memory_bytes: u64,
    /// The largest file it may write, in bytes.
    pub file_bytes: u64,
    /// What it may print on standard output and standard error together, in bytes.
    pub output_bytes: u64,
    /// How many processes it and its descendants may be at a time.
    pub processes: u32,
}

/// A program and the world it gets to see.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment beside the fixed part (`PATH`, `HOME`, `LANG`, `TMPDIR`, ... point to harmless values).
    pub environment: Vec<(String, OsString)>,
    /// Its working directory: the root of the tree, readable only.
    pub directory: PathBuf,
    /// The one folder it may write to; `HOME` and `TMPDIR` are inside.
    pub scratch: PathBuf,
    /// Its limits.
    pub limits: Limits,
}

/// Which limit ended a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exceeded {
    /// See [`Limits::wall`].
    Wall,
    /// See [`Limits::cpu`].
    Cpu,
    /// See [`Limits::memory_bytes`].
    Memory,
    /// See [`Limits::file_bytes`].
    FileSize,
    /// See [`Limits::output_bytes`].
    Output,
    /// See [`Limits::processes`].
    Processes,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit status, if it exited.
    pub code: Option<i32>,
    /// The signal, if a signal ended it.
    pub signal: Option<i32>,
    /// The limit that ended it, if one did.
    pub exceeded: Option<Exceeded>,
    /// What it printed on standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// What it printed on standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// Elapsed time.
    pub wall: Duration,
    /// CPU time of it and its waited-for descendants.
    pub cpu: Duration,
}

impl Finished {
    /// The signal, if it is one with which somebody else ends a process: a service manager that stops the node, its
    /// shim that was told to stop, a kernel without memory. It says nothing about the program, as SIGSEGV or a limit
    /// does.
    pub fn ended_from_outside(&self) -> Option<Signal> {
        let signal = self.signal.filter(|_| self.code.is_none() && self.exceeded.is_none())?;
        let sent = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGKILL, Signal::SIGTERM];
        sent.into_iter().find(|sent| *sent as i32 == signal)
    }
}

/// What is seen of a process while it runs, for whoever watches whether it moves.
#[derive(Debug, Default)]
pub struct Progress {
    shim: AtomicU32,
    printed: AtomicU64,
}

impl Progress {
    /// The process id of the shim, whose descendants are the program's processes; none before it is started.
    pub fn shim(&self) -> Option<u32> {
        Some(self.shim.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Bytes that the program has printed.
    pub fn printed(&self) -> u64 {
        self.printed.load(Ordering::Relaxed)
    }
}

/// Why a process gave no [`Finished`].
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started: the program is missing or may not be run.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The shim around it broke.
    #[error("the shim around {} failed: {reason}", program.display())]
    Shim {
        /// The program.
        program: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The caller cancelled; all its processes are gone.
    #[error("cancelled")]
    Cancelled,
}
