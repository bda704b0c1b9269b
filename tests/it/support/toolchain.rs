//! The five linters in the versions the fixtures were recorded with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use lintmesh::linters::adapters;
use lintmesh::linters::toolchain::{ToolBinary, Toolchain, ToolchainMode};
use lintmesh::types::{Digest, ToolName};

use super::cache::made_once;
use super::projects::run;

const PINNED: [&str; 5] = ["bandit==1.9.4", "flake8==7.5.0", "mypy==2.4.1", "pylint==4.1.4", "ruff==0.17.6"];

/// The virtual environment named by `LINTMESH_TEST_TOOLCHAIN`, or one made once beneath `target/`.
pub(crate) fn toolchain() -> Toolchain {
    let given = std::env::var_os("LINTMESH_TEST_TOOLCHAIN").map(PathBuf::from);
    let environment = given.unwrap_or_else(|| {
        made_once("toolchain", |folder| {
            let venv = folder.join("venv");
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
            run(Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet"]).args(PINNED));
        })
        .join("venv")
    });
    let tools = adapters().iter().map(|adapter| {
        // By module, not by script: a script's first line still names the folder in which it was made.
        let program = environment.join("bin/python");
        let prefix = vec!["-m".to_owned(), adapter.name().to_owned()];
        let printed = Command::new(&program).args(&prefix).arg("--version").output().expect("installed");
        let version = adapter.version(&String::from_utf8_lossy(&printed.stdout)).expect("a version");
        (ToolName::new(adapter.name()).expect("valid"), ToolBinary::Present { version, program, prefix })
    });
    let tools: BTreeMap<_, _> = tools.collect();
    let id = Digest::of(format!("{tools:?}").as_bytes());
    Toolchain { id, mode: ToolchainMode::Environment, tools }
}
