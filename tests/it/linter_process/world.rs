//! A scratch folder, limits that nothing reaches by accident, and a look at who is left.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lintmesh::linters::process::{Finished, Limits, ProcessError, ProcessSpec, run};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

pub(super) const SHIM: &str = env!("CARGO_BIN_EXE_lintmesh");
/// Far beyond what anything here takes, so that only a real hang fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
pub(super) const MIB: u64 = 1 << 20;

pub(super) struct World {
    scratch: tempfile::TempDir,
    pub(super) limits: Limits,
}

impl World {
    pub(super) fn new() -> Self {
        let limits = Limits {
            wall: DEADLINE,
            cpu: DEADLINE,
            memory_bytes: 1024 * MIB,
            file_bytes: 64 * MIB,
            output_bytes: 16 * MIB,
            processes: 64,
        };
        Self { scratch: tempfile::tempdir().unwrap(), limits }
    }

    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn spec(&self, program: &str, arguments: Vec<OsString>) -> ProcessSpec {
        ProcessSpec {
            program: program.into(),
            arguments,
            environment: vec![("WORLD".into(), self.path().into())],
            directory: "/".into(),
            scratch: self.path().into(),
            limits: self.limits.clone(),
        }
    }

    pub(super) fn python(&self, code: &str) -> ProcessSpec {
        self.spec(&python(), vec!["-c".into(), code.into()])
    }

    /// Waits until the victim has said, by a file in the scratch folder, that it is that far.
    pub(super) async fn until_exists(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        eventually(&format!("{} appears", path.display()), || path.exists()).await;
        path
    }

    /// Every process that has this world in its environment, zombies excluded (they have no environment).
    pub(super) fn processes(&self) -> Vec<Pid> {
        let mark = format!("WORLD={}", self.path().display());
        let folders = fs::read_dir("/proc").unwrap().flatten();
        folders
            .filter_map(|folder| folder.file_name().to_str()?.parse().ok().map(Pid::from_raw))
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/environ"))
                    .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()))
            })
            .collect()
    }

    pub(super) fn assert_nobody_left(&self) {
        assert_eq!(self.processes(), [], "processes outlived their run");
    }
}

pub(super) fn python() -> String {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().into()
}

pub(super) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn run_it(spec: ProcessSpec) -> Result<Finished, ProcessError> {
    run(spec, Path::new(SHIM), &CancellationToken::new()).await
}

pub(super) async fn finish(spec: ProcessSpec) -> Finished {
    run_it(spec).await.unwrap()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
