//! Linters that do what a test needs, in a folder that the product takes for a virtual environment.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::lint_command::{World, managed};

/// Beneath `world/venv`: the real ruff, and beside it whatever [`FakeLinters::add`] adds.
pub(crate) struct FakeLinters {
    folder: PathBuf,
}

impl FakeLinters {
    pub(crate) fn new(world: &World) -> Self {
        let folder = world.path("venv");
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("pyvenv.cfg"), "version = 3.11.2\n").unwrap();
        let fakes = Self { folder };
        fakes.link("ruff", &managed("ruff"));
        fakes.link("python", &managed("ruff").with_file_name("python"));
        fakes
    }

    /// A program of the environment that is another one: its path, by which processes are found, is in the world.
    pub(crate) fn link(&self, name: &str, program: &Path) {
        std::os::unix::fs::symlink(program, self.folder.join("bin").join(name)).unwrap();
    }

    /// A linter that says its version, and else does what the shell commands do. `$bin` is the folder with all.
    pub(crate) fn add(&self, tool: &str, commands: &str) -> &Self {
        let version = match tool {
            "mypy" => "mypy 2.4.1 (compiled: yes)",
            "flake8" => "7.5.0 (mccabe: 0.7.0)",
            "pylint" => "pylint 4.1.4",
            _ => "bandit 1.9.4",
        };
        let script = format!(
            "#!/bin/sh\nbin='{}'\nif [ \"$1\" = --version ]; then echo '{version}'; exit; fi\n{commands}\n",
            self.folder.join("bin").display()
        );
        // In another process: if this one had the file open for writing while a parallel test forks, starting it
        // could fail with "text file busy".
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(self.folder.join("bin").join(tool))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        self
    }

    /// The value of `--toolchain`.
    pub(crate) fn argument(&self) -> &str {
        self.folder.to_str().unwrap()
    }
}
