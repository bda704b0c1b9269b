//! The severity of a rule, or of one finding where its tool rates findings.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use crate::linters::equivalence::rule_key;
use crate::types::Severity;

/// What a severity rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The user's configuration.
    Override,
    /// The tool's own rating of this finding.
    Rating,
    /// The catalogue's entry for the rule.
    Rule,
    /// The catalogue's entry for a family of rules.
    Family,
    /// Nothing is known of it.
    Fallback,
}

/// A severity and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assessment {
    /// On the unified scale.
    pub severity: Severity,
    /// Why.
    pub basis: Basis,
}

/// For rules of which nothing is known: worth a look, not worth an alarm.
const FALLBACK: Severity = Severity::Medium;

/// No code of a tool is longer; bounds the search when a tool prints garbage.
const LONGEST_CODE: usize = 100;

static CATALOGUE: LazyLock<HashMap<String, BTreeMap<String, Severity>>> = LazyLock::new(|| {
    toml::from_str(include_str!("severities.toml"))
        .unwrap_or_else(|error| unreachable!("the embedded table is tested: {error}"))
});

/// How serious a report of `code` by `tool` is.
///
/// In this order: the user's `overrides` (`tool:code` or `tool:prefix*`, the longest wins); the tool's own `rating`
/// where that says more than the rule (bandit's `SEVERITY` or `SEVERITY/CONFIDENCE`, mypy's `note`); the catalogue by
/// rule, then by the longest family; MEDIUM.
pub fn assess(
    tool: &str,
    code: &str,
    rating: Option<&str>,
    overrides: &BTreeMap<String, Severity>,
) -> Assessment {
    if !overrides.is_empty() {
        let chosen = best_match(code, |pattern| overrides.get(&format!("{tool}:{pattern}")).copied());
        if let Some((severity, _)) = chosen {
            return Assessment { severity, basis: Basis::Override };
        }
    }
    let by_rule = catalogued(tool, code);
    match rating.and_then(|rating| rated(tool, rating, by_rule.severity)) {
        Some(severity) => Assessment { severity, basis: Basis::Rating },
        None => by_rule,
    }
}

/// What the catalogue says of a rule.
fn catalogued(tool: &str, code: &str) -> Assessment {
    // The rule's group first, so that equivalent rules agree; then the rule itself, for
    // families that only its own tool's part of the table knows.
    let key = rule_key(tool, code);
    for (tool, code) in [(key.tool(), key.code()), (tool, code)] {
        let Some(rules) = CATALOGUE.get(tool) else { continue };
        if let Some((severity, basis)) = best_match(code, |pattern| rules.get(pattern).copied()) {
            return Assessment { severity, basis };
        }
    }
    Assessment { severity: FALLBACK, basis: Basis::Fallback }
}

/// The exact entry, or that of the longest prefix.
fn best_match(code: &str, get: impl Fn(&str) -> Option<Severity>) -> Option<(Severity, Basis)> {
    if let Some(severity) = get(code) {
        return Some((severity, Basis::Rule));
    }
    let ends = code.char_indices().map(|(at, _)| at).chain([code.len()]).filter(|end| *end <= LONGEST_CODE);
    let mut ends: Vec<usize> = ends.collect();
    ends.reverse();
    ends.into_iter()
        .find_map(|end| get(&format!("{}*", &code[..end])))
        .map(|severity| (severity, Basis::Family))
}

/// The severity of a finding by its tool's own rating, for the tools that rate findings rather than rules.
fn rated(tool: &str, rating: &str, by_rule: Severity) -> Option<Severity> {
    match tool {
        "bandit" => {
            let mut words = rating.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
            let (severity, confidence) = (words.next()?.to_ascii_uppercase(), words.next());
            let sure = confidence.map(|word| word.eq_ignore_ascii_case("HIGH"));
            match (severity.as_str(), sure) {
                ("HIGH", Some(true)) => Some(Severity::Critical),
                // How sure it is was not passed on; the catalogue knows which tests find what is exploitable.
                ("HIGH", None) => Some(by_rule.min(Severity::High)),
                ("HIGH", Some(false)) | ("MEDIUM", Some(true)) => Some(Severity::High),
                ("MEDIUM", _) => Some(Severity::Medium),
                ("LOW", _) => Some(Severity::Low),
                _ => None,
            }
        }
        "mypy" if rating.eq_ignore_ascii_case("note") => Some(Severity::Info),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn catalogue(tool: &str, code: &str) -> Assessment {
        assess(tool, code, None, &BTreeMap::new())
    }

    /// The tools' own lists of their rules, as the pinned versions print them.
    const LISTS: [(&str, &str); 5] = [
        ("bandit", include_str!("../../../tests/fixtures/rules/bandit.tsv")),
        ("flake8", include_str!("../../../tests/fixtures/rules/flake8.tsv")),
        ("mypy", include_str!("../../../tests/fixtures/rules/mypy.tsv")),
        ("pylint", include_str!("../../../tests/fixtures/rules/pylint.tsv")),
        ("ruff", include_str!("../../../tests/fixtures/rules/ruff.tsv")),
    ];

    fn listed() -> impl Iterator<Item = (&'static str, &'static str)> {
        LISTS.into_iter().flat_map(|(tool, list)| {
            list.lines().map(move |line| (tool, line.split('\t').next().expect("a code")))
        })
    }

    #[test]
    fn every_rule_of_the_five_tools_has_an_entry_or_a_family() {
        let unknown: Vec<_> =
            listed().filter(|(tool, code)| catalogue(tool, code).basis == Basis::Fallback).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(listed().count() > 1700);
    }

    #[test]
    fn equivalent_rules_have_one_severity() {
        let mut by_key = HashMap::new();
        for (tool, code) in listed() {
            let severity = catalogue(tool, code).severity;
            let (first, expected) = *by_key.entry(rule_key(tool, code)).or_insert(((tool, code), severity));
            assert_eq!(severity, expected, "{tool}:{code} and {first:?}");
        }
    }

    #[test]
    fn no_entry_of_the_catalogue_is_hidden_behind_a_group() {
        let mut hidden_entries = Vec::new();
        for (tool, rules) in CATALOGUE.iter() {
            for pattern in rules.keys().filter(|pattern| !pattern.ends_with('*')) {
                let key = rule_key(tool, pattern);
                let hidden = (key.tool(), key.code()) != (tool.as_str(), pattern.as_str())
                    && CATALOGUE.contains_key(key.tool());
                if hidden {
                    hidden_entries.push(format!("{tool}:{pattern}"));
                }
            }
        }
        assert!(hidden_entries.is_empty(), "move to the group's first rule: {hidden_entries:?}");
    }

    #[test]
    fn the_scale_means_what_it_says() {
        for (tool, code, severity) in [
            ("flake8", "E999", Severity::Critical),
            ("ruff", "invalid-syntax", Severity::Critical),
            ("mypy", "syntax", Severity::Critical),
            ("pylint", "E0602", Severity::Critical),
            ("mypy", "arg-type", Severity::High),
            ("ruff", "S301", Severity::High),
            ("pylint", "W0611", Severity::Medium),
            ("ruff", "PLR0913", Severity::Medium),
            ("flake8", "E501", Severity::Low),
            ("pylint", "C0114", Severity::Info),
            ("ruff", "D203", Severity::Info),
            ("unheard-of", "X1", Severity::Medium),
        ] {
            assert_eq!(catalogue(tool, code).severity, severity, "{tool}:{code}");
        }
    }

    #[test]
    fn a_finding_that_its_tool_rates_takes_the_rating() {
        for (tool, rating, severity) in [
            ("bandit", "HIGH/HIGH", Severity::Critical),
            ("bandit", "HIGH", Severity::Critical),
            ("bandit", "MEDIUM/HIGH", Severity::High),
            ("bandit", "medium/low", Severity::Medium),
            ("bandit", "LOW/HIGH", Severity::Low),
            ("mypy", "note", Severity::Info),
        ] {
            assert_eq!(assess(tool, "B602", Some(rating), &BTreeMap::new()).severity, severity, "{rating}");
        }
        // Without a confidence only rules known to be exploitable are CRITICAL.
        assert_eq!(assess("bandit", "B609", Some("HIGH"), &BTreeMap::new()).severity, Severity::High);
        assert_eq!(assess("ruff", "F401", Some("error"), &BTreeMap::new()).severity, Severity::Medium);
    }

    #[test]
    fn the_longest_override_wins_over_everything() {
        let overrides = BTreeMap::from([
            ("pylint:*".to_owned(), Severity::Info),
            ("pylint:E*".to_owned(), Severity::Low),
            ("pylint:E0602".to_owned(), Severity::Medium),
            ("bandit:B*".to_owned(), Severity::Info),
        ]);
        for (tool, code, severity) in [
            ("pylint", "E0602", Severity::Medium),
            ("pylint", "E0601", Severity::Low),
            ("pylint", "W0611", Severity::Info),
            ("bandit", "B602", Severity::Info),
        ] {
            let found = assess(tool, code, Some("HIGH/HIGH"), &overrides);
            assert_eq!(found, Assessment { severity, basis: Basis::Override }, "{tool}:{code}");
        }
        assert_eq!(assess("flake8", "E501", None, &overrides).basis, Basis::Family);
    }

    proptest! {
        #[test]
        fn any_text_gets_a_severity(tool in "\\PC{0,12}", code in "\\PC{0,200}", rating in "\\PC{0,12}") {
            let _ = assess(&tool, &code, Some(&rating), &BTreeMap::from([("a:*".to_owned(), Severity::Low)]));
        }
    }
}
