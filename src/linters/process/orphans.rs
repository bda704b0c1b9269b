//! Finds processes that outlived a shim that was killed.
//!
//! While the shim lives it ends everything itself. If it is killed, the kernel ends the linter with it, but
//! not what the linter had started. Those still carry the mark in their environment, wherever they moved.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often the search is repeated while it still finds processes.
const ROUNDS: u32 = 200;

/// Ends every process whose environment holds `name=value`; blocks for at most about two seconds, usually for milliseconds.
pub(super) fn end_marked(name: &str, value: &str) {
    let entry = format!("{name}={value}");
    for _ in 0..ROUNDS {
        let found = marked(entry.as_bytes());
        if found.is_empty() {
            return;
        }
        for pid in found {
            // It may be gone by now: that is what is wanted.
            let _ = kill(pid, Signal::SIGKILL);
        }
        // Killing is asynchronous, and a process may have forked since the list was made.
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn marked(entry: &[u8]) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|folder| folder.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| holds(&environment, entry))
        })
        .collect()
}

fn holds(environment: &[u8], entry: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|variable| variable == entry)
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn only_the_whole_variable_counts() {
        assert!(holds(b"A=1\0MARK=7\0", b"MARK=7"));
        assert!(holds(b"MARK=7", b"MARK=7"));
        for other in [&b""[..], b"MARK=77\0", b"XMARK=7\0", b"A=MARK=7\0"] {
            assert!(!holds(other, b"MARK=7"));
        }
    }
}
