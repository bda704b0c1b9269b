//! From a tool's words to a normalised place: no path of the machine, columns in code points.

use std::collections::BTreeMap;
use std::path::Path;

use crate::linters::adapter::Finding;
use crate::linters::source::{Source, column_in_code_points};
use crate::types::{Position, RawDiagnostic, Span, TreePath};

/// Takes the machine's paths out of texts, so that every machine gives the same bytes.
#[derive(Debug)]
pub(super) struct Cleaner {
    /// A folder, and what stands for a path beneath it.
    folders: Vec<(String, &'static str)>,
    roots: Vec<String>,
}

impl Cleaner {
    pub(super) fn new(roots: &[&Path], scratch: &Path, program: &Path) -> Self {
        let text = |path: &Path| path.to_str().filter(|text| text.len() > 1).map(str::to_owned);
        let roots: Vec<String> = roots.iter().filter_map(|root| text(root)).collect();
        let mut folders: Vec<_> = roots.iter().map(|root| (root.clone(), "")).collect();
        folders.extend(text(scratch).map(|scratch| (scratch, "(scratch)/")));
        let environment = program.parent().and_then(Path::parent);
        folders.extend(environment.and_then(text).map(|environment| (environment, "(toolchain)/")));
        // The longest first: one folder may lie inside another.
        folders.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        folders.dedup();
        Self { folders, roots }
    }

    /// The text with each folder replaced.
    pub(super) fn clean(&self, text: &str) -> String {
        self.folders.iter().fold(text.to_owned(), |text, (folder, stand_in)| replace(&text, folder, stand_in))
    }

    /// A path as a tool printed it, as a path of the tree.
    pub(super) fn tree_path(&self, printed: &str) -> Option<TreePath> {
        let inside =
            self.roots.iter().find_map(|root| printed.strip_prefix(root.as_str())?.strip_prefix('/'));
        let mut path = inside.unwrap_or(printed);
        while let Some(rest) = path.strip_prefix("./") {
            path = rest;
        }
        TreePath::new(path).ok()
    }
}

/// Replaces whole paths only: `/tmp` in `/var/tmp/x` or `/tmpfs` is another folder.
fn replace(text: &str, folder: &str, stand_in: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(folder) {
        let before = rest[..at].chars().next_back().or_else(|| cleaned.chars().next_back());
        let after = &rest[at + folder.len()..];
        cleaned.push_str(&rest[..at]);
        let starts = !before.is_some_and(is_name);
        rest = match after.strip_prefix('/') {
            Some(beneath) if starts => {
                cleaned.push_str(stand_in);
                beneath
            }
            None if starts && !after.starts_with(is_name) => {
                cleaned.push_str(if stand_in.is_empty() { "." } else { stand_in.trim_end_matches('/') });
                after
            }
            _ => {
                cleaned.push_str(folder);
                after
            }
        };
    }
    cleaned.push_str(rest);
    cleaned
}

/// The findings in normalised form, and those outside the tree as (path, message).
pub(super) async fn place(
    findings: Vec<Finding>,
    cleaner: &Cleaner,
    root: &Path,
) -> (Vec<RawDiagnostic>, Vec<(String, String)>) {
    let mut by_path: BTreeMap<TreePath, Vec<Finding>> = BTreeMap::new();
    let mut outside = Vec::new();
    for finding in findings {
        match cleaner.tree_path(&finding.path) {
            Some(path) => by_path.entry(path).or_default().push(finding),
            None => outside.push((cleaner.clean(&finding.path), cleaner.clean(&finding.message))),
        }
    }
    let mut placed = Vec::new();
    for (path, findings) in by_path {
        // One file at a time in memory. A file that is gone or unreadable has no lines to convert columns with.
        let source = tokio::fs::read(path.under(root)).await.ok().map(|bytes| Source::new(&bytes));
        placed
            .extend(findings.into_iter().map(|finding| diagnostic(&path, finding, source.as_ref(), cleaner)));
    }
    (placed, outside)
}

/// A line that tools give as 0 or -1 means the file as a whole: its first line.
fn line_number(line: i64) -> u32 {
    u32::try_from(line).unwrap_or(0).max(1)
}

fn diagnostic(
    path: &TreePath,
    finding: Finding,
    source: Option<&Source>,
    cleaner: &Cleaner,
) -> RawDiagnostic {
    let position = |line: i64, column: Option<i64>| {
        let number = line_number(line);
        let text = source.and_then(|source| source.line(number));
        let convert = |column| column_in_code_points(text, column, finding.counting);
        Position { line: number, column: column.and_then(convert) }
    };
    let start = position(finding.line, finding.column);
    let end = finding.end.map(|(line, column)| position(line, column)).filter(|end| *end > start);
    RawDiagnostic {
        path: path.clone(),
        span: Span { start, end },
        tool_line: u32::try_from(finding.line).unwrap_or(0),
        tool_column: finding.column.and_then(|column| u32::try_from(column).ok()),
        line_hash: source.map_or_else(String::new, |source| source.line_hash(start.line)),
        code: finding.code,
        name: finding.name,
        message: cleaner.clean(&finding.message),
        tool_severity: finding.tool_severity,
        url: finding.url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_folders_of_the_machine_are_taken_out() {
        let cleaner = Cleaner::new(
            &[Path::new("/srv/tree"), Path::new("/srv/tree")],
            Path::new("/srv/tree/scratch"),
            Path::new("/opt/venv/bin/pylint"),
        );
        for (text, cleaned) in [
            ("cannot read '/srv/tree/a b.py'", "cannot read 'a b.py'"),
            ("in /srv/tree: x, /srv/tree", "in .: x, ."),
            ("/srv/tree/scratch/x and /srv/treehouse/x", "(scratch)/x and /srv/treehouse/x"),
            ("/var/srv/tree/x", "/var/srv/tree/x"),
            ("File /opt/venv/lib/x.py", "File (toolchain)/lib/x.py"),
        ] {
            assert_eq!(cleaner.clean(text), cleaned);
        }
    }

    #[test]
    fn printed_paths_become_paths_of_the_tree() {
        let cleaner =
            Cleaner::new(&[Path::new("/srv/tree")], Path::new("/tmp/s"), Path::new("/opt/venv/bin/ruff"));
        for printed in ["a/-b.py", "./a/-b.py", "././a/-b.py", "/srv/tree/a/-b.py"] {
            assert_eq!(cleaner.tree_path(printed).map(|path| path.to_string()).as_deref(), Some("a/-b.py"));
        }
        for outside in ["/usr/lib/x.py", "../x.py", "/srv/tree", ""] {
            assert_eq!(cleaner.tree_path(outside), None, "{outside}");
        }
    }
}
