//! Starts nodes of other machines again through a command that the operator configured.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::KILL_BOUND;
use crate::types::NodeId;

/// What is read of one output of the command; the rest is thrown away.
const MOST_OUTPUT: u64 = 64 << 10;
/// The longest line that is told.
const LONGEST_LINE: usize = 512;
/// How long the command's outputs may stay open after it ended: something it started may hold them.
const OUTPUT_BOUND: Duration = Duration::from_secs(1);

/// Why a command did not start a node.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is nothing to run.
    #[error("nodes.restart_command is empty")]
    Empty,
    /// The program could not be run: correct `nodes.restart_command`.
    #[error("cannot run {program} of nodes.restart_command: {source}")]
    Run {
        /// What was to be run.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It said that it failed.
    #[error("nodes.restart_command ended with {status}{}", said(.last_line))]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last line of its standard error.
        last_line: String,
    },
    /// It took too long and was killed.
    #[error("nodes.restart_command did not end within {} s{}", bound.as_secs_f64(), said(.last_line))]
    TimedOut {
        /// How long it might take.
        bound: Duration,
        /// The last line of its standard error.
        last_line: String,
    },
}

fn said(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

/// What is known of the node that is to be started.
#[derive(Debug, Clone)]
pub struct Occasion {
    /// Which node.
    pub node_id: NodeId,
    /// Where its peers reached it; empty if it never joined.
    pub endpoint: String,
    /// Why it is FAILED; empty if an operator wants it started.
    pub cause: String,
}

/// A command that starts a node.
#[derive(Debug, Clone)]
pub struct RestartCommand {
    /// The program and its arguments, with placeholders.
    pub words: Vec<String>,
    /// How long one call may take.
    pub bound: Duration,
}

/// The processes of a command. Dropped, they are killed: also when nobody waits for the command any more.
struct Group(Option<Pid>);

impl Group {
    fn kill(&self) {
        if let Some(group) = self.0 {
            // Fails only if all of them have ended.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    /// The command has ended and was reaped: its number may be another group's from here on.
    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl RestartCommand {
    /// Runs the command, without a shell, and waits for its end.
    pub async fn run(&self, occasion: &Occasion) -> Result<(), CommandError> {
        let mut words = self.words.iter().map(|word| filled(word, occasion));
        let program = words.next().ok_or(CommandError::Empty)?;
        let mut child = Command::new(&program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it started can be ended with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| CommandError::Run { program, source })?;
        // Dropped before the child is, which reaps it: so the number still means this group.
        let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw));
        let last_line = Arc::new(Mutex::new(String::new()));
        let out = child.stdout.take().map(|out| tokio::spawn(tell(out, occasion.node_id.clone(), None)));
        let err = child
            .stderr
            .take()
            .map(|err| tokio::spawn(tell(err, occasion.node_id.clone(), Some(Arc::clone(&last_line)))));
        let ended = tokio::time::timeout(self.bound, child.wait()).await;
        if ended.is_err() {
            group.kill();
            if tokio::time::timeout(KILL_BOUND, child.wait()).await.is_err() {
                tracing::error!(node = %occasion.node_id, "nodes.restart_command could not be killed");
            }
        }
        group.forget();
        for reader in [out, err].into_iter().flatten() {
            let stop = reader.abort_handle();
            if tokio::time::timeout(OUTPUT_BOUND, reader).await.is_err() {
                stop.abort();
            }
        }
        let last_line = last_line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(CommandError::Failed { status, last_line }),
            Ok(Err(source)) => Err(CommandError::Run { program: self.words.concat(), source }),
            Err(_) => Err(CommandError::TimedOut { bound: self.bound, last_line }),
        }
    }
}

/// A word with its placeholders filled in. What is filled in is not looked at again.
fn filled(word: &str, occasion: &Occasion) -> String {
    let mut text = String::new();
    let mut rest = word;
    let names = [
        ("{node_id}", occasion.node_id.as_str()),
        ("{endpoint}", &occasion.endpoint),
        ("{cause}", &occasion.cause),
    ];
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        match names.iter().find(|(name, _)| from.starts_with(name)) {
            Some((name, value)) => {
                text.push_str(value);
                rest = &from[name.len()..];
            }
            None => {
                text.push('{');
                rest = &from[1..];
            }
        }
    }
    text + rest
}

/// Logs an output line by line, and keeps the last one. What is beyond the bound is read and thrown away, so that the
/// command is not held up.
async fn tell(output: impl AsyncRead + Unpin, node: NodeId, last: Option<Arc<Mutex<String>>>) {
    let mut output = BufReader::new(output);
    let mut bounded = (&mut output).take(MOST_OUTPUT);
    let mut line = Vec::new();
    while let Ok(1..) = bounded.read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim_end().chars().take(LONGEST_LINE).collect();
        line.clear();
        if text.is_empty() {
            continue;
        }
        tracing::info!(%node, output = %text.escape_debug(), "nodes.restart_command says");
        if let Some(last) = &last {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
    }
    // An output that breaks off has ended.
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::node::process_table;

    fn occasion() -> Occasion {
        Occasion {
            node_id: NodeId::new("backend-dev").expect("valid"),
            endpoint: "10.0.0.7:4000".into(),
            cause: "SESSION_LOST".into(),
        }
    }

    fn command(words: &[&str], bound: Duration) -> RestartCommand {
        RestartCommand { words: words.iter().map(|word| (*word).to_owned()).collect(), bound }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn placeholders_are_filled_in_once_and_other_braces_stay() {
        let given = |word: &str| filled(word, &occasion());
        assert_eq!(given("{node_id}@{endpoint}: {cause}"), "backend-dev@10.0.0.7:4000: SESSION_LOST");
        assert_eq!(given("{\"x\": \"{node_id}\"}"), "{\"x\": \"backend-dev\"}");
        let mut odd = occasion();
        odd.endpoint = "{cause}".into();
        assert_eq!(filled("{endpoint}", &odd), "{cause}");
    }

    #[tokio::test]
    async fn arguments_reach_the_program_as_they_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("$(node) {node_id}");
        let named = command(&["touch", file.to_str().expect("UTF-8")], LONG);
        named.run(&occasion()).await.expect("no shell reads it");
        assert!(dir.path().join("$(node) backend-dev").exists());
    }

    #[tokio::test]
    async fn a_failure_says_status_and_last_line() {
        let failing = "echo out; echo first >&2; echo no such pod >&2; exit 3";
        let error =
            command(&["sh", "-c", failing], LONG).run(&occasion()).await.expect_err("failed").to_string();
        assert_eq!(error, "nodes.restart_command ended with exit status: 3: no such pod");
        let error = command(&["/nowhere/x"], LONG).run(&occasion()).await.expect_err("none").to_string();
        assert!(error.starts_with("cannot run /nowhere/x of nodes.restart_command: "), "{error}");
        assert!(matches!(command(&[], LONG).run(&occasion()).await, Err(CommandError::Empty)));
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_what_it_started() {
        let begun = Instant::now();
        let hanging = "echo waiting >&2; sleep 3600 & sleep 3600";
        let error = command(&["sh", "-c", hanging], Duration::from_millis(500)).run(&occasion()).await;
        let error = error.expect_err("too long").to_string();
        assert_eq!(error, "nodes.restart_command did not end within 0.5 s: waiting");
        assert!(begun.elapsed() < LONG);
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().expect("a folder");
        let (told, part) = (dir.path().join("pid"), dir.path().join("part"));
        let hanging = format!(
            "sleep 3600 & echo $! > {part}; mv {part} {told}; wait",
            part = part.display(),
            told = told.display()
        );
        let stopped = command(&["sh", "-c", &hanging], LONG);
        let running = tokio::spawn(async move { stopped.run(&occasion()).await });
        let until = Instant::now() + LONG;
        let started = loop {
            if let Ok(pid) = std::fs::read_to_string(&told) {
                break pid.trim().parse().expect("a number");
            }
            assert!(Instant::now() < until, "it starts a process");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let lives = || process_table::read_one(started).is_some_and(|process| !process.has_ended);
        assert!(lives());
        running.abort();
        while lives() {
            assert!(Instant::now() < until, "it is killed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn endless_output_neither_holds_it_up_nor_is_kept() {
        let chatty = "head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2";
        command(&["sh", "-c", chatty], LONG).run(&occasion()).await.expect("ends");
        let left_open = "sleep 20 & exit 0";
        let begun = Instant::now();
        command(&["sh", "-c", left_open], LONG).run(&occasion()).await.expect("ends");
        assert!(begun.elapsed() < LONG);
    }
}
