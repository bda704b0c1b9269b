//! Options a client may give a tool: a typed list per tool. None of them can name a file or run code.

use std::collections::BTreeMap;

use super::adapter::adapter;
use crate::types::ToolRequest;

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// Comma-separated rule codes or names: letters, digits, `-` and `_`.
    Rules,
    /// A whole number within bounds.
    Integer {
        /// The least.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// `true`, and `false` if the tool has an argument for it.
    Switch {
        /// The argument that switches it off.
        off: Option<&'static str>,
    },
    /// One of a few words.
    Choice(&'static [&'static str]),
}

/// One option of a tool.
#[derive(Debug, Clone, Copy)]
pub struct OptionRule {
    /// What clients call it.
    pub name: &'static str,
    /// The tool's argument.
    pub argument: &'static str,
    /// Its values.
    pub kind: OptionKind,
}

/// One thing wrong with a request's options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option `{option}` of {tool}: {problem}")]
pub struct OptionProblem {
    /// The tool.
    pub tool: String,
    /// The option; empty if the tool itself is unknown.
    pub option: String,
    /// What is wrong, with the value and what is allowed.
    pub problem: String,
}

/// Long enough for any sensible list of rules, short enough for one argument.
const MAX_VALUE_BYTES: usize = 8192;

impl OptionRule {
    /// The values it takes, in words.
    pub fn allowed(&self) -> String {
        match self.kind {
            OptionKind::Rules => "comma-separated rule codes or names (letters, digits, `-`, `_`)".into(),
            OptionKind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            OptionKind::Switch { off: Some(_) } => "`true` or `false`".into(),
            OptionKind::Switch { off: None } => "`true` (leave it out otherwise)".into(),
            OptionKind::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }

    /// The argument for a value, or nothing if the value is not allowed.
    fn render(&self, value: &str) -> Option<String> {
        let with_value = || format!("{}={value}", self.argument);
        match self.kind {
            OptionKind::Rules => {
                let is_rule = |rule: &str| {
                    rule.starts_with(|c: char| c.is_ascii_alphanumeric())
                        && rule.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                };
                (value.len() <= MAX_VALUE_BYTES && value.split(',').all(is_rule)).then(with_value)
            }
            OptionKind::Integer { min, max } => {
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                let number = value.parse::<u32>().ok().filter(|_| digits)?;
                (min..=max).contains(&number).then(with_value)
            }
            OptionKind::Switch { off } => match value {
                "true" => Some(self.argument.to_owned()),
                "false" => off.map(str::to_owned),
                _ => None,
            },
            OptionKind::Choice(words) => words.contains(&value).then(with_value),
        }
    }
}

/// The command-line arguments for options that were validated; options that are not allowed are left out.
pub(crate) fn render_options(rules: &[OptionRule], options: &BTreeMap<String, String>) -> Vec<String> {
    options
        .iter()
        .filter_map(|(name, value)| rules.iter().find(|rule| rule.name == name)?.render(value))
        .collect()
}

/// Checks that the tool is known and that each option and its value are on the tool's list; reports all problems.
pub fn validate_options(request: &ToolRequest) -> Result<(), Vec<OptionProblem>> {
    let tool = request.tool.as_str();
    let Some(adapter) = adapter(tool) else {
        let known: Vec<_> = super::adapters().iter().map(|adapter| adapter.name()).collect();
        let problem = format!("the tool is not known; known are {}", known.join(", "));
        return Err(vec![OptionProblem { tool: tool.into(), option: String::new(), problem }]);
    };
    let rules = adapter.options();
    let problems: Vec<_> = request
        .options
        .iter()
        .filter_map(|(name, value)| {
            let problem = match rules.iter().find(|rule| rule.name == name) {
                None => {
                    let names: Vec<_> = rules.iter().map(|rule| rule.name).collect();
                    format!("is not allowed; allowed are {}", names.join(", "))
                }
                Some(rule) if rule.render(value).is_none() => {
                    let shown: String = value.chars().take(80).collect();
                    format!("value `{shown}` is not allowed; it takes {}", rule.allowed())
                }
                Some(_) => return None,
            };
            let option = name.chars().take(80).collect();
            Some(OptionProblem { tool: tool.into(), option, problem })
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ToolName;

    fn request(tool: &str, options: &[(&str, &str)]) -> ToolRequest {
        ToolRequest {
            tool: ToolName::new(tool).expect("valid"),
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn sensible_options_of_each_tool_pass() {
        for (tool, options) in [
            ("flake8", &[("select", "E,W6"), ("max-line-length", "100"), ("max-complexity", "10")][..]),
            ("ruff", &[("select", "ALL"), ("preview", "true"), ("target-version", "py312")][..]),
            ("pylint", &[("disable", "all"), ("enable", "C0301,line-too-long")][..]),
            (
                "mypy",
                &[("strict", "true"), ("python-version", "3.12"), ("disallow-untyped-defs", "false")][..],
            ),
            ("bandit", &[("tests", "B101,B102"), ("severity-level", "high")][..]),
        ] {
            assert_eq!(validate_options(&request(tool, options)), Ok(()), "{tool}");
        }
    }

    #[test]
    fn what_writes_files_or_runs_code_is_refused_and_all_problems_are_named() {
        let bad = request(
            "pylint",
            &[
                ("init-hook", "import os"),
                ("load-plugins", "x"),
                ("max-line-length", "1e3"),
                ("disable", "a b"),
            ],
        );
        let problems = validate_options(&bad).expect_err("four problems");
        assert_eq!(problems.len(), 4);
        let text = problems.iter().map(ToString::to_string).collect::<String>();
        for part in ["init-hook", "allowed are", "a whole number from", "comma-separated"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for (tool, option, value) in [
            ("flake8", "select", "E501,--output-file"),
            ("flake8", "select", ""),
            ("mypy", "strict", "false"),
            ("mypy", "python-version", "2.7"),
            ("bandit", "output", "x"),
            ("ruff", "config", "x"),
            ("ruff", "line-length", "+88"),
            ("eslint", "x", "y"),
        ] {
            assert!(validate_options(&request(tool, &[(option, value)])).is_err(), "{tool} {option}={value}");
        }
    }

    #[test]
    fn every_rule_of_every_tool_states_what_it_takes() {
        for adapter in crate::linters::adapters() {
            let mut names = std::collections::BTreeSet::new();
            for rule in adapter.options() {
                assert!(names.insert(rule.name), "{} twice", rule.name);
                assert!(rule.argument.starts_with("--"));
                assert!(!rule.allowed().is_empty());
            }
        }
    }
}
