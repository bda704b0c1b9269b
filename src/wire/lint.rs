//! Diagnostics, severities, outcomes and stages on the wire.

use crate::coordinator::event::FinishedResult;
use crate::proto::v1;
use crate::types::{Diagnostic, Outcome, Position, Severity, Stage};

impl From<Severity> for v1::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Critical => v1::Severity::Critical,
            Severity::High => v1::Severity::High,
            Severity::Medium => v1::Severity::Medium,
            Severity::Low => v1::Severity::Low,
            Severity::Info => v1::Severity::Info,
        }
    }
}

/// A severity as a client gave it; none if it gave none.
pub const fn severity(severity: v1::Severity) -> Option<Severity> {
    match severity {
        v1::Severity::Unspecified => None,
        v1::Severity::Critical => Some(Severity::Critical),
        v1::Severity::High => Some(Severity::High),
        v1::Severity::Medium => Some(Severity::Medium),
        v1::Severity::Low => Some(Severity::Low),
        v1::Severity::Info => Some(Severity::Info),
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Clean => v1::Outcome::Clean,
            Outcome::Findings => v1::Outcome::Findings,
            Outcome::Incomplete => v1::Outcome::Incomplete,
            Outcome::Cancelled => v1::Outcome::Cancelled,
        }
    }
}

impl From<Stage> for v1::Stage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Plan => v1::Stage::Plan,
            Stage::Lint => v1::Stage::Lint,
            Stage::Classify => v1::Stage::Classify,
            Stage::Aggregate => v1::Stage::Aggregate,
        }
    }
}

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        Self { line: position.line, column: position.column }
    }
}

impl From<Diagnostic> for v1::Diagnostic {
    fn from(diagnostic: Diagnostic) -> Self {
        Self {
            path: diagnostic.path.into(),
            start: Some(v1::Position { line: diagnostic.line, column: diagnostic.column }),
            end: diagnostic.end.map(Into::into),
            tool: diagnostic.tool.to_string(),
            code: diagnostic.code,
            name: diagnostic.name.unwrap_or_default(),
            message: diagnostic.message,
            severity: v1::Severity::from(diagnostic.severity).into(),
            url: diagnostic.url.unwrap_or_default(),
            fingerprint: diagnostic.fingerprint,
            reported_by: diagnostic
                .reported_by
                .into_iter()
                .map(|reported| v1::ReportedDiagnostic {
                    tool: reported.tool.to_string(),
                    line: reported.line,
                    column: reported.column,
                    code: reported.code,
                    message: reported.message,
                })
                .collect(),
        }
    }
}

/// The counts of a finished run.
pub fn summary(result: &FinishedResult) -> v1::RunSummary {
    v1::RunSummary {
        files: result.summary.files,
        diagnostics: result.summary.diagnostics,
        reported: result.summary.reported,
        by_severity: result
            .summary
            .by_severity
            .iter()
            .map(|(severity, count)| (severity.as_str().to_owned(), *count))
            .collect(),
        by_tool: result.summary.by_tool.iter().map(|(tool, count)| (tool.to_string(), *count)).collect(),
        tool_errors: result
            .tool_errors
            .iter()
            .map(|(tool, error)| (tool.to_string(), error.clone()))
            .collect(),
    }
}
