//! The CLASSIFY stage: gives each diagnostic its severity, rule name and documentation link.

use crate::linters::catalogue;
use crate::types::{ClassifiedOutput, Diagnostic, LintOutput, RawDiagnostic, Reported, RunSpec, ToolName};

/// Classifies what one LINT task found. Pure: the same input gives the same output anywhere.
///
/// A name or link that the tool gave itself is kept.
pub fn classify(output: &LintOutput, spec: &RunSpec) -> ClassifiedOutput {
    ClassifiedOutput {
        tool: output.tool.clone(),
        files: output.files,
        error: output.error.clone(),
        diagnostics: output.diagnostics.iter().map(|raw| classified(&output.tool, raw, spec)).collect(),
    }
}

fn classified(tool: &ToolName, raw: &RawDiagnostic, spec: &RunSpec) -> Diagnostic {
    let rating = raw.tool_severity.as_deref();
    let assessment = catalogue::assess(tool.as_str(), &raw.code, rating, &spec.severity_overrides);
    let documentation = || catalogue::documentation(tool.as_str(), &raw.code, raw.name.as_deref());
    Diagnostic {
        path: raw.path.clone(),
        line: raw.span.start.line,
        column: raw.span.start.column,
        end: raw.span.end,
        tool: tool.clone(),
        code: raw.code.clone(),
        name: raw.name.clone().or_else(|| catalogue::name(tool.as_str(), &raw.code).map(str::to_owned)),
        message: raw.message.clone(),
        severity: assessment.severity,
        url: raw.url.clone().or_else(documentation),
        fingerprint: String::new(),
        line_hash: raw.line_hash.clone(),
        reported_by: vec![Reported {
            tool: tool.clone(),
            line: raw.tool_line,
            column: raw.tool_column,
            code: raw.code.clone(),
            message: raw.message.clone(),
        }],
    }
}
