//! Correlates the reports of different tools and folds those that mean the same problem.
//!
//! Reports are folded if they are about the same file and line, and the equivalence map joins their rules. What one
//! tool reports twice on one line stays two. Every report ends up in exactly one entry.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::matching;
use crate::linters::equivalence::{RuleKey, traits};
use crate::types::{Diagnostic, ToolName, TreePath};

/// A diagnostic and the key under which its rule is equivalent to others.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: RuleKey,
    pub(super) diagnostic: Diagnostic,
}

/// Whose words are shown when several tools report a problem, first choice first; others follow by name.
///
/// ruff marks exact spans and links each rule; mypy has exact columns and knows types; bandit
/// explains what an attacker gains; pylint names the object; flake8's messages are the shortest.
const PREFERENCE: [&str; 5] = ["ruff", "mypy", "bandit", "pylint", "flake8"];

fn preference(tool: &ToolName) -> (usize, &str) {
    let rank = PREFERENCE.iter().position(|name| *name == tool.as_str()).unwrap_or(PREFERENCE.len());
    (rank, tool.as_str())
}

impl Entry {
    /// Whether a tool that reported `other` also reported this.
    pub(super) fn shares_tool_with(&self, other: &Entry) -> bool {
        let tools = &self.diagnostic.reported_by;
        other.diagnostic.reported_by.iter().any(|report| tools.iter().any(|own| own.tool == report.tool))
    }

    fn is_reported_by(&self, tool: &ToolName) -> bool {
        self.diagnostic.reported_by.iter().any(|report| report.tool == *tool)
    }

    /// Takes `other` in: the preferred tool's words, the worse severity, all reports.
    pub(super) fn absorb(&mut self, other: Entry) {
        let (kept, mut gone) = (&mut self.diagnostic, other.diagnostic);
        if preference(&gone.tool) < preference(&kept.tool) {
            std::mem::swap(kept, &mut gone);
        }
        self.take_reports_of(Entry { key: other.key, diagnostic: gone });
    }

    /// Takes the reports and the worse severity, and keeps its own words and place.
    fn take_reports_of(&mut self, other: Entry) {
        let (kept, mut gone) = (&mut self.diagnostic, other.diagnostic);
        kept.severity = kept.severity.min(gone.severity);
        kept.reported_by.append(&mut gone.reported_by);
        kept.reported_by.sort_unstable();
    }
}

/// The order of the report; total, so that the result does not depend on the order in which outputs arrived.
fn in_report_order(a: &Entry, b: &Entry) -> Ordering {
    let (a, b) = (&a.diagnostic, &b.diagnostic);
    (&a.path, a.line, a.column, &a.tool, &a.code, &a.message)
        .cmp(&(&b.path, b.line, b.column, &b.tool, &b.code, &b.message))
        .then_with(|| a.end.cmp(&b.end))
        .then_with(|| a.reported_by.cmp(&b.reported_by))
        .then_with(|| {
            (a.severity, &a.name, &a.url, &a.line_hash).cmp(&(b.severity, &b.name, &b.url, &b.line_hash))
        })
}

/// A folded entry knows more names than its parts, so another pass may fold more. In practice the second pass finds
/// nothing; the bound keeps hostile messages from buying more.
const MOST_PASSES: usize = 8;

/// Folds what is equivalent and sorts.
pub(super) fn fold(mut entries: Vec<Entry>) -> Vec<Entry> {
    for _ in 0..MOST_PASSES {
        let before = entries.len();
        entries = fold_once(entries);
        if entries.len() == before {
            break;
        }
    }
    entries.sort_unstable_by(in_report_order);
    entries
}

fn fold_once(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by(|a, b| {
        (&a.diagnostic.path, a.diagnostic.line, &a.key)
            .cmp(&(&b.diagnostic.path, b.diagnostic.line, &b.key))
            .then_with(|| in_report_order(a, b))
    });
    let mut folded = Vec::with_capacity(entries.len());
    let mut same_place: Vec<Entry> = Vec::new();
    for entry in entries {
        if same_place.last().is_some_and(|last| !is_same_place(last, &entry)) {
            folded.append(&mut fold_same_place(std::mem::take(&mut same_place)));
        }
        same_place.push(entry);
    }
    folded.append(&mut fold_same_place(same_place));
    fold_unplaced(fold_statements(folded))
}

fn is_same_place(a: &Entry, b: &Entry) -> bool {
    a.diagnostic.line == b.diagnostic.line && a.key == b.key && a.diagnostic.path == b.diagnostic.path
}

/// Folds the entries of one line and one key.
///
/// The tool with the most reports tells how many problems there are; the others' reports are matched to its own.
fn fold_same_place(entries: Vec<Entry>) -> Vec<Entry> {
    if entries.len() < 2 {
        return entries;
    }
    let mut counts: HashMap<ToolName, usize> = HashMap::new();
    for entry in &entries {
        for report in &entry.diagnostic.reported_by {
            *counts.entry(report.tool.clone()).or_default() += 1;
        }
    }
    let most =
        counts.iter().max_by(|(a, n), (b, m)| n.cmp(m).then_with(|| preference(b).cmp(&preference(a))));
    let Some((anchor, _)) = most else { return entries };
    let (mut folded, others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| entry.is_reported_by(anchor));
    let mut by_tool: Vec<(ToolName, Vec<Entry>)> = Vec::new();
    for other in others {
        match by_tool.iter_mut().find(|(tool, _)| *tool == other.diagnostic.tool) {
            Some((_, entries)) => entries.push(other),
            None => by_tool.push((other.diagnostic.tool.clone(), vec![other])),
        }
    }
    by_tool.sort_by(|(a, _), (b, _)| preference(a).cmp(&preference(b)));
    for (_, others) in by_tool {
        folded = matching::fold_into(folded, others);
    }
    folded
}

/// Folds reports on different lines of one statement, where that is safe: one tool gave the span of the statement, the
/// other's line is within it, both name the same thing, and nothing else in the file is reported under that name.
fn fold_statements(entries: Vec<Entry>) -> Vec<Entry> {
    let mut named: HashMap<(TreePath, RuleKey, String), Vec<usize>> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        if traits(&entry.key).statement
            && let Some(name) = matching::imported_name(&entry.diagnostic.message)
        {
            let place = (entry.diagnostic.path.clone(), entry.key.clone(), name);
            named.entry(place).or_default().push(index);
        }
    }
    let mut slots: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    // The pairs are disjoint, so the order in which they are folded does not matter.
    for indices in named.into_values() {
        let [a, b] = indices[..] else { continue };
        let (Some(Some(first)), Some(Some(second))) = (slots.get(a), slots.get(b)) else { continue };
        let within =
            covers(&first.diagnostic, &second.diagnostic) || covers(&second.diagnostic, &first.diagnostic);
        if within
            && !first.shares_tool_with(second)
            && let Some(second) = slots.get_mut(b).and_then(Option::take)
            && let Some(Some(first)) = slots.get_mut(a)
        {
            first.absorb(second);
        }
    }
    slots.into_iter().flatten().collect()
}

/// Folds reports whose tool did not know the place into the file's first report of the same that has one.
fn fold_unplaced(entries: Vec<Entry>) -> Vec<Entry> {
    let (unplaced, mut placed): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| {
        traits(&entry.key).unplaced && entry.diagnostic.line == 1 && entry.diagnostic.column.is_none()
    });
    let mut first: HashMap<(TreePath, RuleKey), usize> = HashMap::new();
    if !unplaced.is_empty() {
        placed.sort_unstable_by(in_report_order);
        for (index, entry) in placed.iter().enumerate().filter(|(_, entry)| traits(&entry.key).unplaced) {
            first.entry((entry.diagnostic.path.clone(), entry.key.clone())).or_insert(index);
        }
    }
    let mut left = Vec::new();
    for entry in unplaced {
        let index = first.get(&(entry.diagnostic.path.clone(), entry.key.clone()));
        match index.and_then(|index| placed.get_mut(*index)) {
            Some(known) if !known.shares_tool_with(&entry) => known.take_reports_of(entry),
            _ => left.push(entry),
        }
    }
    placed.append(&mut left);
    placed
}

/// Whether `outer` spans several lines and `inner` starts on one of them.
fn covers(outer: &Diagnostic, inner: &Diagnostic) -> bool {
    outer.end.is_some_and(|end| outer.line <= inner.line && inner.line <= end.line && outer.line < end.line)
}
