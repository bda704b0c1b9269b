//! JUnit XML: one suite per file with a failure per diagnostic, and one suite of the tools, where failed tools are errors.

use std::io;

use super::summary::kind_name;
use super::{Report, also_reported_by};
use crate::types::Diagnostic;

/// Writes the document.
pub(super) fn write(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    let result = &report.result;
    let (failures, tools) = (result.diagnostics.len(), result.tools.len());
    let errors = result.tools.values().filter(|tool| tool.error.is_some()).count();
    let seconds = report.execution.seconds;
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    let tests = failures + tools;
    writeln!(
        out,
        "<testsuites name=\"lintmesh\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds:.3}\">"
    )?;
    writeln!(
        out,
        "  <testsuite name=\"lintmesh {}\" tests=\"{tools}\" failures=\"0\" errors=\"{errors}\">",
        result.outcome
    )?;
    for (tool, part) in &result.tools {
        let version = escaped(&part.version);
        write!(out, "    <testcase name=\"{tool}\" classname=\"lintmesh\"")?;
        match &part.error {
            None => writeln!(out, "/>")?,
            Some(error) => {
                let message = escaped(&error.message);
                writeln!(
                    out,
                    "><error type=\"{}\" message=\"{message}\">{tool} {version}</error></testcase>",
                    kind_name(error.kind)
                )?;
            }
        }
    }
    writeln!(out, "  </testsuite>")?;
    for of_file in result.diagnostics.chunk_by(|a, b| a.path == b.path) {
        let Some(first) = of_file.first() else { continue };
        let (path, count) = (escaped(first.path.as_str()), of_file.len());
        writeln!(out, "  <testsuite name=\"{path}\" tests=\"{count}\" failures=\"{count}\" errors=\"0\">")?;
        for diagnostic in of_file {
            write_case(diagnostic, &path, out)?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

fn write_case(diagnostic: &Diagnostic, path: &str, out: &mut dyn io::Write) -> io::Result<()> {
    let place = match diagnostic.column {
        Some(column) => format!("{}:{column}", diagnostic.line),
        None => diagnostic.line.to_string(),
    };
    let (tool, code, severity) = (&diagnostic.tool, escaped(&diagnostic.code), diagnostic.severity);
    let message = escaped(&diagnostic.message);
    write!(
        out,
        "    <testcase name=\"{tool} {code} {place}\" classname=\"{path}\" line=\"{}\">",
        diagnostic.line
    )?;
    write!(
        out,
        "<failure type=\"{severity}\" message=\"{message}\">{path}:{place}: {tool} {code} {message}"
    )?;
    if let Some(others) = also_reported_by(diagnostic) {
        write!(out, " [also {}]", escaped(&others))?;
    }
    writeln!(out, "</failure></testcase>")
}

/// Escapes for text and attributes alike. What XML 1.0 forbids even as a reference becomes U+FFFD.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            '\t' => safe.push_str("&#9;"),
            '\n' => safe.push_str("&#10;"),
            '\r' => safe.push_str("&#13;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            _ => safe.push(c),
        }
    }
    safe
}
