//! One line per diagnostic, for grep and editors.

use std::io;

use super::visible::visible;
use super::{Options, Report, also_reported_by, statistics, summary};
use crate::types::Diagnostic;

/// The lines, then a short summary.
pub(super) fn write(report: &Report, options: &Options<'_>, out: &mut dyn io::Write) -> io::Result<()> {
    for diagnostic in &report.result.diagnostics {
        writeln!(out, "{}", line(diagnostic, &(options.name)(&diagnostic.path)))?;
    }
    if options.statistics {
        statistics::write(&report.result, out)?;
    }
    summary::write_short(report, options, out)
}

/// `path:line:column: SEVERITY tool CODE message [also ...]`
fn line(diagnostic: &Diagnostic, path: &str) -> String {
    let mut text = format!("{}:{}:", visible(path), diagnostic.line);
    if let Some(column) = diagnostic.column {
        text.push_str(&format!("{column}:"));
    }
    let (severity, tool) = (diagnostic.severity, &diagnostic.tool);
    text.push_str(&format!(
        " {severity} {tool} {} {}",
        visible(&diagnostic.code),
        visible(&diagnostic.message)
    ));
    if let Some(others) = also_reported_by(diagnostic) {
        text.push_str(&format!(" [also {}]", visible(&others)));
    }
    text
}
