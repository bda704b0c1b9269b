//! What a run comes down to: outcome first, then failures, counts, tools, and which node did what.

use std::collections::BTreeMap;
use std::io;

use super::full::Paint;
use super::visible::visible;
use super::{Options, Report};
use crate::types::{NodeId, Outcome, RunResult, Severity, ToolErrorKind};

/// The name of a kind of failure, as in the JSON report.
pub(super) const fn kind_name(kind: ToolErrorKind) -> &'static str {
    match kind {
        ToolErrorKind::Missing => "MISSING",
        ToolErrorKind::Crashed => "CRASHED",
        ToolErrorKind::Garbled => "GARBLED",
        ToolErrorKind::TimedOut => "TIMED_OUT",
        ToolErrorKind::LimitExceeded => "LIMIT_EXCEEDED",
        ToolErrorKind::Configuration => "CONFIGURATION",
        ToolErrorKind::TreeCodeRefused => "TREE_CODE_REFUSED",
        ToolErrorKind::NotRun => "NOT_RUN",
    }
}

/// The whole summary; with `quiet` only what could not be linted.
pub(super) fn write(report: &Report, options: &Options<'_>, out: &mut dyn io::Write) -> io::Result<()> {
    let paint = Paint(options.color);
    write_failures(&report.result, &paint, out)?;
    if options.quiet {
        return Ok(());
    }
    write_counts(report, &paint, out)?;
    write_tools(report, out)?;
    write_nodes(report, out)
}

/// Failures, and one line of counts.
pub(super) fn write_short(report: &Report, options: &Options<'_>, out: &mut dyn io::Write) -> io::Result<()> {
    let paint = Paint(options.color);
    write_failures(&report.result, &paint, out)?;
    if options.quiet { Ok(()) } else { write_counts(report, &paint, out) }
}

/// A banner that cannot be taken for a clean end, and each tool's failure with all its words.
fn write_failures(result: &RunResult, paint: &Paint, out: &mut dyn io::Write) -> io::Result<()> {
    match result.outcome {
        Outcome::Incomplete => {
            writeln!(out, "{}", paint.with("1;31", "INCOMPLETE: not everything was linted"))?;
        }
        Outcome::Cancelled => {
            writeln!(out, "{}", paint.with("1;31", "CANCELLED: not everything was linted"))?
        }
        Outcome::Clean | Outcome::Findings => {}
    }
    for (tool, part) in &result.tools {
        if let Some(error) = &part.error {
            writeln!(out, "  {}", paint.with("31", &format!("{tool} {}", kind_name(error.kind))))?;
            for line in error.message.lines() {
                writeln!(out, "    {}", visible(line))?;
            }
        }
    }
    Ok(())
}

/// `FINDINGS: 3 diagnostics in 10 files (1 CRITICAL, 2 LOW), folded from 7 reports, 1.2 s`
fn write_counts(report: &Report, paint: &Paint, out: &mut dyn io::Write) -> io::Result<()> {
    let summary = &report.result.summary;
    let counted = |severity: Severity| {
        let count = summary.by_severity.get(&severity).copied().filter(|count| *count > 0)?;
        Some(format!("{count} {}", paint.severity(severity)))
    };
    let by_severity: Vec<_> = Severity::ALL.into_iter().filter_map(counted).collect();
    let (entries, files) = (number(summary.diagnostics, "diagnostic"), number(summary.files, "file"));
    write!(out, "{}: {entries} in {files}", report.result.outcome)?;
    if !by_severity.is_empty() {
        write!(out, " ({})", by_severity.join(", "))?;
    }
    if summary.reported > summary.diagnostics {
        write!(out, ", folded from {} reports", summary.reported)?;
    }
    writeln!(out, ", {:.1} s", report.execution.seconds)
}

fn number(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A table of the tools.
fn write_tools(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    if report.result.tools.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  {:<10} {:<12} {:>6} {:>8} {:>9}", "tool", "version", "files", "reports", "seconds")?;
    for (tool, part) in &report.result.tools {
        let seconds = report.execution.tools.get(tool).map(|one| format!("{:.2}", one.seconds));
        let (version, seconds) = (visible(&part.version), seconds.unwrap_or_else(|| "-".to_owned()));
        let failed = if part.error.is_some() { "  FAILED" } else { "" };
        writeln!(
            out,
            "  {:<10} {version:<12} {:>6} {:>8} {seconds:>9}{failed}",
            tool.as_str(),
            part.files,
            part.diagnostics
        )?;
    }
    Ok(())
}

/// Which node did what, and what went wrong on the way.
fn write_nodes(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    let execution = &report.execution;
    if !execution.nodes.is_empty() {
        writeln!(out)?;
    }
    let width = execution.nodes.keys().map(|id: &NodeId| id.as_str().len()).max().unwrap_or_default();
    for (node, part) in &execution.nodes {
        let mut work: BTreeMap<String, u32> = BTreeMap::new();
        for task in &part.tasks {
            let tool = task.tool.as_ref().map(|tool| format!(" {tool}")).unwrap_or_default();
            *work.entry(format!("{}{tool}", task.stage)).or_default() += 1;
        }
        let times = |(what, count): (String, u32)| if count == 1 { what } else { format!("{what} x{count}") };
        let work = work.into_iter().map(times).collect::<Vec<_>>().join(", ");
        let work = if work.is_empty() { "idle".to_owned() } else { work };
        writeln!(out, "  {:<width$} ({}): {work}", node.as_str(), visible(&part.agent_type))?;
    }
    for fault in &execution.faults {
        let moved = number(fault.redistributed_tasks, "task");
        writeln!(out, "  fault: {} {}, {moved} redistributed", fault.node_id, fault.cause.as_str())?;
    }
    if execution.retries > 0 {
        let retries = execution.retries;
        writeln!(out, "  {retries} {}", if retries == 1 { "retry" } else { "retries" })?;
    }
    Ok(())
}
