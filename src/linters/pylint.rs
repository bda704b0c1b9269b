//! pylint: project scope (R0801 and R0401 compare all files); JSON; columns from 0.

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;

use super::adapter::{
    Adapter, Cost, Finding, LongList, Output, ProjectPython, Reading, Scope, argument, crashed,
    first_version, garbled, last_words, refused_configuration,
};
use super::options::{OptionKind, OptionRule};
use super::source::{Counting, Unit};
use super::tree_config::{
    ConfigurationFiles, Content, ini, may_name_a_key, root_text, toml, tool_table, tree_code_refused,
};
use crate::types::{ToolError, ToolErrorKind};

pub(super) struct Pylint;

const OPTIONS: &[OptionRule] = &[
    OptionRule { name: "enable", argument: "--enable", kind: OptionKind::Rules },
    OptionRule { name: "disable", argument: "--disable", kind: OptionKind::Rules },
    OptionRule { name: "errors-only", argument: "--errors-only", kind: OptionKind::Switch { off: None } },
    OptionRule {
        name: "max-line-length",
        argument: "--max-line-length",
        kind: OptionKind::Integer { min: 1, max: 10_000 },
    },
    OptionRule { name: "max-args", argument: "--max-args", kind: OptionKind::Integer { min: 0, max: 1000 } },
    OptionRule {
        name: "max-branches",
        argument: "--max-branches",
        kind: OptionKind::Integer { min: 0, max: 10_000 },
    },
    OptionRule {
        name: "max-module-lines",
        argument: "--max-module-lines",
        kind: OptionKind::Integer { min: 1, max: 1_000_000 },
    },
    OptionRule {
        name: "min-similarity-lines",
        argument: "--min-similarity-lines",
        kind: OptionKind::Integer { min: 0, max: 10_000 },
    },
    OptionRule { name: "py-version", argument: "--py-version", kind: OptionKind::Choice(PYTHONS) },
];
const PYTHONS: &[&str] = &["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"];

/// Keys that make pylint run code found on its search path, on which the tree is.
const CODE_KEYS: [&str; 5] = [
    "init-hook",
    "load-plugins",
    "unsafe-load-any-extension",
    "extension-pkg-allow-list",
    "extension-pkg-whitelist",
];

/// Starts pylint with the files of a NUL-separated list. Before Python 3.11, which knows `PYTHONSAFEPATH`, the working
/// directory must leave the search path, or modules of the tree would stand in for pylint's.
const DRIVER: &str = "import sys
if not getattr(sys.flags, 'safe_path', False):
    del sys.path[0]
with open(sys.argv.pop(1), encoding='utf-8', newline='') as files:
    sys.argv += files.read().split('\\0')
from pylint import run_pylint
run_pylint()";

/// The project's packages come after pylint's own, so that they cannot replace what pylint runs on.
const SITE_HOOK: &str =
    "--init-hook=import os, sys; sys.path += os.environ['LINTMESH_SITE_PACKAGES'].split(os.pathsep)";

/// All options of the file pylint would choose, as (section, key, value).
type Settings = Vec<(String, String, String)>;

/// The first file in pylint's order that configures pylint.
fn chosen(files: &ConfigurationFiles) -> Option<(&'static str, Content<Settings>)> {
    let order = [
        "pylintrc",
        "pylintrc.toml",
        ".pylintrc",
        ".pylintrc.toml",
        "pyproject.toml",
        "setup.cfg",
        "tox.ini",
    ];
    order.into_iter().find_map(|name| {
        let text = root_text(files, name)?;
        let content = if name.ends_with(".toml") {
            match toml(text) {
                Content::Parsed(table) => Content::Parsed(toml_settings(tool_table(&table, "pylint")?)),
                Content::Broken(text) if text.contains("[tool.pylint") => Content::Broken(text),
                Content::Broken(_) => return None,
            }
        } else {
            let own = !matches!(name, "setup.cfg" | "tox.ini");
            match ini(text, true) {
                Content::Parsed(ini) => {
                    let sections = || ini.sections().filter(|section| own || section.starts_with("pylint"));
                    if !own && !sections().any(|s| s == "pylint" || s.starts_with("pylint.")) {
                        return None;
                    }
                    let keys = sections().flat_map(|section| CODE_KEYS.map(|key| (section, key)));
                    Content::Parsed(
                        keys.filter_map(|(section, key)| {
                            Some((section.to_owned(), key.to_owned(), ini.get(section, key)?.to_owned()))
                        })
                        .collect(),
                    )
                }
                Content::Broken(text) if own || text.contains("[pylint") => Content::Broken(text),
                Content::Broken(_) => return None,
            }
        };
        Some((name, content))
    })
}

fn toml_settings(table: &toml::Value) -> Settings {
    let Some(table) = table.as_table() else { return Vec::new() };
    let text = |value: &toml::Value| match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or("?")).collect::<Vec<_>>().join(",")
        }
        toml::Value::Boolean(set) => set.to_string(),
        _ => "?".to_owned(),
    };
    let mut settings = Vec::new();
    for (name, value) in table {
        if let Some(section) = value.as_table() {
            let name = format!("tool.pylint.{name}");
            settings
                .extend(section.iter().map(|(key, value)| (name.clone(), key.to_lowercase(), text(value))));
        } else {
            settings.push(("tool.pylint".to_owned(), name.to_lowercase(), text(value)));
        }
    }
    settings
}

/// Whether a setting makes pylint run code that is not its own.
fn runs_code(key: &str, value: &str) -> bool {
    let off = ["", "no", "n", "false", "0"].contains(&value.trim().to_lowercase().as_str());
    match key {
        "load-plugins" => value
            .split([',', '\n'])
            .map(str::trim)
            .any(|plugin| !plugin.is_empty() && !plugin.starts_with("pylint.extensions.")),
        _ => CODE_KEYS.contains(&key) && !off,
    }
}

#[derive(Deserialize)]
struct Report {
    messages: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    symbol: String,
    message: String,
    message_id: String,
    line: i64,
    column: i64,
    end_line: Option<i64>,
    end_column: Option<i64>,
    path: String,
}

impl Adapter for Pylint {
    fn name(&self) -> &'static str {
        "pylint"
    }

    fn scope(&self) -> Scope {
        Scope::Project
    }

    fn cost(&self) -> Cost {
        Cost { per_byte: 190, start: 3_680_000 }
    }

    fn version(&self, printed: &str) -> Option<String> {
        first_version(printed)
    }

    fn options(&self) -> &'static [OptionRule] {
        OPTIONS
    }

    fn arguments(&self) -> Vec<String> {
        // More than one job loses R0401 cycles and changes inference.
        ["--output-format=json2", "--jobs=1", "--persistent=n", "--score=n", "--reports=n"]
            .map(str::to_owned)
            .to_vec()
    }

    fn configure(&self, files: &ConfigurationFiles, allow_tree_code: bool) -> Result<Vec<String>, ToolError> {
        // An empty file stands for "no configuration"; without the argument pylint would look in parent folders.
        let Some((file, content)) = chosen(files) else { return Ok(vec!["--rcfile=/dev/null".into()]) };
        if !allow_tree_code {
            match &content {
                Content::Parsed(settings) => {
                    if let Some((section, key, _)) =
                        settings.iter().find(|(_, key, value)| runs_code(key, value))
                    {
                        return Err(tree_code_refused(file, section, key));
                    }
                }
                Content::Broken(text) => {
                    if let Some(key) = may_name_a_key(text, &CODE_KEYS) {
                        return Err(tree_code_refused(file, "that cannot be read", key));
                    }
                }
            }
        }
        Ok(vec![format!("--rcfile={file}")])
    }

    fn read(&self, output: Output<'_>) -> Reading {
        let Some(code) = output.code else {
            return Reading { findings: Vec::new(), error: Some(crashed("pylint", output)) };
        };
        if code & 32 != 0 && output.stdout.trim_ascii().is_empty() {
            let error = Some(refused_configuration("pylint", &last_words(output)));
            return Reading { findings: Vec::new(), error };
        }
        let (before, json) = split_report(output.stdout);
        let report: Report = match serde_json::from_slice(json) {
            Ok(report) => report,
            Err(problem) => {
                let broke = output.stdout.trim_ascii().is_empty() && code != 0 || !(0..64).contains(&code);
                let error = if broke {
                    crashed("pylint", output)
                } else {
                    garbled("pylint", output, &problem.to_string())
                };
                return Reading { findings: Vec::new(), error: Some(error) };
            }
        };
        let rcfile = argument(output.arguments, "--rcfile");
        let mut findings = Vec::new();
        // pylint tells what it could not read of its configuration before it knows the form of its output.
        let mut configuration: Vec<String> = String::from_utf8_lossy(before)
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with("************* "))
            .map(str::to_owned)
            .collect();
        let mut fatal = Vec::new();
        for entry in report.messages {
            let message = repeatable(&entry);
            if entry.path == "Command line" || (entry.message_id == "F0011" && Some(&*entry.path) == rcfile) {
                configuration.push(format!("{} ({})", message, entry.symbol));
                continue;
            }
            if entry.kind == "fatal" {
                fatal.push(format!("{}: {message}", entry.path));
            }
            findings.push(finding(entry, message));
        }
        let error = if !fatal.is_empty() {
            let message = format!("pylint could not lint every file: {}", fatal.join("; "));
            Some(ToolError { kind: ToolErrorKind::Crashed, message })
        } else if !configuration.is_empty() {
            Some(refused_configuration("pylint", &configuration.join("; ")))
        } else {
            None
        };
        Reading { findings, error }
    }

    fn long_list(&self) -> LongList {
        LongList::Driver(DRIVER)
    }

    fn needs_site_packages(&self) -> bool {
        true
    }

    fn project_arguments(&self, _python: &ProjectPython) -> Vec<OsString> {
        vec![SITE_HOOK.into()]
    }

    fn environment(&self, scratch: &Path, _cpu_slots: u32) -> Vec<(String, OsString)> {
        vec![("PYLINTHOME".into(), scratch.join("pylint").into_os_string())]
    }
}

/// What stands before the report, and the report: JSON that starts on a line of its own.
fn split_report(stdout: &[u8]) -> (&[u8], &[u8]) {
    let starts = |at: &usize| stdout[*at] == b'{' && (*at == 0 || stdout[*at - 1] == b'\n');
    let start = (0..stdout.len()).find(starts).unwrap_or(0);
    stdout.split_at(start)
}

/// The message without what differs between two runs over the same files.
///
/// R0801 lists the similar places and then quotes the last one of a set that is ordered by memory addresses, so the
/// quotation is left out; the places tell the same.
fn repeatable(entry: &Entry) -> String {
    if entry.message_id != "R0801" {
        return without_crash_file(&entry.message);
    }
    let mut lines = entry.message.lines();
    let first = lines.next().into_iter();
    first.chain(lines.take_while(|line| line.starts_with("=="))).collect::<Vec<_>>().join("\n")
}

/// A crash report's name holds the time: `pylint-crash-2026-01-31-23-59-59.txt`.
fn without_crash_file(message: &str) -> String {
    const START: &str = "pylint-crash-";
    let Some(at) = message.find(START) else { return message.to_owned() };
    let stamp_at = at + START.len();
    let stamp = message[stamp_at..].bytes().take_while(|b| b.is_ascii_digit() || *b == b'-').count();
    format!("{}{}", &message[..at + START.len() - 1], &message[stamp_at + stamp..])
}

fn finding(entry: Entry, message: String) -> Finding {
    Finding {
        path: entry.path,
        line: entry.line,
        column: Some(entry.column),
        end: entry.end_line.map(|line| (line, entry.end_column)),
        counting: counting(&entry.message_id),
        code: entry.message_id,
        name: Some(entry.symbol),
        message,
        tool_severity: Some(entry.kind),
        url: None,
    }
}

/// Most messages carry `ast` offsets, which are bytes. Those that come from tokens, raw lines or CPython's own syntax
/// errors count code points; CPython counts from 1.
fn counting(code: &str) -> Counting {
    match code {
        "E0001" | "E2510" | "E2511" | "E2512" | "E2513" | "E2514" | "E2515" => {
            Counting { unit: Unit::CodePoints, first: 1 }
        }
        "C0303" | "W0511" | "W1401" | "W1402" | "E2502" | "C2503" => {
            Counting { unit: Unit::CodePoints, first: 0 }
        }
        _ => Counting { unit: Unit::Utf8Bytes, first: 0 },
    }
}
