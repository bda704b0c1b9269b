//! Which rules of different tools report the same problem.
//!
//! Most of it is arithmetic on ruff's codes, which say where a rule comes from; the rest is the reviewed table in
//! `groups.toml`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// The name under which equivalent rules are one: `tool:code` of the first rule of their group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey(String);

impl RuleKey {
    /// The key as text, `tool:code`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tool part.
    pub fn tool(&self) -> &str {
        self.0.split_once(':').map_or("", |(tool, _)| tool)
    }

    /// The code part.
    pub fn code(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, code)| code)
    }
}

/// What may be assumed when reports under one key are matched with each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits {
    /// The messages name what they speak of.
    pub named: bool,
    /// One tool may report the statement where another reports the name within it.
    pub statement: bool,
    /// A tool may report it at line 1 without a column, not knowing the place.
    pub unplaced: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader of the table; no group goes without"))]
    source: String,
    rules: Vec<String>,
    #[serde(default)]
    named: bool,
    #[serde(default)]
    statement: bool,
    #[serde(default)]
    unplaced: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    group: Vec<Group>,
}

/// From each rule of the table to its group's key and traits.
static GROUPS: LazyLock<HashMap<String, (RuleKey, Traits)>> = LazyLock::new(|| {
    let table: Table = toml::from_str(include_str!("groups.toml"))
        .unwrap_or_else(|error| unreachable!("the embedded table is tested: {error}"));
    let mut rules = HashMap::new();
    for group in table.group {
        let traits = Traits { named: group.named, statement: group.statement, unplaced: group.unplaced };
        if let Some(first) = group.rules.first().cloned() {
            for rule in group.rules {
                rules.insert(rule, (RuleKey(first.clone()), traits));
            }
        }
    }
    rules
});

/// Plugins of flake8 whose codes ruff took over with the same meaning.
const SHARED_WITH_FLAKE8_PLUGINS: [&str; 19] = [
    "A", "ANN", "B", "BLE", "C", "COM", "D", "DTZ", "EM", "G", "ISC", "N", "PIE", "PT", "Q", "RET", "SIM",
    "SLF", "T",
];

/// Codes of ruff that look like pylint's or bandit's but have another number there.
const RENUMBERED: [(&str, &str); 2] = [("PLC1901", "pylint:C1804"), ("PLE0116", "pylint:W0136")];

/// Codes of ruff that look like bandit's, where bandit has no such test any more.
const RUFF_ONLY: [&str; 2] = ["S320", "S410"];

/// The key of a rule. Rules of which nothing is known to be equivalent have a key of their own.
pub fn rule_key(tool: &str, code: &str) -> RuleKey {
    let own = if tool == "ruff" { origin_of_ruff_rule(code) } else { None };
    let own = own.unwrap_or_else(|| format!("{tool}:{code}"));
    match GROUPS.get(&own) {
        Some((key, _)) => key.clone(),
        None => RuleKey(own),
    }
}

/// What may be assumed of reports under `key`.
pub fn traits(key: &RuleKey) -> Traits {
    GROUPS.get(key.as_str()).map(|(_, traits)| *traits).unwrap_or_default()
}

/// The rule that a rule of ruff was taken from, as far as its code says it.
fn origin_of_ruff_rule(code: &str) -> Option<String> {
    if let Some((_, origin)) = RENUMBERED.iter().find(|(renumbered, _)| *renumbered == code) {
        return Some((*origin).to_owned());
    }
    if RUFF_ONLY.contains(&code) {
        return None;
    }
    let digits_at = code.find(|c: char| c.is_ascii_digit())?;
    let (prefix, number) = code.split_at(digits_at);
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match prefix {
        "PLC" | "PLE" | "PLR" | "PLW" if number.len() == 4 => {
            Some(format!("pylint:{}", code.strip_prefix("PL")?))
        }
        "S" if number.len() == 3 => Some(format!("bandit:B{number}")),
        "E" | "W" | "F" => Some(format!("flake8:{code}")),
        _ if SHARED_WITH_FLAKE8_PLUGINS.contains(&prefix) => Some(format!("flake8:{code}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tool: &str, code: &str) -> String {
        rule_key(tool, code).as_str().to_owned()
    }

    #[test]
    fn ruff_codes_lead_to_the_tool_they_come_from() {
        for (code, origin) in [
            ("PLR0913", "pylint:R0913"),
            ("PLC1901", "pylint:C1804"),
            ("S101", "bandit:B101"),
            ("S320", "ruff:S320"),
            ("S410", "ruff:S410"),
            ("E225", "flake8:E225"),
            ("C901", "flake8:C901"),
            ("B008", "flake8:B008"),
            ("RUF100", "ruff:RUF100"),
            ("SLOT000", "ruff:SLOT000"),
            ("T201", "flake8:T201"),
            ("invalid-syntax", "flake8:E999"),
            ("", "ruff:"),
            ("9", "ruff:9"),
            ("Sé1", "ruff:Sé1"),
        ] {
            assert_eq!(key("ruff", code), origin, "{code}");
        }
    }

    #[test]
    fn the_example_of_the_long_line_is_one_rule_in_three_tools() {
        for (tool, code) in [("flake8", "E501"), ("ruff", "E501"), ("pylint", "C0301")] {
            assert_eq!(key(tool, code), "flake8:E501");
        }
        assert_ne!(key("pylint", "C0302"), "flake8:E501");
        assert_ne!(key("bandit", "E501"), "flake8:E501");
    }

    #[test]
    fn every_group_joins_at_least_two_tools_and_no_rule_is_listed_twice() {
        let table: Table = toml::from_str(include_str!("groups.toml")).expect("the table parses");
        let mut seen = std::collections::BTreeSet::new();
        for group in &table.group {
            assert!(!group.source.is_empty());
            for rule in &group.rules {
                assert!(seen.insert(rule.clone()), "{rule} is in two groups");
                if let Some(code) = rule.strip_prefix("ruff:") {
                    assert_eq!(origin_of_ruff_rule(code), None, "{rule} must be listed under its origin");
                }
            }
            assert!(group.rules.len() >= 2, "{:?}", group.rules);
        }
    }

    #[test]
    fn every_rule_of_the_table_exists_in_its_tool() {
        let listed = [
            ("ruff", include_str!("../../../tests/fixtures/rules/ruff.tsv")),
            ("pylint", include_str!("../../../tests/fixtures/rules/pylint.tsv")),
            ("flake8", include_str!("../../../tests/fixtures/rules/flake8.tsv")),
            ("mypy", include_str!("../../../tests/fixtures/rules/mypy.tsv")),
            ("bandit", include_str!("../../../tests/fixtures/rules/bandit.tsv")),
        ];
        let known = |tool: &str, code: &str| {
            listed
                .iter()
                .filter(|(name, _)| *name == tool)
                .flat_map(|(_, text)| text.lines())
                .any(|line| line.split('\t').next() == Some(code))
        };
        for rule in GROUPS.keys() {
            let (tool, code) = rule.split_once(':').expect("tool:code");
            if rule == "bandit:syntax-error" {
                // No test of bandit's: files that it could not parse are listed apart from its results.
                continue;
            }
            // Codes of flake8 plugins are not in flake8's own list; ruff lists them.
            assert!(known(tool, code) || (tool == "flake8" && known("ruff", code)), "{rule} is unknown");
        }
    }
}
