//! What an installer's failure means, read from what it printed.

use std::collections::BTreeMap;

use super::ProvisionError;

/// What installers print when a file cannot be had, in lower case.
const NOT_TO_BE_HAD: [&str; 9] = [
    "failed to fetch",
    "failed to download",
    "no matching distribution",
    "could not find a version",
    "not found in the package registry",
    "no solution found",
    "connection",
    "timed out",
    "dns error",
];

/// What installers print when a file is not the pinned one, in lower case.
const OTHER_CONTENT: [&str; 2] = ["hash mismatch", "do not match the hashes"];

/// Longer details would hide the remedy that follows them.
const DETAIL_CHARACTERS: usize = 400;

/// Classifies a failed installation.
pub(super) fn explain(installer: &'static str, output: &str, pins: &BTreeMap<&str, &str>) -> ProvisionError {
    let said = from_first_error(output);
    let lower = said.to_lowercase();
    let detail = shorten(&without_credentials(said));
    let missing = NOT_TO_BE_HAD.iter().any(|sign| lower.contains(sign));
    let tampered = OTHER_CONTENT.iter().any(|sign| lower.contains(sign));
    match first_package(&lower, pins) {
        Some(package) if missing && !tampered => ProvisionError::Unavailable { package, detail },
        _ => ProvisionError::Install { installer, detail },
    }
}

/// What comes before the first error are reports of success.
fn from_first_error(output: &str) -> &str {
    let lower = output.to_ascii_lowercase();
    let start = ["error", "\u{d7} ", "failed"].iter().filter_map(|sign| lower.find(sign)).min().unwrap_or(0);
    output.get(start..).unwrap_or(output).trim()
}

/// The first pinned package that the text names, as a word of its own.
fn first_package(lower: &str, pins: &BTreeMap<&str, &str>) -> Option<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // A version may be glued on: `name==1.2`; a file name carries it after a dash: `name-1.2-py3.whl`.
    let names = |word: &str, package: &str| {
        let word = word.replace('_', "-");
        word == package
            || word
                .strip_prefix(package)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    lower.split(|c| !is_part(c)).find_map(|word| {
        let (package, version) = pins.iter().find(|(package, _)| names(word, package))?;
        Some(format!("{package}=={version}"))
    })
}

/// An index's address may carry a name and a password.
fn without_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = part.find(['/', ' ', '\n', '`', '\'', '"']).unwrap_or(part.len());
        let host = part[..authority].rfind('@').map_or(0, |at| at + 1);
        clean.push_str("://");
        clean.push_str(&part[host..]);
    }
    clean
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(DETAIL_CHARACTERS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([("ast-serialize", "0.13.1"), ("ruff", "0.17.6"), ("mypy", "2.4.1")])
    }

    fn unavailable(output: &str) -> String {
        match explain("uv", output, &pins()) {
            ProvisionError::Unavailable { package, .. } => package,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_package_is_found_in_what_uv_and_pip_print() {
        let uv = "Using Python 3.11.7 environment at: pv\nerror: Failed to fetch: http://127.0.0.1:9/simple/ast-serialize/\n\
            \x20 cause: error sending request for url (http://127.0.0.1:9/simple/ast-serialize/)\n\
            \x20 cause: tcp connect error\n  cause: Connection refused (os error 111)\n";
        assert_eq!(unavailable(uv), "ast-serialize==0.13.1");
        let pip = "Looking in indexes: http://127.0.0.1:9/simple\nIgnoring colorama: markers don't match\n\
            Collecting mypy==2.4.1\n\
            ERROR: Could not find a version that satisfies the requirement ruff==0.17.6 (from versions: none)\n\
            ERROR: No matching distribution found for ruff==0.17.6\n";
        assert_eq!(unavailable(pip), "ruff==0.17.6");
        let file = "  \u{d7} Failed to download `x`\n  failed to fetch ast_serialize-0.13.1-cp311.whl";
        assert_eq!(unavailable(file), "ast-serialize==0.13.1");
    }

    #[test]
    fn other_failures_are_not_blamed_on_the_network() {
        for output in [
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. connection ruff==0.17.6",
            "error: Failed to install: ruff-0.17.6.whl\n  Caused by: No space left on device",
            "error: connection refused while running ruffian",
            "",
        ] {
            assert!(matches!(explain("pip", output, &pins()), ProvisionError::Install { .. }), "{output}");
        }
    }

    #[test]
    fn both_alternatives_are_named() {
        let message = explain("uv", "error: failed to fetch ruff", &pins()).to_string();
        for part in ["ruff==0.17.6", "--toolchain system", "--toolchain PATH-TO-VENV"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn passwords_do_not_reach_the_message() {
        let output = "error: Failed to fetch: `https://me:secr@t@host/simple/ruff/` and ftp://plain/x";
        let message = explain("uv", output, &pins()).to_string();
        assert!(
            message.contains("https://host/simple/ruff/") && message.contains("ftp://plain/x"),
            "{message}"
        );
        assert!(!message.contains("secr"), "{message}");
    }

    #[test]
    fn a_long_output_is_cut_between_characters() {
        let error = explain("pip", &format!("error: {}", "\u{e9}".repeat(5000)), &pins());
        assert!(error.to_string().chars().count() < 700);
    }
}
