//! What doctor found, and how it is shown.

use serde_json::{Value, json};

use crate::linters::report::visible;

/// How bad a finding is. The greatest is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It was not looked at.
    NotMeasured,
    Passed,
    /// Works, with less than there could be.
    Warning,
    Failed,
}

impl Verdict {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Verdict::NotMeasured => "not_measured",
            Verdict::Passed => "passed",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        }
    }

    /// The name as it fits the screen.
    const fn word(self) -> &'static str {
        match self {
            Verdict::NotMeasured => "skipped",
            other => other.name(),
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) verdict: Verdict,
    pub(super) evidence: String,
    /// What to do; empty if nothing is wrong.
    pub(super) remedy: String,
}

impl Check {
    pub(super) fn passed(name: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::wrong(name, Verdict::Passed, evidence, "")
    }

    pub(super) fn skipped(name: impl Into<String>, evidence: impl Into<String>, remedy: &str) -> Self {
        Self::wrong(name, Verdict::NotMeasured, evidence, remedy)
    }

    pub(super) fn wrong(
        name: impl Into<String>,
        verdict: Verdict,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), verdict, evidence: evidence.into(), remedy: remedy.into() }
    }
}

/// Checks that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) checks: Vec<Check>,
}

impl Section {
    pub(super) const fn new(name: &'static str, checks: Vec<Check>) -> Self {
        Self { name, checks }
    }

    /// The worst of its checks.
    pub(super) fn verdict(&self) -> Verdict {
        self.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::NotMeasured)
    }
}

/// One line for each check, its evidence and remedy aligned; what comes from elsewhere cannot move the cursor.
pub(super) fn screen(sections: &[Section]) -> String {
    let names =
        sections.iter().flat_map(|section| &section.checks).map(|check| shown(&check.name).chars().count());
    let width = names.max().unwrap_or(0);
    let mut text = String::new();
    for section in sections {
        text.push_str(&format!("{:<8} {}\n", section.verdict().word(), section.name));
        for check in &section.checks {
            let margin = " ".repeat(width + 13);
            let evidence: Vec<String> = check.evidence.lines().map(shown).collect();
            text.push_str(&format!(
                "  {:<8} {:<width$}  {}\n",
                check.verdict.word(),
                shown(&check.name),
                evidence.join(&format!("\n{margin}"))
            ));
            if !check.remedy.is_empty() {
                text.push_str(&format!("{margin}-> {}\n", shown(&check.remedy)));
            }
        }
    }
    text
}

fn shown(text: &str) -> String {
    visible(text).into_owned()
}

pub(super) fn as_json(sections: &[Section]) -> Value {
    let check = |check: &Check| {
        json!({
            "name": check.name,
            "result": check.verdict.name(),
            "evidence": check.evidence,
            "remedy": check.remedy,
        })
    };
    let section = |section: &Section| {
        json!({
            "section": section.name,
            "result": section.verdict().name(),
            "checks": section.checks.iter().map(check).collect::<Vec<_>>(),
        })
    };
    let worst = sections.iter().map(Section::verdict).max().unwrap_or(Verdict::NotMeasured);
    json!({
        "ok": worst < Verdict::Warning,
        "result": worst.name(),
        "sections": sections.iter().map(section).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_tell_evidence_and_remedy_and_names_cannot_move_the_cursor() {
        let sections = [
            Section::new("machine", vec![Check::passed("a", "one\ntwo")]),
            Section::new("mesh", vec![Check::wrong("n\u{1b}[2J", Verdict::Failed, "gone", "bring it back")]),
        ];
        let text = screen(&sections);
        assert!(text.starts_with("passed   machine\n  passed   a"), "{text}");
        let column = |word: &str| text.lines().find_map(|line| line.find(word));
        assert!(column("one").is_some() && column("one") == column("two"), "{text}");
        assert!(text.contains("-> bring it back"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let json = as_json(&sections);
        assert_eq!((&json["ok"], &json["result"]), (&Value::Bool(false), &Value::from("failed")));
        assert_eq!(json["sections"][1]["checks"][0]["remedy"], "bring it back");
        assert_eq!(as_json(&sections[..1])["ok"], true);
    }
}
