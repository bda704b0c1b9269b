//! The arguments of `lintmesh lint`.

use std::path::PathBuf;
use std::time::Duration;

use super::outputs::{OutputFile, parse_output};
use crate::cli::arguments::{ConfigArgs, parse_duration};
use crate::cli::connect::ServerArgs;
use crate::cli::exit::FailOn;
use crate::cli::reconnect::ReconnectArgs;
use crate::cli::terminal::ColorChoice;
use crate::config::{Overrides, Settings};
use crate::linters::report::Format;

/// What to lint, with what, and how to show it.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing found that counts, 1 findings at or above --fail-on, 2 bad usage or an \
error, 3 something could not be linted (wins over 1), 130 interrupted.\n\n\
Examples:\n  \
lintmesh lint src tests\n  \
lintmesh lint --select-tools ruff,mypy --fail-on high\n  \
lintmesh lint --format concise --output json=report.json --output sarif=report.sarif\n  \
lintmesh lint --option flake8.max-line-length=100 --exclude '*_pb2.py'\n  \
lintmesh lint -- -odd-name.py"
)]
pub(in crate::cli) struct LintArgs {
    /// Files and folders to lint
    #[arg(value_name = "PATH", default_value = ".")]
    pub(super) paths: Vec<PathBuf>,
    /// The linters to run, for example ruff,mypy; by default all five
    #[arg(long, value_name = "TOOLS", value_delimiter = ',')]
    pub(super) select_tools: Vec<String>,
    /// An option of a linter, for example flake8.max-line-length=100; may be repeated
    #[arg(long = "option", value_name = "TOOL.NAME=VALUE", value_parser = parse_option)]
    pub(super) options: Vec<ToolOption>,
    /// Let exclusions hold for files that are named, too, as a commit hook names all that changed
    #[arg(long)]
    pub(super) force_exclude: bool,
    /// Leave out files and folders that match, beside those of the configuration; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(super) exclude: Vec<String>,
    /// The root of the tree: linters run there and reported paths are relative to it; by default the project's folder
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// The interpreter whose installed packages mypy and pylint see; with --server the server's name for one
    #[arg(long, value_name = "PATH")]
    pub(super) python: Option<String>,
    /// Where a private mesh has its linters from: managed (pinned, installed once), system (PATH), or the path of a
    /// virtual environment
    #[arg(long, value_name = "SOURCE")]
    pub(super) toolchain: Option<String>,
    /// Cancel the run after so long, for example 90s or 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) timeout: Option<Duration>,
    /// Whose the run is: the projects of a server share it by CPU time, and `lintmesh runs` can filter by them
    #[arg(long, value_name = "LABEL", default_value = "", hide_default_value = true)]
    pub(super) project: String,
    /// How urgent the run is, from -10 to 10; each step has a quarter more of the CPU time
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-10..=10)
    )]
    pub(super) priority: i32,
    /// Cancel your open runs of the project with the same key, for example a branch: this run takes their place
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    pub(super) supersede_key: String,

    /// How the report is printed: full, concise, json, json-lines, sarif, github or junit
    #[arg(long, value_name = "FORMAT", help_heading = "Report")]
    pub(super) format: Option<Format>,
    /// Also write the report to a file, for example sarif=report.sarif; may be repeated
    #[arg(long, value_name = "FORMAT=FILE", value_parser = parse_output::<Format>, help_heading = "Report")]
    pub(super) output: Vec<OutputFile<Format>>,
    /// The least serious finding that makes the exit code 1: critical, high, medium, low, info, any or never
    #[arg(long, value_name = "SEVERITY", help_heading = "Report")]
    pub(super) fail_on: Option<FailOn>,
    /// Show how often each rule was broken
    #[arg(long, help_heading = "Report")]
    pub(super) statistics: bool,
    /// Print findings only: no progress, no notices, no summary
    #[arg(long, short, help_heading = "Report")]
    pub(super) quiet: bool,
    /// When to use colours
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, help_heading = "Report")]
    pub(super) color: ColorChoice,
    /// Show no progress on the terminal
    #[arg(long, help_heading = "Report")]
    pub(super) no_progress: bool,

    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(flatten)]
    pub(super) reconnect: ReconnectArgs,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

impl LintArgs {
    /// The flags that are settings.
    pub(super) fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        if !self.select_tools.is_empty() {
            overrides.set("--select-tools", "lint.select_tools", self.select_tools.join(","));
        }
        if let Some(python) = &self.python {
            overrides.set("--python", "lint.python", python.clone());
        }
        if let Some(toolchain) = &self.toolchain {
            overrides.set("--toolchain", "toolchain.mode", toolchain.clone());
        }
        overrides
    }

    /// The threshold of the flag, else of the settings.
    pub(super) fn fail_on(&self, settings: &Settings) -> FailOn {
        self.fail_on.unwrap_or(FailOn::AtLeast(settings.lint.fail_on))
    }
}

/// One `--option`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToolOption {
    pub(super) tool: String,
    pub(super) name: String,
    pub(super) value: String,
}

fn parse_option(text: &str) -> Result<ToolOption, String> {
    let parts = text.split_once('=').and_then(|(key, value)| Some((key.split_once('.')?, value)));
    match parts {
        Some(((tool, name), value)) if !tool.is_empty() && !name.is_empty() => {
            Ok(ToolOption { tool: tool.into(), name: name.into(), value: value.into() })
        }
        _ => Err("use TOOL.NAME=VALUE, for example flake8.max-line-length=100".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_has_a_tool_a_name_and_a_value_that_may_hold_anything() {
        let option = parse_option("pylint.disable=C0301,a.b=c").expect("valid");
        assert_eq!((&*option.tool, &*option.name, &*option.value), ("pylint", "disable", "C0301,a.b=c"));
        assert_eq!(parse_option("ruff.select=").expect("an empty value").value, "");
        for bad in ["pylint", "pylint.x", "x=1", ".x=1", "pylint.=1"] {
            assert!(parse_option(bad).is_err(), "{bad}");
        }
    }
}
