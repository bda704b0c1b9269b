//! How often each rule was broken.

use std::collections::BTreeMap;
use std::io;

use super::visible::visible;
use crate::types::{RunResult, Severity};

/// A table: count, severity, tool and code, name; the most frequent first.
pub(super) fn write(result: &RunResult, out: &mut dyn io::Write) -> io::Result<()> {
    let mut rules: BTreeMap<(&str, &str), (u32, Severity, &str)> = BTreeMap::new();
    for diagnostic in &result.diagnostics {
        let name = diagnostic.name.as_deref().unwrap_or_default();
        let rule = rules.entry((diagnostic.tool.as_str(), diagnostic.code.as_str()));
        let (count, severity, _) = rule.or_insert((0, diagnostic.severity, name));
        *count += 1;
        *severity = diagnostic.severity.min(*severity);
    }
    let mut rules: Vec<_> = rules.into_iter().collect();
    // Stable: equal counts stay in the order of tool and code.
    rules.sort_by_key(|(_, (count, ..))| std::cmp::Reverse(*count));
    if rules.is_empty() {
        return Ok(());
    }
    writeln!(out, "   count  severity  rule")?;
    for ((tool, code), (count, severity, name)) in rules {
        let line = format!("{count:>8}  {severity:<8}  {tool} {} {}", visible(code), visible(name));
        writeln!(out, "{}", line.trim_end())?;
    }
    writeln!(out)
}
