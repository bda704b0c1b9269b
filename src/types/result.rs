//! What tasks and runs end with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Diagnostic, RawDiagnostic, Severity, ToolName};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// Everything was linted, nothing was found.
    Clean,
    /// Everything was linted, something was found.
    Findings,
    /// Something could not be linted. Never shown as clean.
    Incomplete,
    /// The run was cancelled.
    Cancelled,
}

impl Outcome {
    /// The name as it is written in reports: `CLEAN`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Clean => "CLEAN",
            Outcome::Findings => "FINDINGS",
            Outcome::Incomplete => "INCOMPLETE",
            Outcome::Cancelled => "CANCELLED",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a tool gave no (complete) answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ToolErrorKind {
    /// It is not in the toolchain.
    Missing,
    /// It ended with a status that means failure, or by a signal that is its own doing.
    Crashed,
    /// Its output is not what the adapter understands.
    Garbled,
    /// It ran longer than allowed.
    TimedOut,
    /// It used more memory, CPU time, processes, or wrote more than allowed.
    LimitExceeded,
    /// It refused its configuration.
    Configuration,
    /// Its configuration would run code of the tree, which this server does not allow.
    TreeCodeRefused,
    /// No node could finish the task within its attempts.
    NotRun,
}

/// A tool's failure, in words for the person who reads the report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ToolError {
    /// What kind.
    pub kind: ToolErrorKind,
    /// What happened and what to do; the tool's own words where it has some. No path of the machine, no times.
    pub message: String,
}

/// The output of a LINT task: a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LintOutput {
    /// Which tool.
    pub tool: ToolName,
    /// How many files it was given.
    pub files: u32,
    /// Its failure, if it failed; diagnostics it gave before are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
    /// Sorted.
    pub diagnostics: Vec<RawDiagnostic>,
}

/// The output of a CLASSIFY task: a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassifiedOutput {
    /// Which tool.
    pub tool: ToolName,
    /// Passed on from LINT.
    pub files: u32,
    /// Passed on from LINT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
    /// One entry for each diagnostic of the tool, with itself as the only reporter.
    pub diagnostics: Vec<Diagnostic>,
}

/// One tool's part in a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// Its version; empty if it is missing.
    pub version: String,
    /// Its arguments before the files.
    pub arguments: Vec<String>,
    /// How many files it was given.
    pub files: u32,
    /// How many diagnostics it gave, before folding.
    pub diagnostics: u32,
    /// Its failure, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
}

/// The counts of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Files linted.
    pub files: u32,
    /// Entries of the report, after folding.
    pub diagnostics: u32,
    /// What the tools reported, before folding.
    pub reported: u32,
    /// Entries by severity; all five are present.
    pub by_severity: BTreeMap<Severity, u32>,
    /// What each tool reported, before folding.
    pub by_tool: BTreeMap<ToolName, u32>,
}

/// The deterministic part of a report: same tree, tools, configuration and environment give the same bytes.
///
/// Its canonical bytes are JSON without white space, fields in the order declared here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// The version of this form: 1.
    pub schema_version: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// By tool name.
    pub tools: BTreeMap<ToolName, ToolResult>,
    /// The counts.
    pub summary: Summary,
    /// Sorted by path, line, column, tool, code, message.
    pub diagnostics: Vec<Diagnostic>,
}
