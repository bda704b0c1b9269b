//! Linters that do what a test needs, in a virtual environment that the product takes as one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A virtual environment whose only linter is a `ruff` that waits, with a child process, until the gate is opened;
/// then it finds nothing.
pub(crate) struct GatedRuff {
    dir: tempfile::TempDir,
}

impl GatedRuff {
    pub(crate) fn new() -> Self {
        Self::and_then("")
    }

    /// One that then keeps its core busy for some hundredths of a second.
    pub(crate) fn busy() -> Self {
        Self::and_then("i=0\nwhile [ $i -lt 50000 ]; do i=$((i+1)); done\n")
    }

    fn and_then(commands: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("pyvenv.cfg"), "version = 3.11.2\n").expect("written");
        fs::create_dir(dir.path().join("bin")).expect("created");
        let gated = Self { dir };
        let gate = gated.gate();
        let script = format!(
            "#!/bin/sh\n\
             wait_for_gate() {{ while [ ! -e '{gate}' ]; do sleep 0.05; done; }}\n\
             case \"$1\" in\n\
             --version) echo 'ruff 1.0.0'; exit 0;;\n\
             --child) wait_for_gate; exit 0;;\n\
             esac\n\
             \"$0\" --child </dev/null >/dev/null 2>&1 &\n\
             wait_for_gate\n\
             wait\n\
             {commands}\
             echo '[]'\n",
            gate = gate.display()
        );
        executable(&gated.program(), &script);
        executable(&gated.dir.path().join("bin/python"), "#!/bin/sh\nexit 1\n");
        gated
    }

    /// Settings that make nodes use it.
    pub(crate) fn settings(&self) -> String {
        format!("[toolchain]\nmode = \"{}\"\n", self.dir.path().display())
    }

    /// Lets every run of it end, those to come too.
    pub(crate) fn open(&self) {
        fs::write(self.gate(), "").expect("written");
    }

    /// Its running processes: each run of it has two.
    pub(crate) fn running(&self) -> usize {
        self.pids().len()
    }

    /// Their ids.
    pub(crate) fn pids(&self) -> BTreeSet<i32> {
        let program = self.program();
        let entries = fs::read_dir("/proc").expect("procfs").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = command_line(*pid);
            // By the interpreter's own argument: the shim's command line names the program too.
            line.split(|byte| *byte == 0).nth(1) == Some(program.as_os_str().as_encoded_bytes())
                // A shell that has forked and is about to become `sleep` looks like its parent for a moment.
                && parent(*pid).is_none_or(|parent| command_line(parent) != line)
        })
        .collect()
    }

    fn gate(&self) -> PathBuf {
        self.dir.path().join("gate")
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("bin/ruff")
    }
}

fn command_line(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn executable(path: &Path, script: &str) {
    fs::write(path, script).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("changed");
}
