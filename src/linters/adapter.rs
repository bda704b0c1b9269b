//! What lintmesh needs to know about a linter: one adapter per tool, all in one table.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::options::OptionRule;
use super::source::Counting;
use super::tree_config::ConfigurationFiles;
use super::{bandit, flake8, mypy, pylint, ruff};
use crate::types::{ToolError, ToolErrorKind};

/// How far one file's diagnostics depend on other files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A file's diagnostics depend on that file only: any sharding gives the same multiset.
    File,
    /// They depend on the whole list: one task holds all files.
    Project,
}

/// Effort of a tool, to balance shards and to start the longest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// CPU time per byte of source, in hundreds of nanoseconds; measured on Django 5.2 `django/db django/core`.
    pub per_byte: u64,
    /// CPU time to start the tool on an empty file, in the same unit times one byte.
    pub start: u64,
}

/// How a list of files that is longer than one command line reaches the tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongList {
    /// Several processes, one after the other.
    Split,
    /// A file with one path per line, given as `@file`.
    ResponseFile,
    /// Python code for the tool's own interpreter that fills `sys.argv` from a NUL-separated file and starts the tool.
    Driver(&'static str),
}

/// One message as the tool gave it, before its place is normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The path as printed; may be absolute or start with `./`.
    pub path: String,
    /// The line as printed.
    pub line: i64,
    /// The column as printed.
    pub column: Option<i64>,
    /// The end as printed: line and column.
    pub end: Option<(i64, Option<i64>)>,
    /// How the tool counts this message's columns.
    pub counting: Counting,
    /// See [`crate::types::RawDiagnostic::code`].
    pub code: String,
    /// See [`crate::types::RawDiagnostic::name`].
    pub name: Option<String>,
    /// See [`crate::types::RawDiagnostic::message`].
    pub message: String,
    /// See [`crate::types::RawDiagnostic::tool_severity`].
    pub tool_severity: Option<String>,
    /// See [`crate::types::RawDiagnostic::url`].
    pub url: Option<String>,
}

/// What a process left behind, and how it was called.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// The exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: &'a [u8],
    /// Standard error.
    pub stderr: &'a [u8],
    /// The arguments of the plan.
    pub arguments: &'a [String],
    /// The tool's version.
    pub version: &'a str,
}

/// What the output means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The messages.
    pub findings: Vec<Finding>,
    /// The tool's failure, if it failed.
    pub error: Option<ToolError>,
}

impl Reading {
    pub(crate) fn failed(kind: ToolErrorKind, message: String) -> Self {
        Self { findings: Vec::new(), error: Some(ToolError { kind, message }) }
    }
}

/// How a tool that stopped at a file is told to read another text in its place, so that it can check the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    /// The exit status with which the tool stops; the paths of its findings are then where it stopped.
    pub status: i32,
    /// The text: whatever other files import from it is there.
    pub text: &'static str,
    /// The argument in front of the file and of the path of the text.
    pub argument: &'static str,
}

/// The interpreter of the project's environment.
#[derive(Debug, Clone)]
pub struct ProjectPython {
    /// The interpreter.
    pub executable: PathBuf,
    /// Where its packages are installed; filled only for tools that ask for it.
    pub site_packages: Vec<PathBuf>,
}

/// One linter. All methods are pure.
pub trait Adapter: Send + Sync {
    /// The name users type.
    fn name(&self) -> &'static str;

    /// Its distribution on PyPI.
    fn distribution(&self) -> &'static str {
        self.name()
    }

    /// Whether it may be sharded.
    fn scope(&self) -> Scope;

    /// Its effort.
    fn cost(&self) -> Cost;

    /// The version in what `--version` printed.
    fn version(&self, printed: &str) -> Option<String>;

    /// The options clients may give.
    fn options(&self) -> &'static [OptionRule];

    /// Arguments before configuration and options: output form, no cache, one process.
    fn arguments(&self) -> Vec<String>;

    /// Arguments that name the tree's configuration for this tool, or switch configuration off if there is none.
    /// Configuration that would run code of the tree is refused unless that is allowed.
    fn configure(&self, files: &ConfigurationFiles, allow_tree_code: bool) -> Result<Vec<String>, ToolError>;

    /// Reads what the tool printed.
    fn read(&self, output: Output<'_>) -> Reading;

    /// What to do when the files do not fit on one command line.
    fn long_list(&self) -> LongList {
        LongList::Split
    }

    /// Whether [`ProjectPython::site_packages`] must be known before the tool is started.
    fn needs_site_packages(&self) -> bool {
        false
    }

    /// For a tool that looks for configuration in every folder by itself: whether a file of that name and content
    /// configures it.
    fn nested_configuration(&self) -> Option<fn(&str, &[u8]) -> bool> {
        None
    }

    /// Arguments that show the tool the project's environment.
    fn project_arguments(&self, _python: &ProjectPython) -> Vec<OsString> {
        Vec::new()
    }

    /// For a tool that checks nothing at all once it meets a file it cannot parse: how to go on without that file.
    fn stand_in(&self) -> Option<StandIn> {
        None
    }

    /// Environment beside what all Python tools get: caches in `scratch`, threads as many as `cpu_slots`.
    fn environment(&self, _scratch: &Path, _cpu_slots: u32) -> Vec<(String, OsString)> {
        Vec::new()
    }
}

static ADAPTERS: [&dyn Adapter; 5] =
    [&bandit::Bandit, &flake8::Flake8, &mypy::Mypy, &pylint::Pylint, &ruff::Ruff];

/// All adapters, sorted by name.
pub fn adapters() -> &'static [&'static dyn Adapter] {
    &ADAPTERS
}

/// The adapter of a tool.
pub fn adapter(name: &str) -> Option<&'static dyn Adapter> {
    ADAPTERS.into_iter().find(|adapter| adapter.name() == name)
}

/// The first word that looks like a version: digits with at least one dot, perhaps with a suffix.
pub(crate) fn first_version(printed: &str) -> Option<String> {
    printed
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(str::to_owned)
}

/// The end of what a tool printed, for an error message: its last lines, at most 2,000 characters.
pub(crate) fn last_words(output: Output<'_>) -> String {
    let bytes = if output.stderr.trim_ascii().is_empty() { output.stdout } else { output.stderr };
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let start = text.char_indices().rev().nth(1_999).map_or(0, |(at, _)| at);
    let tail = &text[start..];
    // In a Python traceback only what follows the last frame speaks to the user.
    match tail.rfind("\n  File \"").filter(|_| text.contains("Traceback (most recent call last)")) {
        Some(frame) => {
            let from_error = tail[frame + 1..].lines().skip_while(|line| line.starts_with(' '));
            let words = from_error.collect::<Vec<_>>().join("\n");
            if words.is_empty() { tail.to_owned() } else { words }
        }
        None => tail.to_owned(),
    }
}

/// The failure of a tool that ended with `status` and, as far as it said, why.
pub(crate) fn crashed(tool: &str, output: Output<'_>) -> ToolError {
    let how = match output.code {
        Some(code) => format!("{tool} ended with status {code}"),
        None => format!("{tool} was ended by a signal"),
    };
    let words = last_words(output);
    let message = if words.is_empty() { how } else { format!("{how}: {words}") };
    ToolError { kind: ToolErrorKind::Crashed, message }
}

/// The failure of a tool whose output could not be read.
pub(crate) fn garbled(tool: &str, output: Output<'_>, problem: &str) -> ToolError {
    let start: String = String::from_utf8_lossy(output.stdout).chars().take(200).collect();
    let status = output.code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"));
    ToolError {
        kind: ToolErrorKind::Garbled,
        message: format!(
            "cannot read the output of {tool} (ended with {status}): {problem}; it starts with `{start}`"
        ),
    }
}

/// The configuration a tool refused, in its own words.
pub(crate) fn refused_configuration(tool: &str, words: &str) -> ToolError {
    ToolError {
        kind: ToolErrorKind::Configuration,
        message: format!("{tool} refused its configuration: {}", words.trim()),
    }
}

/// The value of `NAME=value` among arguments.
pub(crate) fn argument<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found_by_name() {
        let names: Vec<_> = adapters().iter().map(|adapter| adapter.name()).collect();
        assert_eq!(names, ["bandit", "flake8", "mypy", "pylint", "ruff"]);
        for name in names {
            assert_eq!(adapter(name).map(Adapter::name), Some(name));
        }
        assert!(adapter("eslint").is_none());
    }

    #[test]
    fn versions_are_found_in_what_the_tools_print() {
        for (tool, printed, version) in [
            ("bandit", "bandit 1.9.4\n  python version = 3.11.7 (main, ...)\n", "1.9.4"),
            (
                "flake8",
                "7.5.0 (mccabe: 0.7.0, pycodestyle: 2.15.0, pyflakes: 4.1.0) CPython 3.11.7 on Linux\n",
                "7.5.0",
            ),
            ("mypy", "mypy 2.4.1 (compiled: yes)\n", "2.4.1"),
            ("pylint", "pylint 4.1.4\nastroid 4.3.4\nPython 3.11.7 (main)\n", "4.1.4"),
            ("ruff", "ruff 0.17.6\n", "0.17.6"),
        ] {
            let adapter = adapter(tool).expect("known");
            assert_eq!(adapter.version(printed).as_deref(), Some(version), "{tool}");
            assert_eq!(adapter.version("command not found"), None, "{tool}");
        }
    }

    #[test]
    fn of_a_traceback_the_error_remains() {
        let stderr = b"Traceback (most recent call last):\n  File \"/x/a.py\", line 8, in <module>\n    main()\n    ^^^^\nValueError: bad\nmore\n";
        let output = Output { code: Some(1), stdout: b"", stderr, arguments: &[], version: "1" };
        assert_eq!(last_words(output), "ValueError: bad\nmore");
    }
}
