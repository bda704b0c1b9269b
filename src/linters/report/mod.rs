//! Reports: the result, how it came about, and the forms in which both are written.

mod concise;
mod excerpt;
mod execution;
mod full;
mod github;
mod json;
mod junit;
mod sarif;
mod statistics;
mod summary;
mod visible;

use std::io;

pub use execution::{Execution, FaultRecord, NodeExecution, TaskExecution, ToolExecution};
pub use visible::visible;

use crate::types::{Diagnostic, RunResult, Severity, TreePath};

/// The version of the report's form, in JSON as `schema_version`.
pub const SCHEMA_VERSION: u32 = 1;

/// The JSON Schema (draft 2020-12) of the JSON report.
pub const JSON_SCHEMA: &str = include_str!("report-v1.schema.json");

/// Everything there is to say about a run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The deterministic part.
    pub result: RunResult,
    /// How it came about: times, nodes, programs. Differs from run to run.
    pub execution: Execution,
}

/// A form in which a report can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// For people at a terminal: source excerpts, then a summary.
    Full,
    /// One line per diagnostic, then a short summary.
    Concise,
    /// One JSON document, described by [`JSON_SCHEMA`].
    Json,
    /// One JSON object per line: the diagnostics, and last the outcome with its summary.
    JsonLines,
    /// SARIF 2.1.0.
    Sarif,
    /// Workflow commands of GitHub Actions.
    Github,
    /// JUnit XML.
    Junit,
}

/// A name that is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("format `{0}` is not known; use full, concise, json, json-lines, sarif, github or junit")]
pub struct UnknownFormat(pub String);

impl Format {
    /// All formats.
    pub const ALL: [Format; 7] = [
        Format::Full,
        Format::Concise,
        Format::Json,
        Format::JsonLines,
        Format::Sarif,
        Format::Github,
        Format::Junit,
    ];

    /// The name that users type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Full => "full",
            Format::Concise => "concise",
            Format::Json => "json",
            Format::JsonLines => "json-lines",
            Format::Sarif => "sarif",
            Format::Github => "github",
            Format::Junit => "junit",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Format::ALL.into_iter().find(|format| format.as_str() == text);
        named.ok_or_else(|| UnknownFormat(text.chars().take(80).collect()))
    }
}

/// What the reader wants to see; the forms for machines are always complete and ignore all but `name`.
pub struct Options<'a> {
    /// Whether to use the terminal's colours.
    pub color: bool,
    /// How wide the terminal is, in columns; longer source lines are clipped.
    pub width: usize,
    /// Whether to show the counts by rule.
    pub statistics: bool,
    /// Whether to leave the summary out. What could not be linted is shown all the same.
    pub quiet: bool,
    /// Gives the text of a file, for excerpts; none where there is no such text.
    pub source: &'a dyn Fn(&TreePath) -> Option<String>,
    /// What a reader calls a file who may not be at the tree's root: the forms for people, GitHub's and SARIF ask. The
    /// others name files from the root.
    pub name: &'a dyn Fn(&TreePath) -> String,
}

/// The name of a file for a reader at the tree's root.
pub fn from_root(path: &TreePath) -> String {
    path.as_str().to_owned()
}

/// What is gathered before it goes to the file or terminal, in bytes: the forms write in small pieces.
const BUFFER: usize = 64 * 1024;

/// Writes the report, and flushes. Needs memory for one diagnostic at a time beside the report itself.
///
/// # Errors
/// Those of `out`.
pub fn write(
    report: &Report,
    format: Format,
    options: &Options<'_>,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let mut buffered = io::BufWriter::with_capacity(BUFFER, out);
    let out = &mut buffered;
    match format {
        Format::Full => full::write(report, options, out),
        Format::Concise => concise::write(report, options, out),
        Format::Json => json::write(report, out),
        Format::JsonLines => json::write_lines(report, out),
        Format::Sarif => sarif::write(report, options, out),
        Format::Github => github::write(report, options, out),
        Format::Junit => junit::write(report, out),
    }?;
    io::Write::flush(out)
}

/// The other tools that reported it, each with its code: `flake8 E501, pylint C0301`; none if there are none.
fn also_reported_by(diagnostic: &Diagnostic) -> Option<String> {
    let mut own_seen = false;
    let mut others = Vec::new();
    for report in &diagnostic.reported_by {
        if !own_seen && report.tool == diagnostic.tool && report.code == diagnostic.code {
            own_seen = true;
        } else {
            others.push(format!("{} {}", report.tool, report.code));
        }
    }
    (!others.is_empty()).then(|| others.join(", "))
}

/// SARIF's levels.
const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "note",
    }
}
