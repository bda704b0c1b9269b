//! Names of rules and links to their documentation, for tools that do not give them.

use std::collections::HashMap;
use std::sync::LazyLock;

/// From (tool, code) to the rule's name, as the tools themselves list them.
static NAMES: LazyLock<HashMap<(&'static str, &'static str), &'static str>> = LazyLock::new(|| {
    include_str!("names.tsv")
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            Some(((fields.next()?, fields.next()?), fields.next()?))
        })
        .collect()
});

/// The name of a rule: `line-too-long`.
///
/// flake8's own rules have no names; those of the same code in ruff are used. mypy's codes are names.
pub fn name(tool: &str, code: &str) -> Option<&'static str> {
    let tool = if tool == "flake8" { "ruff" } else { tool };
    // The borrowed key has the lifetime of the arguments, so the static map is looked up covariantly.
    let names: &HashMap<(&str, &str), &'static str> = &NAMES;
    names.get(&(tool, code)).copied()
}

/// Where a rule is documented. `name` is the rule's name as its tool gave it, if it did.
///
/// URL forms: pylint's message pages, ruff's rule pages, mypy's reference redirect (which knows in which of its two
/// lists a code is), bandit's plugin pages, and for flake8 the lists of its three engines.
pub fn documentation(tool: &str, code: &str, given: Option<&str>) -> Option<String> {
    let name = given.filter(|text| is_plain(text)).or_else(|| name(tool, code));
    if !is_plain(code) {
        return None;
    }
    match tool {
        "pylint" => {
            let category = match code.as_bytes().first()? {
                b'F' => "fatal",
                b'E' => "error",
                b'W' => "warning",
                b'C' => "convention",
                b'R' => "refactor",
                b'I' => "information",
                _ => return None,
            };
            Some(format!(
                "https://pylint.readthedocs.io/en/stable/user_guide/messages/{category}/{}.html",
                name?
            ))
        }
        // Syntax errors are no rule of ruff's.
        "ruff" if code == "invalid-syntax" => None,
        "ruff" => Some(format!("https://docs.astral.sh/ruff/rules/{}", name?)),
        "mypy" => Some(format!("https://mypy.readthedocs.io/en/stable/_refs.html#code-{code}")),
        "bandit" => {
            let (id, name) = (code.to_ascii_lowercase(), name?.replace('-', "_"));
            Some(match code.as_bytes() {
                [b'B', b'3', ..] if code != "B324" => format!(
                    "https://bandit.readthedocs.io/en/latest/blacklists/blacklist_calls.html#{id}-{}",
                    name.replace('_', "-")
                ),
                [b'B', b'4', ..] => format!(
                    "https://bandit.readthedocs.io/en/latest/blacklists/blacklist_imports.html#{id}-{}",
                    name.replace('_', "-")
                ),
                _ => format!("https://bandit.readthedocs.io/en/latest/plugins/{id}_{name}.html"),
            })
        }
        "flake8" => match code.as_bytes().first()? {
            b'E' | b'W' if code.len() == 4 && code != "E902" && code != "E999" => {
                Some("https://pycodestyle.pycqa.org/en/latest/intro.html#error-codes".to_owned())
            }
            b'E' | b'F' if code.len() == 4 => {
                Some("https://flake8.pycqa.org/en/latest/user/error-codes.html".to_owned())
            }
            _ if code == "C901" => Some("https://github.com/PyCQA/mccabe".to_owned()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a tool's word can stand in a URL as it is.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_linked_to_their_pages() {
        for (tool, code, given, url) in [
            (
                "pylint",
                "C0301",
                None,
                Some(
                    "https://pylint.readthedocs.io/en/stable/user_guide/messages/convention/line-too-long.html",
                ),
            ),
            ("ruff", "F401", None, Some("https://docs.astral.sh/ruff/rules/unused-import")),
            ("ruff", "invalid-syntax", Some("invalid-syntax"), None),
            (
                "mypy",
                "arg-type",
                None,
                Some("https://mypy.readthedocs.io/en/stable/_refs.html#code-arg-type"),
            ),
            (
                "bandit",
                "B101",
                None,
                Some("https://bandit.readthedocs.io/en/latest/plugins/b101_assert_used.html"),
            ),
            (
                "bandit",
                "B404",
                None,
                Some(
                    "https://bandit.readthedocs.io/en/latest/blacklists/blacklist_imports.html#b404-import-subprocess",
                ),
            ),
            ("flake8", "E501", None, Some("https://pycodestyle.pycqa.org/en/latest/intro.html#error-codes")),
            ("flake8", "F401", None, Some("https://flake8.pycqa.org/en/latest/user/error-codes.html")),
            ("flake8", "X1/../", None, None),
            ("pylint", "C9999", Some("../evil"), None),
            ("other", "1", None, None),
        ] {
            assert_eq!(documentation(tool, code, given).as_deref(), url, "{tool} {code}");
        }
    }

    #[test]
    fn every_listed_rule_of_pylint_ruff_and_bandit_has_a_name() {
        assert_eq!(name("flake8", "E501"), Some("line-too-long"));
        assert_eq!(name("bandit", "B602"), Some("subprocess_popen_with_shell_equals_true"));
        assert_eq!(name("pylint", "nothing"), None);
        assert!(NAMES.len() > 1400, "{}", NAMES.len());
    }
}
