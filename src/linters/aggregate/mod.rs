//! The AGGREGATE stage: one result out of everything that was found and everything that failed.

mod fingerprint;
mod fold;
mod matching;

use std::collections::{BTreeMap, BTreeSet};

use crate::linters::catalogue;
use crate::linters::equivalence::rule_key;
use crate::types::{
    ClassifiedOutput, Diagnostic, Outcome, Plan, Reported, RunResult, RunSpec, Severity, Summary, ToolError,
    ToolErrorKind, ToolName, ToolPlan, ToolResult, TreePath, Unreadable,
};

use fold::Entry;

/// The name under which the product itself reports.
const OWN_NAME: &str = "lintmesh";

/// The code of a file that could not be read or named.
const UNREADABLE: &str = "LM001";

/// How many files a message names before it only counts.
const FILES_NAMED: usize = 3;

/// A LINT task that no node could finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// The tool that did not run.
    pub tool: ToolName,
    /// The files it did not see.
    pub files: Vec<TreePath>,
    /// Why, in words for the person who reads the report; no times, no names of nodes.
    pub reason: String,
}

/// Builds the result. Pure, and independent of the order of `classified` and `failed`.
///
/// Diagnostics of different tools that mean the same problem are folded into one; each report of each tool is in
/// exactly one entry. Anything that a tool did not see makes the outcome INCOMPLETE, unless there was nothing to see.
pub fn aggregate(
    plan: &Plan,
    spec: &RunSpec,
    classified: &[ClassifiedOutput],
    failed: &[TaskFailure],
) -> RunResult {
    let mut by_tool: BTreeMap<ToolName, u32> = BTreeMap::new();
    let mut entries = Vec::with_capacity(classified.iter().map(|output| output.diagnostics.len()).sum());
    let own = spec.unreadable.iter().filter_map(|file| unreadable(file, spec));
    let found = classified.iter().flat_map(|output| output.diagnostics.iter().cloned());
    for diagnostic in found.chain(own) {
        for report in &diagnostic.reported_by {
            *by_tool.entry(report.tool.clone()).or_default() += 1;
        }
        entries.push(Entry { key: rule_key(diagnostic.tool.as_str(), &diagnostic.code), diagnostic });
    }
    let diagnostics = fingerprint::with_fingerprints(fold::fold(entries));

    let tools = tool_results(plan, classified, failed, &mut by_tool);
    let failures = tools.values().any(|tool| tool.error.is_some());
    let outcome = if failures && plan.files > 0 {
        Outcome::Incomplete
    } else if diagnostics.is_empty() {
        Outcome::Clean
    } else {
        Outcome::Findings
    };
    let mut by_severity: BTreeMap<Severity, u32> = Severity::ALL.into_iter().map(|one| (one, 0)).collect();
    for diagnostic in &diagnostics {
        *by_severity.entry(diagnostic.severity).or_default() += 1;
    }
    let summary = Summary {
        files: plan.files,
        diagnostics: count(diagnostics.len()),
        reported: by_tool.values().sum(),
        by_severity,
        by_tool,
    };
    RunResult { schema_version: 1, outcome, tools, summary, diagnostics }
}

/// The bytes of a result that are stored, signed and compared: JSON without white space, fields as declared.
pub fn canonical_bytes(result: &RunResult) -> Vec<u8> {
    serde_json::to_vec(result).unwrap_or_else(|error| unreachable!("plain data serialises: {error}"))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Each tool's part; adds a count of zero for the tools that reported nothing.
fn tool_results(
    plan: &Plan,
    classified: &[ClassifiedOutput],
    failed: &[TaskFailure],
    by_tool: &mut BTreeMap<ToolName, u32>,
) -> BTreeMap<ToolName, ToolResult> {
    let mut results: BTreeMap<ToolName, ToolResult> = BTreeMap::new();
    let planned = plan.tools.iter().map(|tool| (tool.tool.clone(), Some(tool)));
    let unplanned = classified.iter().map(|output| &output.tool).chain(failed.iter().map(|task| &task.tool));
    for (name, tool_plan) in planned.chain(unplanned.map(|name| (name.clone(), None))) {
        if results.contains_key(&name) {
            continue;
        }
        let outputs: Vec<_> = classified.iter().filter(|output| output.tool == name).collect();
        let failures: Vec<_> = failed.iter().filter(|failure| failure.tool == name).collect();
        let result = ToolResult {
            version: tool_plan.map(|plan| plan.version.clone()).unwrap_or_default(),
            arguments: tool_plan.map(|plan| plan.arguments.clone()).unwrap_or_default(),
            files: tool_plan.map_or_else(|| outputs.iter().map(|output| output.files).sum(), files_of),
            diagnostics: *by_tool.entry(name.clone()).or_default(),
            error: joined(errors_of(tool_plan, &outputs, &failures)),
        };
        results.insert(name, result);
    }
    results
}

/// How many different files a tool was given; shards may overlap, where a second pass looks at the whole tree.
fn files_of(plan: &ToolPlan) -> u32 {
    count(plan.shards.iter().flat_map(|shard| &shard.files).collect::<BTreeSet<_>>().len())
}

fn errors_of(
    plan: Option<&ToolPlan>,
    outputs: &[&ClassifiedOutput],
    failures: &[&TaskFailure],
) -> BTreeSet<ToolError> {
    let mut errors: BTreeSet<ToolError> = outputs.iter().filter_map(|output| output.error.clone()).collect();
    errors.extend(plan.and_then(|plan| plan.refused.clone()));
    errors.extend(failures.iter().map(|failure| not_run(failure)));
    let tasks = plan.map_or(0, |plan| plan.shards.len());
    let answered = outputs.len() + failures.len();
    if answered < tasks {
        // Whoever lost a task, its files were not looked at, and the report must say so.
        let message = format!("only {answered} of its {tasks} tasks are accounted for; run again");
        errors.insert(ToolError { kind: ToolErrorKind::NotRun, message });
    }
    errors
}

fn not_run(failure: &TaskFailure) -> ToolError {
    let mut files: Vec<_> = failure.files.iter().map(TreePath::as_str).collect();
    files.sort_unstable();
    let mut named = files.iter().take(FILES_NAMED).copied().collect::<Vec<_>>().join(", ");
    if files.len() > FILES_NAMED {
        named.push_str(", ...");
    }
    let plural = if files.len() == 1 { "file" } else { "files" };
    let message = format!("not run on {} {plural} ({named}): {}", files.len(), failure.reason);
    ToolError { kind: ToolErrorKind::NotRun, message }
}

/// One error out of several: the first kind in the order of their declaration, the messages sorted, one a line.
fn joined(errors: BTreeSet<ToolError>) -> Option<ToolError> {
    let kind = errors.first()?.kind;
    let message = errors.into_iter().map(|error| error.message).collect::<Vec<_>>().join("\n");
    Some(ToolError { kind, message })
}

/// The diagnostic that stands for a file which no linter could be given.
fn unreadable(file: &Unreadable, spec: &RunSpec) -> Option<Diagnostic> {
    let tool = ToolName::new(OWN_NAME).ok()?;
    let message = format!("file could not be linted: {}", file.reason);
    Some(Diagnostic {
        path: file.path.clone(),
        line: 1,
        column: None,
        end: None,
        tool: tool.clone(),
        code: UNREADABLE.to_owned(),
        name: Some("unreadable-file".to_owned()),
        message: message.clone(),
        severity: catalogue::assess(OWN_NAME, UNREADABLE, None, &spec.severity_overrides).severity,
        url: None,
        fingerprint: String::new(),
        line_hash: String::new(),
        reported_by: vec![Reported { tool, line: 1, column: None, code: UNREADABLE.to_owned(), message }],
    })
}

#[cfg(test)]
mod tests;
