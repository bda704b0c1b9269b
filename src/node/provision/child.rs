//! Runs an installer or a version probe with a deadline, its output in a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::time::Instant;

/// What is kept of an output: its end, where errors are.
const KEPT_BYTES: u64 = 256 << 10;
const FIRST_LOOK: Duration = Duration::from_millis(2);
const SLOWEST_LOOKS: Duration = Duration::from_millis(50);

/// How a child ended within its deadline.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// The end of standard output and standard error in the order of writing.
    pub(super) output: String,
}

/// Why a child did not end by itself.
pub(super) enum Failure {
    /// It could not be started or waited for.
    Start(io::Error),
    /// It was killed at the deadline.
    Deadline,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Start(error)
    }
}

/// Runs `command` to its end; the caller has set its standard input.
///
/// Its output goes to a file rather than a pipe, so neither a reader nor a grandchild that keeps it open
/// can make anybody wait.
pub(super) fn run(command: &mut Command, deadline: Duration) -> Result<Ended, Failure> {
    let mut output = tempfile::tempfile()?;
    let start = Instant::now();
    let mut child = command.stdout(output.try_clone()?).stderr(output.try_clone()?).spawn()?;
    let mut pause = FIRST_LOOK;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended { status, output: tail(&mut output)? });
        }
        if start.elapsed() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(Failure::Deadline);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(SLOWEST_LOOKS);
    }
}

fn tail(file: &mut File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(KEPT_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
