//! `lintmesh lint` as a user starts it: the real binary in a folder of its own.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use lintmesh::linters::toolchain::ToolBinary;
use lintmesh::types::ToolName;
use serde_json::Value;

use super::toolchain::toolchain;

/// Far beyond what any run here takes, so that only a real hang fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(240);

/// A folder with a tree to lint, a home and a folder for temporary files, all empty at first.
pub(crate) struct World {
    folder: tempfile::TempDir,
    environment: Vec<(OsString, OsString)>,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tree", "home", "tmp"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // Without it, a configuration above the tree would mark the project's root.
        fs::write(folder.path().join("tree/lintmesh.toml"), "").unwrap();
        let mut world = Self { folder, environment: Vec::new() };
        world.set("PATH", std::env::var_os("PATH").unwrap());
        world.set("HOME", world.path("home"));
        world.set("TMPDIR", world.path("tmp"));
        world
    }

    /// A path beneath the folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// Writes a file of the tree, with the folders above it.
    pub(crate) fn file(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> &Self {
        let path = self.tree().join(Path::new(name.as_ref()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Sets a variable of the command's environment, which has nothing else of the tester's.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets a setting.
    pub(crate) fn setting(&mut self, key: &str, value: &str) -> &mut Self {
        self.set(&format!("LINTMESH__{}", key.replace('.', "__").to_uppercase()), value)
    }

    /// The command, in the tree, with the managed toolchain that all tests share.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lintmesh"));
        command.arg("lint").args(arguments).current_dir(self.tree()).env_clear();
        command.env("LINTMESH__TOOLCHAIN__CACHE_DIR", cache_dir());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn lint(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).spawn().unwrap())
    }

    /// Runs the command and parses the JSON report from its standard output.
    pub(crate) fn report(&self, arguments: &[&str]) -> (Ran, Report) {
        let ran = self.lint(&[&["--format", "json"], arguments].concat());
        let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        (ran, Report(report))
    }

    /// Processes, zombies excluded, with this folder on their command line or in their environment.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mark = self.folder.path().as_os_str().as_bytes();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let marked = pids.filter_map(|pid| {
            let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let line = read("cmdline");
            let found = |bytes: &[u8]| bytes.windows(mark.len()).any(|part| part == mark);
            (found(&line) || found(&read("environ")))
                .then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        });
        marked.collect()
    }

    /// Waits until such a process exists whose command line contains `part`.
    pub(crate) fn until_runs(&self, part: &str) {
        eventually(part, || self.processes().iter().any(|(_, line)| line.contains(part)));
    }

    /// Fails unless all those processes end.
    pub(crate) fn assert_nobody_left(&self) {
        eventually("all processes are gone", || self.processes().is_empty());
    }

    /// What is in the folder for temporary files.
    pub(crate) fn temporary(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

/// The program of a tool in the managed toolchain.
pub(crate) fn managed(tool: &str) -> PathBuf {
    match &toolchain().tools[&ToolName::new(tool).unwrap()] {
        ToolBinary::Present { program, .. } => program.clone(),
        ToolBinary::Missing { reason } => panic!("{tool}: {reason}"),
    }
}

/// The cache folder that holds the managed toolchain: `CACHE/toolchains/ID/bin/ruff`.
fn cache_dir() -> PathBuf {
    managed("ruff").ancestors().nth(4).unwrap().to_owned()
}

pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How the command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// None if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Waits for the command, and kills it if it hangs.
pub(crate) fn finish(child: Child) -> Ran {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (ended, end) = std::sync::mpsc::channel();
    let watchdog = std::thread::spawn(move || {
        let hangs = end.recv_timeout(DEADLINE).is_err();
        if hangs {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        hangs
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    ended.send(()).ok();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!watchdog.join().unwrap(), "it hung: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    ran
}

/// A JSON report.
#[derive(Debug)]
pub(crate) struct Report(pub(crate) Value);

impl Report {
    pub(crate) fn outcome(&self) -> &str {
        self.0["result"]["outcome"].as_str().unwrap()
    }

    /// Kind and message of a tool's error.
    pub(crate) fn error(&self, tool: &str) -> Option<(&str, &str)> {
        let error = &self.0["result"]["tools"][tool]["error"];
        Some((error["kind"].as_str()?, error["message"].as_str()?))
    }

    /// Each report of each tool as (path, tool, line, code, message).
    pub(crate) fn reported(&self) -> BTreeSet<(String, String, i64, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |diagnostic: &Value| -> Vec<_> {
            let by = diagnostic["reported_by"].as_array().unwrap();
            let one = |by: &Value| {
                let line = by["line"].as_i64().unwrap_or_default();
                (text(&diagnostic["path"]), text(&by["tool"]), line, text(&by["code"]), text(&by["message"]))
            };
            by.iter().map(one).collect()
        };
        self.0["result"]["diagnostics"].as_array().unwrap().iter().flat_map(of).collect()
    }

    /// The codes that a tool reported for a file.
    pub(crate) fn codes(&self, tool: &str, path: &str) -> BTreeSet<String> {
        let reported = self.reported().into_iter();
        reported.filter(|(p, t, ..)| p == path && t == tool).map(|(_, _, _, code, _)| code).collect()
    }
}
