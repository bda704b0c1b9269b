//! bandit: file scope; JSON; columns from 0 in bytes.

use serde::Deserialize;

use super::adapter::{
    Adapter, Cost, Finding, Output, Reading, Scope, argument, crashed, first_version, garbled, last_words,
    refused_configuration,
};
use super::options::{OptionKind, OptionRule};
use super::source::{Counting, Unit};
use super::tree_config::{ConfigurationFiles, Content, ini, root_text, toml, tool_table};
use crate::types::{ToolError, ToolErrorKind};

pub(super) struct Bandit;

/// bandit gives no code to what it could not parse; it says so in `errors`.
const SYNTAX_ERROR: &str = "syntax-error";
/// The same for a file that bandit gave up for another reason. Its encoding may be wrong, or bandit: so this is the
/// tool's error, too.
const NOT_SCANNED: &str = "not-scanned";
const LEVELS: &[&str] = &["all", "low", "medium", "high"];

const OPTIONS: &[OptionRule] = &[
    OptionRule { name: "tests", argument: "--tests", kind: OptionKind::Rules },
    OptionRule { name: "skips", argument: "--skip", kind: OptionKind::Rules },
    OptionRule { name: "severity-level", argument: "--severity-level", kind: OptionKind::Choice(LEVELS) },
    OptionRule { name: "confidence-level", argument: "--confidence-level", kind: OptionKind::Choice(LEVELS) },
    OptionRule { name: "ignore-nosec", argument: "--ignore-nosec", kind: OptionKind::Switch { off: None } },
];

#[derive(Deserialize)]
struct Report {
    errors: Vec<Unscanned>,
    results: Vec<Entry>,
}

#[derive(Deserialize)]
struct Unscanned {
    filename: String,
    reason: String,
}

#[derive(Deserialize)]
struct Entry {
    filename: String,
    line_number: i64,
    #[serde(default)]
    line_range: Vec<i64>,
    col_offset: Option<i64>,
    end_col_offset: Option<i64>,
    test_id: String,
    test_name: Option<String>,
    issue_text: String,
    issue_severity: Option<String>,
    issue_confidence: Option<String>,
    more_info: Option<String>,
}

impl Adapter for Bandit {
    fn name(&self) -> &'static str {
        "bandit"
    }

    fn scope(&self) -> Scope {
        Scope::File
    }

    fn cost(&self) -> Cost {
        Cost { per_byte: 19, start: 1_570_000 }
    }

    fn version(&self, printed: &str) -> Option<String> {
        first_version(printed)
    }

    fn options(&self) -> &'static [OptionRule] {
        OPTIONS
    }

    fn arguments(&self) -> Vec<String> {
        ["--quiet", "--format=json"].map(str::to_owned).to_vec()
    }

    fn configure(
        &self,
        files: &ConfigurationFiles,
        _allow_tree_code: bool,
    ) -> Result<Vec<String>, ToolError> {
        let mut arguments = Vec::new();
        let mut names_a_file = false;
        // Given files instead of folders, bandit looks for no configuration at all, so both are named here.
        if let Some(text) = root_text(files, ".bandit") {
            match ini(text, false) {
                Content::Parsed(ini) if ini.has("bandit") => {
                    names_a_file = ini.get("bandit", "configfile").is_some();
                    arguments.push("--ini=.bandit".to_owned());
                }
                Content::Broken(text) if text.contains("[bandit") => {
                    return Err(refused_configuration("bandit", "`.bandit` is not a valid INI file"));
                }
                _ => {}
            }
        }
        if let (Some(text), false) = (root_text(files, "pyproject.toml"), names_a_file) {
            let meant = match toml(text) {
                Content::Parsed(table) => tool_table(&table, "bandit").is_some(),
                Content::Broken(text) => text.contains("[tool.bandit"),
            };
            if meant {
                arguments.push("--configfile=pyproject.toml".to_owned());
            }
        }
        Ok(arguments)
    }

    fn read(&self, output: Output<'_>) -> Reading {
        match output.code {
            Some(0 | 1) => {}
            Some(2) => {
                let words = last_words(output);
                return Reading {
                    findings: Vec::new(),
                    error: Some(refused_configuration("bandit", &words)),
                };
            }
            _ => return Reading { findings: Vec::new(), error: Some(crashed("bandit", output)) },
        }
        let report: Report = match serde_json::from_slice(output.stdout) {
            Ok(report) => report,
            Err(_) if output.code == Some(1) && output.stdout.trim_ascii().is_empty() => {
                let named =
                    argument(output.arguments, "--ini").or(argument(output.arguments, "--configfile"));
                let error = crashed("bandit", output);
                let kind = if named.is_some() { ToolErrorKind::Configuration } else { error.kind };
                return Reading::failed(kind, error.message);
            }
            Err(problem) => {
                let error = Some(garbled("bandit", output, &problem.to_string()));
                return Reading { findings: Vec::new(), error };
            }
        };
        let mut findings: Vec<Finding> = report.results.into_iter().map(finding).collect();
        let mut skipped = Vec::new();
        for unscanned in report.errors {
            if unscanned.reason.starts_with("syntax error") {
                findings.push(not_scanned(unscanned, SYNTAX_ERROR));
            } else {
                skipped.push(format!("{}: {}", shown(&unscanned.filename), unscanned.reason));
                findings.push(not_scanned(unscanned, NOT_SCANNED));
            }
        }
        let error = (!skipped.is_empty()).then(|| ToolError {
            kind: ToolErrorKind::Crashed,
            message: format!("bandit could not scan {}", skipped.join("; ")),
        });
        Reading { findings, error }
    }
}

/// bandit puts `./` before paths that are not absolute, even before `./`.
fn shown(mut path: &str) -> &str {
    while let Some(rest) = path.strip_prefix("./") {
        path = rest;
    }
    path
}

fn finding(entry: Entry) -> Finding {
    // `line_range` lists the lines of the statement; its end column belongs to the last one.
    let last = entry.line_range.last().copied().unwrap_or(entry.line_number);
    let end =
        entry.end_col_offset.filter(|column| last > entry.line_number || Some(*column) > entry.col_offset);
    Finding {
        path: entry.filename,
        line: entry.line_number,
        column: entry.col_offset,
        end: end.map(|column| (last.max(entry.line_number), Some(column))),
        counting: Counting { unit: Unit::Utf8Bytes, first: 0 },
        code: entry.test_id,
        name: entry.test_name,
        message: entry.issue_text,
        tool_severity: rating(entry.issue_severity, entry.issue_confidence),
        url: entry.more_info,
    }
}

/// Severity and confidence in one, for example `HIGH/MEDIUM`: how serious a finding is depends on both.
fn rating(severity: Option<String>, confidence: Option<String>) -> Option<String> {
    match (severity, confidence) {
        (Some(severity), Some(confidence)) => Some(format!("{severity}/{confidence}")),
        (severity, _) => severity,
    }
}

fn not_scanned(unscanned: Unscanned, code: &str) -> Finding {
    Finding {
        path: unscanned.filename,
        line: 1,
        column: None,
        end: None,
        counting: Counting { unit: Unit::Utf8Bytes, first: 0 },
        code: code.into(),
        name: Some(code.into()),
        message: unscanned.reason,
        tool_severity: None,
        url: None,
    }
}
