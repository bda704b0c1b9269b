//! The settings as a table for the manual, made from their declarations.

use std::fmt::Write as _;

use super::Settings;
use super::setting::Setting as _;

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `section.name`; `[]` stands for each element of a list.
    pub key: String,
    /// As it is written in TOML; empty if it is not set.
    pub default: String,
    /// What values it takes.
    pub allowed: String,
    /// What it does.
    pub meaning: String,
}

impl Row {
    pub(super) fn new(key: &str, default: String, allowed: &str, doc: &[&str]) -> Self {
        let meaning = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        Self { key: key.into(), default, allowed: allowed.into(), meaning }
    }
}

/// All settings, in the order of their declaration.
pub fn reference() -> Vec<Row> {
    Settings::default().rows("", &[], "")
}

/// The settings as a Markdown table.
pub fn reference_table() -> String {
    let mut table = String::from("| setting | default | allowed | meaning |\n|---|---|---|---|\n");
    for Row { key, default, allowed, meaning } in reference() {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let cells = [format!("`{key}`"), default, allowed, meaning];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table
}

const BEGIN: &str = "<!-- settings: made by config::with_reference -->\n";
const END: &str = "<!-- end of settings -->";

/// The document with the table between its two marker comments replaced by [`reference_table`]; none without markers.
pub fn with_reference(document: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", reference_table()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_has_one_row_with_a_meaning_and_what_is_allowed() {
        let rows = reference();
        let keys: BTreeSet<_> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys.len(), rows.len());
        for row in &rows {
            assert!(!row.meaning.is_empty() && !row.allowed.is_empty(), "{row:?}");
            assert!(
                row.key.contains('.') || ["environments", "severity"].contains(&row.key.as_str()),
                "{row:?}"
            );
        }
        for (key, default) in [
            ("mesh.heartbeat_interval", "5.0"),
            ("mesh.load_balancing_strategy", "\"capability_based\""),
            ("server.listen", "\"127.0.0.1:50051\""),
            ("server.tls.cert", ""),
            ("limits.memory_bytes", "2147483648"),
        ] {
            let row = rows.iter().find(|row| row.key == key).expect(key);
            assert_eq!(row.default, default, "{key}");
        }
        assert!(keys.contains("nodes.specialists[].priority_weight"), "{keys:?}");
    }

    #[test]
    fn the_table_is_put_between_the_markers_and_is_stable() {
        let document = format!("# Title\n{BEGIN}stale row\n{END}\nrest\n");
        let updated = with_reference(&document).expect("it has both markers");
        assert!(updated.starts_with("# Title\n") && updated.ends_with("-->\nrest\n"), "{updated}");
        assert!(updated.contains("| `mesh.heartbeat_interval` | `5.0` |") && !updated.contains("stale row"));
        assert_eq!(with_reference(&updated), Some(updated));
        assert_eq!(with_reference("no markers"), None);
    }
}
