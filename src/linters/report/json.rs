//! JSON: one document, or one object a line.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::{Report, SCHEMA_VERSION};
use crate::types::{Outcome, Summary, ToolName, ToolResult};

/// `{"schema_version":1,"result":{...},"execution":{...}}`; the result byte for byte as it is stored and signed.
pub(super) fn write(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    write!(out, "{{\"schema_version\":{SCHEMA_VERSION},\"result\":")?;
    // The same serialiser as for the canonical bytes, so the bytes are the same.
    serde_json::to_writer(&mut *out, &report.result)?;
    out.write_all(b",\"execution\":")?;
    serde_json::to_writer(&mut *out, &report.execution)?;
    out.write_all(b"}\n")
}

/// The last line of the form with one object a line.
#[derive(Serialize)]
struct LastLine<'a> {
    outcome: Outcome,
    tools: &'a BTreeMap<ToolName, ToolResult>,
    summary: &'a Summary,
}

/// The diagnostics, one a line, then outcome, tools and summary.
pub(super) fn write_lines(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    for diagnostic in &report.result.diagnostics {
        serde_json::to_writer(&mut *out, diagnostic)?;
        out.write_all(b"\n")?;
    }
    let result = &report.result;
    let last = LastLine { outcome: result.outcome, tools: &result.tools, summary: &result.summary };
    serde_json::to_writer(&mut *out, &last)?;
    out.write_all(b"\n")
}
