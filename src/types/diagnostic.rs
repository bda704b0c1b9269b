//! What linters say: as each tool gave it, and as the report shows it.

use serde::{Deserialize, Serialize};

use super::{ToolName, TreePath};

/// One scale for all tools, most serious first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// Will fail or be exploited: syntax errors, undefined names, exploitable calls.
    Critical,
    /// Very likely a defect.
    High,
    /// Suspicious, or a real cost to maintain.
    Medium,
    /// Style with some consequence.
    Low,
    /// Taste, notes, documentation hints.
    Info,
}

impl Severity {
    /// All severities, most serious first.
    pub const ALL: [Severity; 5] =
        [Severity::Critical, Severity::High, Severity::Medium, Severity::Low, Severity::Info];

    /// The name as it is written in reports: `CRITICAL`, `HIGH`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "CRITICAL",
            Severity::High => "HIGH",
            Severity::Medium => "MEDIUM",
            Severity::Low => "LOW",
            Severity::Info => "INFO",
        }
    }

    /// Reads a severity by name, in any case.
    pub fn parse(text: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|severity| severity.as_str().eq_ignore_ascii_case(text))
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A place in a file: line from 1; column from 1, counted in Unicode code points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in Unicode code points; absent where the tool speaks of the whole line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

/// Where a diagnostic starts and, if the tool says so, where it ends (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First place meant.
    pub start: Position,
    /// First place after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Position>,
}

/// One message of one linter: its own words, and where that is in normalised terms.
///
/// The output of a LINT task is a sorted list of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RawDiagnostic {
    /// The file, as the run lists it.
    pub path: TreePath,
    /// Normalised place.
    pub span: Span,
    /// The line exactly as the tool gave it.
    pub tool_line: u32,
    /// The column exactly as the tool gave it, in the tool's own counting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_column: Option<u32>,
    /// The tool's code: `E501`, `C0301`, `arg-type`, `B101`.
    pub code: String,
    /// The rule's name if the tool gives one: `line-too-long`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tool's text, unchanged.
    pub message: String,
    /// The tool's own severity if it has one: `error`, `HIGH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_severity: Option<String>,
    /// The documentation link the tool itself gave, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Hash of the source line's text without surrounding white space (16 hexadecimal digits), so that
    /// a fingerprint survives when lines move; empty if there is no such line.
    pub line_hash: String,
}

/// What one tool said, kept word for word in a folded diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reported {
    /// The tool.
    pub tool: ToolName,
    /// Its line.
    pub line: u32,
    /// Its column, in its own counting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Its code.
    pub code: String,
    /// Its message.
    pub message: String,
}

/// One entry of the report: one problem at one place, whoever reported it.
///
/// The field order is the order in the canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file.
    pub path: TreePath,
    /// From 1.
    pub line: u32,
    /// From 1, in Unicode code points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Exclusive end, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Position>,
    /// The tool whose words are shown.
    pub tool: ToolName,
    /// That tool's code.
    pub code: String,
    /// The rule's name, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// That tool's message.
    pub message: String,
    /// On the unified scale; the most serious of all who reported it.
    pub severity: Severity,
    /// Documentation of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Identifies the problem across runs, stable when lines move (32 hexadecimal digits). Empty until aggregation.
    pub fingerprint: String,
    /// See [`RawDiagnostic::line_hash`]; not part of the report, dropped at aggregation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub line_hash: String,
    /// Every tool that reported it, each in its own words; at least one.
    pub reported_by: Vec<Reported>,
}
