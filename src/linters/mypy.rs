//! mypy: project scope (each shard would check its imports again); one JSON object per line; columns from 0.

use std::ffi::OsString;

use serde::Deserialize;

use super::adapter::{
    Adapter, Cost, Finding, LongList, Output, ProjectPython, Reading, Scope, StandIn, argument, crashed,
    first_version, garbled, last_words, refused_configuration,
};
use super::options::{OptionKind, OptionRule};
use super::source::{Counting, Unit};
use super::tree_config::{
    ConfigurationFiles, Content, ini, may_name_a_key, root_text, toml, tool_table, tree_code_refused,
};
use crate::types::{ToolError, ToolErrorKind};

pub(super) struct Mypy;

const OPTIONS: &[OptionRule] = &[
    OptionRule { name: "strict", argument: "--strict", kind: OptionKind::Switch { off: None } },
    switch("ignore-missing-imports", "--ignore-missing-imports", "--no-ignore-missing-imports"),
    switch("disallow-untyped-defs", "--disallow-untyped-defs", "--allow-untyped-defs"),
    switch("disallow-incomplete-defs", "--disallow-incomplete-defs", "--allow-incomplete-defs"),
    switch("check-untyped-defs", "--check-untyped-defs", "--no-check-untyped-defs"),
    switch("warn-unused-ignores", "--warn-unused-ignores", "--no-warn-unused-ignores"),
    switch("warn-return-any", "--warn-return-any", "--no-warn-return-any"),
    switch("warn-unreachable", "--warn-unreachable", "--no-warn-unreachable"),
    switch("explicit-package-bases", "--explicit-package-bases", "--no-explicit-package-bases"),
    OptionRule { name: "enable-error-code", argument: "--enable-error-code", kind: OptionKind::Rules },
    OptionRule { name: "disable-error-code", argument: "--disable-error-code", kind: OptionKind::Rules },
    OptionRule {
        name: "follow-imports",
        argument: "--follow-imports",
        kind: OptionKind::Choice(&["normal", "silent", "skip", "error"]),
    },
    OptionRule {
        name: "python-version",
        argument: "--python-version",
        kind: OptionKind::Choice(&["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]),
    },
];

const fn switch(name: &'static str, argument: &'static str, off: &'static str) -> OptionRule {
    OptionRule { name, argument, kind: OptionKind::Switch { off: Some(off) } }
}

/// `plugins` are imported, `python_executable` is started, `install_types` installs packages.
const CODE_KEYS: [&str; 3] = ["plugins", "python_executable", "install_types"];

/// What mypy calls an error that has no code of its own, such as a file it cannot decode.
const BLOCKING: &str = "syntax";

/// The first of mypy's files that configures mypy, and which of [`CODE_KEYS`] it sets.
fn chosen(files: &ConfigurationFiles) -> Option<(&'static str, &'static str, Content<Vec<&'static str>>)> {
    ["mypy.ini", ".mypy.ini", "pyproject.toml", "setup.cfg"].into_iter().find_map(|name| {
        let text = root_text(files, name)?;
        let own = name.ends_with("mypy.ini");
        let is_toml = name == "pyproject.toml";
        let section = if is_toml { "tool.mypy" } else { "mypy" };
        let content = if is_toml {
            match toml(text) {
                Content::Parsed(table) => {
                    let mypy = tool_table(&table, "mypy")?;
                    Content::Parsed(CODE_KEYS.into_iter().filter(|key| is_set(mypy.get(*key))).collect())
                }
                Content::Broken(text) => Content::Broken(text),
            }
        } else {
            match ini(text, false) {
                Content::Parsed(ini) if own || ini.has("mypy") => Content::Parsed(
                    CODE_KEYS
                        .into_iter()
                        .filter(|key| {
                            ini.get("mypy", key).or(ini.get("mypy", &key.replace('_', "-"))).is_some_and(
                                |value| !matches!(&*value.to_lowercase(), "" | "false" | "no" | "off" | "0"),
                            )
                        })
                        .collect(),
                ),
                Content::Parsed(_) => return None,
                Content::Broken(text) => Content::Broken(text),
            }
        };
        if let Content::Broken(text) = &content
            && !own
            && !text.contains(&format!("[{section}"))
        {
            return None;
        }
        Some((name, section, content))
    })
}

fn is_set(value: Option<&toml::Value>) -> bool {
    match value {
        None | Some(toml::Value::Boolean(false)) => false,
        Some(toml::Value::Array(items)) => !items.is_empty(),
        Some(toml::Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

#[derive(Deserialize)]
struct Entry {
    file: String,
    line: i64,
    column: i64,
    end_line: Option<i64>,
    end_column: Option<i64>,
    message: String,
    /// The notes that belong to an error, one per line.
    hint: Option<String>,
    code: Option<String>,
    severity: String,
}

impl Adapter for Mypy {
    fn name(&self) -> &'static str {
        "mypy"
    }

    fn scope(&self) -> Scope {
        Scope::Project
    }

    fn cost(&self) -> Cost {
        Cost { per_byte: 16, start: 6_600_000 }
    }

    fn version(&self, printed: &str) -> Option<String> {
        first_version(printed)
    }

    fn options(&self) -> &'static [OptionRule] {
        OPTIONS
    }

    fn arguments(&self) -> Vec<String> {
        [
            "--output=json",
            "--show-column-numbers",
            "--show-error-end",
            "--show-error-codes",
            "--no-pretty",
            "--no-color-output",
            "--no-error-summary",
            "--cache-dir=/dev/null",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn configure(&self, files: &ConfigurationFiles, allow_tree_code: bool) -> Result<Vec<String>, ToolError> {
        let Some((file, section, content)) = chosen(files) else { return Ok(vec!["--config-file=".into()]) };
        let runs = match &content {
            Content::Parsed(keys) => keys.first().copied(),
            Content::Broken(text) => may_name_a_key(text, &CODE_KEYS),
        };
        match runs {
            Some(key) if !allow_tree_code => Err(tree_code_refused(file, section, key)),
            _ => Ok(vec![format!("--config-file={file}")]),
        }
    }

    fn read(&self, output: Output<'_>) -> Reading {
        let stdout = String::from_utf8_lossy(output.stdout);
        let mut findings = Vec::new();
        let mut problem = None;
        for line in stdout.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str::<Entry>(line) {
                Ok(mut entry) => {
                    let hint = entry.hint.take().unwrap_or_default();
                    let finding = finding(entry, output.version);
                    // In mypy's text form each is a line of its own.
                    let notes = hint.lines().map(|note| Finding {
                        message: note.to_owned(),
                        tool_severity: Some("note".into()),
                        ..finding.clone()
                    });
                    let notes: Vec<Finding> = notes.collect();
                    findings.push(finding);
                    findings.extend(notes);
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
        let stderr = String::from_utf8_lossy(output.stderr);
        if output.code == Some(2) {
            findings.extend(stderr.lines().filter_map(blocking));
        }
        Reading { error: failure(output, &stderr, &findings, problem), findings }
    }

    fn long_list(&self) -> LongList {
        LongList::ResponseFile
    }

    /// mypy checks no file at all once it meets one that it cannot decode or parse, and other files may import that
    /// one. With a module in its place from which anything can be imported as `Any`, the others get their diagnostics;
    /// the broken file keeps what mypy said of it. A tree without such files is checked by one run, as ever.
    fn stand_in(&self) -> Option<StandIn> {
        let text = "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n";
        Some(StandIn { status: 2, text, argument: "--shadow-file" })
    }

    fn project_arguments(&self, python: &ProjectPython) -> Vec<OsString> {
        let mut argument = OsString::from("--python-executable=");
        argument.push(&python.executable);
        vec![argument]
    }
}

/// Why the answer is not whole, if it is not.
fn failure(
    output: Output<'_>,
    stderr: &str,
    findings: &[Finding],
    problem: Option<String>,
) -> Option<ToolError> {
    let traceback = stderr.contains("Traceback (most recent call last)") || stderr.contains("INTERNAL ERROR");
    let configuration = argument(output.arguments, "--config-file").filter(|file| !file.is_empty());
    match output.code {
        Some(0..=2) if traceback => Some(crashed("mypy", output)),
        Some(2) if findings.is_empty() => Some(refused_configuration("mypy", &last_words(output))),
        Some(2) => {
            // With such an error mypy checks no file at all: nobody may take the others for clean.
            let first = &findings[0];
            let message = format!(
                "mypy stopped at {}:{}: {}; the other files were not checked",
                first.path,
                first.line.max(1),
                first.message
            );
            Some(ToolError { kind: ToolErrorKind::Crashed, message })
        }
        Some(0 | 1) => problem
            .map(|problem| garbled("mypy", output, &problem))
            .or_else(|| {
                // mypy goes on without the settings it could not read, and says so on standard error. A target
                // version that this mypy no longer has is no mistake of the tree: it takes the nearest.
                let start = format!("{}: ", configuration?);
                let complains =
                    |line: &str| line.starts_with(&start) && !line.contains(": python_version: Python ");
                stderr.lines().any(complains).then(|| ToolError {
                    kind: ToolErrorKind::Configuration,
                    message: format!("mypy ran without a part of its configuration: {}", stderr.trim()),
                })
            })
            .or_else(|| (output.code == Some(1) && findings.is_empty()).then(|| crashed("mypy", output))),
        _ => Some(crashed("mypy", output)),
    }
}

/// An error that mypy prints as plain text on standard error: `a.py: error: Cannot decode file: ...`.
fn blocking(line: &str) -> Option<Finding> {
    let (path, message) = line.split_once(": error: ")?;
    if path.is_empty() || path == "mypy" {
        return None;
    }
    Some(Finding {
        path: path.to_owned(),
        line: 1,
        column: None,
        end: None,
        counting: Counting { unit: Unit::CodePoints, first: 0 },
        code: BLOCKING.into(),
        name: None,
        message: message.to_owned(),
        tool_severity: Some("error".into()),
        url: None,
    })
}

fn finding(entry: Entry, version: &str) -> Finding {
    // Syntax errors come from the parser itself, counted from 1 and not converted; versions before 2 count `ast` bytes.
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let counting = match entry.code.as_deref() {
        _ if major.is_some_and(|major| major < 2) => Counting { unit: Unit::Utf8Bytes, first: 0 },
        Some("syntax") => Counting { unit: Unit::CodePoints, first: 1 },
        _ => Counting { unit: Unit::MypyNative, first: 0 },
    };
    Finding {
        path: entry.file,
        line: entry.line,
        column: (entry.column >= 0).then_some(entry.column),
        end: entry.end_line.filter(|line| *line > 0).map(|line| (line, entry.end_column)),
        counting,
        code: entry.code.unwrap_or_else(|| BLOCKING.into()),
        name: None,
        message: entry.message,
        tool_severity: Some(entry.severity),
        url: None,
    }
}
