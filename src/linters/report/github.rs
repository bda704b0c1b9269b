//! Workflow commands of GitHub Actions: annotations at the lines of a pull request.

use std::io;

use super::{Options, Report, also_reported_by};
use crate::types::{Outcome, Severity};

const fn command(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "notice",
    }
}

/// One command per failed tool, first, then one per diagnostic.
pub(super) fn write(report: &Report, options: &Options<'_>, out: &mut dyn io::Write) -> io::Result<()> {
    let result = &report.result;
    if matches!(result.outcome, Outcome::Incomplete | Outcome::Cancelled) {
        let outcome = result.outcome;
        writeln!(out, "::error title=lintmesh::{outcome}: not everything was linted")?;
    }
    for (tool, part) in &result.tools {
        if let Some(error) = &part.error {
            let title = property(&format!("lintmesh: {tool} failed"));
            writeln!(out, "::error title={title}::{}", data(&error.message))?;
        }
    }
    for diagnostic in &result.diagnostics {
        write!(
            out,
            "::{} file={}",
            command(diagnostic.severity),
            property(&(options.name)(&diagnostic.path))
        )?;
        write!(out, ",line={}", diagnostic.line)?;
        if let Some(column) = diagnostic.column {
            write!(out, ",col={column}")?;
        }
        if let Some(end) = diagnostic.end.filter(|end| end.line >= diagnostic.line) {
            write!(out, ",endLine={}", end.line)?;
            // GitHub refuses columns of an annotation over several lines, and its end is inclusive.
            if let (Some(column), Some(start), true) =
                (end.column, diagnostic.column, end.line == diagnostic.line)
            {
                write!(out, ",endColumn={}", column.saturating_sub(1).max(start))?;
            }
        }
        let title = format!("{} {} {}", diagnostic.severity, diagnostic.tool, diagnostic.code);
        write!(out, ",title={}::{}", property(&title), data(&diagnostic.message))?;
        match also_reported_by(diagnostic) {
            Some(others) => writeln!(out, " [also {}]", data(&others))?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

/// Escapes the text after `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes the value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
