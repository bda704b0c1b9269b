//! Toolchains that somebody else installed: looks the tools up and asks each for its version.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::child::{self, Failure};
use crate::linters::toolchain::ToolBinary;
use crate::node::shim::environment;

/// A tool that takes longer to say its version is not usable.
const DEADLINE: Duration = Duration::from_secs(30);

/// Finds an executable file by name, as a shell would.
pub(super) fn look_up(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        // An empty or relative entry means the working directory, which may be somebody's tree.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether this is a file that somebody may execute.
pub(super) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Asks each tool, all at the same time; `find` says where it is or why it is not there.
pub(super) fn ask_all<'a>(
    tools: &[&'a str],
    find: impl Fn(&str) -> Result<PathBuf, String>,
) -> Vec<(&'a str, ToolBinary)> {
    let found: Vec<_> = tools.iter().map(|tool| (*tool, find(tool))).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = found
            .into_iter()
            .map(|(tool, program)| {
                (tool, scope.spawn(move || program.and_then(|program| ask(tool, program))))
            })
            .collect();
        asked
            .into_iter()
            .map(|(tool, answer)| {
                let answer = answer.join().unwrap_or_else(|_| Err(format!("{tool} could not be asked")));
                (tool, answer.unwrap_or_else(|reason| ToolBinary::Missing { reason }))
            })
            .collect()
    })
}

/// Asks in the environment that the tool will really run in: what works only with more is missing.
fn ask(tool: &str, program: PathBuf) -> Result<ToolBinary, String> {
    let shown = program.display();
    let remedy = format!("reinstall {tool}, or use the managed toolchain (`--toolchain managed`)");
    let scratch = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    for folder in environment::folders(scratch.path()) {
        std::fs::create_dir(&folder).map_err(|error| format!("no temporary folder: {error}"))?;
    }
    let mut command = Command::new(&program);
    command.arg("--version").stdin(Stdio::null()).current_dir(scratch.path());
    command.env_clear().envs(environment::fixed(scratch.path()));
    let ended = match child::run(&mut command, DEADLINE) {
        Ok(ended) => ended,
        Err(Failure::Start(error)) => return Err(format!("{shown} cannot be started: {error}; {remedy}")),
        Err(Failure::Deadline) => {
            return Err(format!("{shown} --version took longer than {} s; {remedy}", DEADLINE.as_secs()));
        }
    };
    match parse_version(&ended.output).filter(|_| ended.status.success()) {
        Some(version) => Ok(ToolBinary::Present { version: version.to_owned(), program, prefix: Vec::new() }),
        None => {
            let last =
                ended.output.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing");
            let last: String = last.chars().take(200).collect();
            Err(format!("{shown} --version failed ({}): {last}; {remedy}", ended.status))
        }
    }
}

/// The version in what a tool prints for `--version`: the first word of the first line that starts with a digit.
fn parse_version(output: &str) -> Option<&str> {
    let line = output.lines().find(|line| !line.trim().is_empty())?;
    line.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tools_own_form_of_version_is_understood() {
        for (output, version) in [
            ("7.5.0 (mccabe: 0.7.0, pycodestyle: 2.15.0) CPython 3.11.7 on Linux\n", Some("7.5.0")),
            ("pylint 4.1.4\nastroid 4.3.4\nPython 3.11.7\n", Some("4.1.4")),
            ("ruff 0.17.6\n", Some("0.17.6")),
            ("mypy 2.4.1 (compiled: yes)\n", Some("2.4.1")),
            ("bandit 1.9.4\n  python version = 3.11.7\n", Some("1.9.4")),
            ("\n\n", None),
            ("Traceback (most recent call last):\n 1", None),
        ] {
            assert_eq!(parse_version(output), version, "{output}");
        }
    }

    #[test]
    fn relative_folders_of_the_path_are_not_searched() {
        assert_eq!(look_up("sh", OsStr::new(":.:bin")), None);
        assert!(look_up("sh", OsStr::new("/nowhere:/bin")).is_some());
    }
}
