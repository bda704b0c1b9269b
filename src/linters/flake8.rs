//! flake8: file scope; its own record format, since it has no JSON.

use super::adapter::{
    Adapter, Cost, Finding, Output, Reading, Scope, crashed, first_version, garbled, refused_configuration,
};
use super::options::{OptionKind, OptionRule};
use super::source::{Counting, Unit};
use super::tree_config::{
    ConfigurationFiles, Content, Ini, ini, may_name_a_key, root_text, tree_code_refused,
};
use crate::types::{ToolError, ToolErrorKind};

pub(super) struct Flake8;

/// A record is `RS row US column US code US path US text GS`. These control characters cannot be mistaken for what
/// `statistics`, `count` or `show-source` in the tree's configuration print between records.
const RECORD: char = '\u{1e}';
const FIELD: char = '\u{1f}';
const END: char = '\u{1d}';

const OPTIONS: &[OptionRule] = &[
    OptionRule { name: "select", argument: "--select", kind: OptionKind::Rules },
    OptionRule { name: "extend-select", argument: "--extend-select", kind: OptionKind::Rules },
    OptionRule { name: "ignore", argument: "--ignore", kind: OptionKind::Rules },
    OptionRule { name: "extend-ignore", argument: "--extend-ignore", kind: OptionKind::Rules },
    OptionRule {
        name: "max-line-length",
        argument: "--max-line-length",
        kind: OptionKind::Integer { min: 1, max: 10_000 },
    },
    OptionRule {
        name: "max-doc-length",
        argument: "--max-doc-length",
        kind: OptionKind::Integer { min: 1, max: 10_000 },
    },
    OptionRule {
        name: "max-complexity",
        argument: "--max-complexity",
        kind: OptionKind::Integer { min: 0, max: 10_000 },
    },
    OptionRule { name: "doctests", argument: "--doctests", kind: OptionKind::Switch { off: None } },
    OptionRule { name: "disable-noqa", argument: "--disable-noqa", kind: OptionKind::Switch { off: None } },
];

const LOCAL_PLUGINS: &str = "flake8:local-plugins";

/// The first file with a section for flake8, in flake8's order. A file that cannot be parsed, which flake8 itself
/// would skip in silence, is taken if it is made for flake8 or speaks of it: then flake8 says what is wrong.
fn chosen(files: &ConfigurationFiles) -> Option<(&'static str, Content<Ini>)> {
    ["setup.cfg", "tox.ini", ".flake8"].into_iter().find_map(|name| {
        let content = ini(root_text(files, name)?, false);
        let meant = match &content {
            Content::Parsed(ini) => ini.has("flake8") || ini.has(LOCAL_PLUGINS),
            Content::Broken(text) => name == ".flake8" || text.contains("[flake8"),
        };
        meant.then_some((name, content))
    })
}

/// Keys that take diagnostics away from the output; a report without them would be a lie.
fn check_output(file: &str, ini: &Ini) -> Result<(), ToolError> {
    for key in ["output-file", "output_file", "quiet"] {
        if ini.get("flake8", key).is_some_and(|value| !matches!(value, "" | "0")) {
            return Err(ToolError {
                kind: ToolErrorKind::Configuration,
                message: format!(
                    "`{file}`, section [flake8], key `{key}` keeps diagnostics out of the report; remove it"
                ),
            });
        }
    }
    Ok(())
}

impl Adapter for Flake8 {
    fn name(&self) -> &'static str {
        "flake8"
    }

    fn scope(&self) -> Scope {
        Scope::File
    }

    fn cost(&self) -> Cost {
        Cost { per_byte: 32, start: 1_060_000 }
    }

    fn version(&self, printed: &str) -> Option<String> {
        first_version(printed)
    }

    fn options(&self) -> &'static [OptionRule] {
        OPTIONS
    }

    fn arguments(&self) -> Vec<String> {
        let format = format!(
            "--format={RECORD}%(row)d{FIELD}%(col)d{FIELD}%(code)s{FIELD}%(path)s{FIELD}%(text)s{END}"
        );
        vec!["--jobs=1".into(), "--color=never".into(), format]
    }

    fn configure(&self, files: &ConfigurationFiles, allow_tree_code: bool) -> Result<Vec<String>, ToolError> {
        let Some((file, content)) = chosen(files) else { return Ok(vec!["--isolated".into()]) };
        match &content {
            Content::Parsed(ini) => {
                let runs = ["extension", "report", "paths"]
                    .into_iter()
                    .find(|key| ini.get(LOCAL_PLUGINS, key).is_some_and(|value| !value.is_empty()));
                if let (Some(key), false) = (runs, allow_tree_code) {
                    return Err(tree_code_refused(file, LOCAL_PLUGINS, key));
                }
                check_output(file, ini)?;
            }
            Content::Broken(text) => {
                if !allow_tree_code && may_name_a_key(text, &["local-plugins"]).is_some() {
                    return Err(tree_code_refused(file, LOCAL_PLUGINS, "extension"));
                }
            }
        }
        Ok(vec![format!("--config={file}")])
    }

    fn read(&self, output: Output<'_>) -> Reading {
        let text = String::from_utf8_lossy(output.stdout);
        let mut findings = Vec::new();
        let mut problem = None;
        for record in text.split(RECORD).skip(1) {
            match record.split_once(END).map(|(fields, _)| parse(fields)) {
                Some(Some(finding)) => findings.push(finding),
                Some(None) => problem = Some("a record without its five fields"),
                None => problem = Some("a record without its end"),
            }
        }
        let stderr = String::from_utf8_lossy(output.stderr);
        let error = match output.code {
            Some(0 | 1) if stderr.contains("Traceback (most recent call last)") => {
                Some(if stderr.contains("configparser") || stderr.contains("parse_config") {
                    refused_configuration("flake8", &super::adapter::last_words(output))
                } else {
                    crashed("flake8", output)
                })
            }
            Some(0 | 1) if problem.is_some() => problem.map(|problem| garbled("flake8", output, problem)),
            // Only a critical error gives status 1 without a single record; flake8 prints it on standard output.
            Some(1) if findings.is_empty() => Some(
                if text.contains("There was a critical error")
                    || stderr.contains("There was a critical error")
                {
                    refused_configuration("flake8", &super::adapter::last_words(output))
                } else {
                    crashed("flake8", output)
                },
            ),
            Some(0) if !text.trim().is_empty() && findings.is_empty() && !text.trim().starts_with('0') => {
                Some(garbled("flake8", output, "no record in it"))
            }
            Some(0 | 1) => None,
            Some(2) => Some(refused_configuration("flake8", &super::adapter::last_words(output))),
            _ => Some(crashed("flake8", output)),
        };
        Reading { findings, error }
    }
}

fn parse(fields: &str) -> Option<Finding> {
    let mut parts = fields.splitn(5, FIELD);
    let line = parts.next()?.parse().ok()?;
    let column: i64 = parts.next()?.parse().ok()?;
    let code = parts.next()?.to_owned();
    let path = parts.next()?.to_owned();
    let message = parts.next()?.to_owned();
    Some(Finding {
        path,
        line,
        column: Some(column),
        end: None,
        counting: counting(&code),
        code,
        name: None,
        message,
        tool_severity: None,
        url: None,
    })
}

/// pycodestyle counts code points, plugins on Python's `ast` count bytes; flake8 adds 1 to each. To the column of a
/// syntax error it adds 1 although CPython counts those from 1 already (seen with 7.5.0: `def f(:` gives 8 for 7).
fn counting(code: &str) -> Counting {
    match code.as_bytes().first() {
        _ if code == "E999" => Counting { unit: Unit::CodePoints, first: 2 },
        Some(b'E' | b'W') => Counting { unit: Unit::CodePoints, first: 1 },
        _ => Counting { unit: Unit::Utf8Bytes, first: 1 },
    }
}
