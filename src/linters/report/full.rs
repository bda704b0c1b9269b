//! The report for people: under each file its diagnostics with the source line, then the summary.

use std::io;

use super::excerpt::excerpt;
use super::visible::visible;
use super::{Options, Report, also_reported_by, statistics, summary};
use crate::types::{Diagnostic, Severity};

/// Terminal columns left of the source line: two blanks, the line number, ` | `.
const GUTTER: usize = 10;

/// Colours by their ANSI numbers (SGR); nothing when colours are off.
pub(super) struct Paint(pub(super) bool);

impl Paint {
    /// The text between the sequence `code` and the reset.
    pub(super) fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A severity in its colour.
    pub(super) fn severity(&self, severity: Severity) -> String {
        let code = match severity {
            Severity::Critical => "1;31",
            Severity::High => "31",
            Severity::Medium => "33",
            Severity::Low => "36",
            Severity::Info => "2",
        };
        self.with(code, severity.as_str())
    }
}

/// Writes the diagnostics, then the summary.
pub(super) fn write(report: &Report, options: &Options<'_>, out: &mut dyn io::Write) -> io::Result<()> {
    let paint = Paint(options.color);
    for of_file in report.result.diagnostics.chunk_by(|a, b| a.path == b.path) {
        let Some(first) = of_file.first() else { continue };
        writeln!(out, "{}", paint.with("1", &visible(&(options.name)(&first.path))))?;
        let source = (options.source)(&first.path).unwrap_or_default();
        let lines: Vec<&str> = python_lines(&source);
        for diagnostic in of_file {
            write_diagnostic(diagnostic, &lines, &paint, options, out)?;
        }
        writeln!(out)?;
    }
    if options.statistics {
        statistics::write(&report.result, out)?;
    }
    summary::write(report, options, out)
}

/// The lines as Python counts them: ended by LF, CR LF or CR.
fn python_lines(source: &str) -> Vec<&str> {
    source.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r')).collect()
}

fn write_diagnostic(
    diagnostic: &Diagnostic,
    lines: &[&str],
    paint: &Paint,
    options: &Options<'_>,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let place = match diagnostic.column {
        Some(column) => format!("{}:{column}", diagnostic.line),
        None => diagnostic.line.to_string(),
    };
    let severity = paint.severity(diagnostic.severity);
    let rule = format!("{} {}", diagnostic.tool, visible(&diagnostic.code));
    write!(out, "  {place} {severity} {} {}", paint.with("1", &rule), visible(&diagnostic.message))?;
    match also_reported_by(diagnostic) {
        Some(others) => writeln!(out, " {}", paint.with("2", &format!("[also {}]", visible(&others))))?,
        None => writeln!(out)?,
    }
    let index = usize::try_from(diagnostic.line).unwrap_or(usize::MAX).checked_sub(1);
    let Some(line) = index.and_then(|index| lines.get(index)).filter(|line| !line.trim().is_empty()) else {
        return Ok(());
    };
    // A span over several lines is marked to the end of its first.
    let length = || u32::try_from(line.trim_end().chars().count()).unwrap_or(u32::MAX).saturating_add(1);
    let end =
        diagnostic.end.and_then(|end| if end.line == diagnostic.line { end.column } else { Some(length()) });
    let shown = excerpt(line, diagnostic.column, end, options.width.saturating_sub(GUTTER));
    writeln!(out, "{:>7} | {}", diagnostic.line, shown.text)?;
    if !shown.marker.is_empty() {
        writeln!(out, "{:>7} | {}", "", paint.with("31", &shown.marker))?;
    }
    Ok(())
}
