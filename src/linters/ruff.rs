//! ruff: file scope; JSON; columns from 1 in code points.

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;

use super::adapter::{
    Adapter, Cost, Finding, Output, Reading, Scope, crashed, first_version, garbled, last_words,
    refused_configuration,
};
use super::options::{OptionKind, OptionRule};
use super::source::{Counting, Unit};
use super::tree_config::{ConfigurationFiles, Content, RUFF_NAMES, Text, root_text, toml, tool_table};
use crate::types::{ToolError, ToolErrorKind, TreePath};

pub(super) struct Ruff;

const OPTIONS: &[OptionRule] = &[
    OptionRule { name: "select", argument: "--select", kind: OptionKind::Rules },
    OptionRule { name: "extend-select", argument: "--extend-select", kind: OptionKind::Rules },
    OptionRule { name: "ignore", argument: "--ignore", kind: OptionKind::Rules },
    OptionRule { name: "extend-ignore", argument: "--extend-ignore", kind: OptionKind::Rules },
    OptionRule {
        name: "line-length",
        argument: "--line-length",
        kind: OptionKind::Integer { min: 1, max: 320 },
    },
    OptionRule {
        name: "preview",
        argument: "--preview",
        kind: OptionKind::Switch { off: Some("--no-preview") },
    },
    OptionRule { name: "ignore-noqa", argument: "--ignore-noqa", kind: OptionKind::Switch { off: None } },
    OptionRule {
        name: "target-version",
        argument: "--target-version",
        kind: OptionKind::Choice(&["py37", "py38", "py39", "py310", "py311", "py312", "py313", "py314"]),
    },
];

/// Whether a file configures ruff for its folder: `pyproject.toml` only with `[tool.ruff]`.
fn configures(name: &str, bytes: &[u8]) -> bool {
    if name != "pyproject.toml" {
        return RUFF_NAMES.contains(&name);
    }
    let text = std::str::from_utf8(bytes).map_or(Text::NotUtf8, Text::Readable);
    match toml(text) {
        Content::Parsed(table) => tool_table(&table, "ruff").is_some(),
        Content::Broken(text) => text.contains("[tool.ruff"),
    }
}

/// Configuration that a file inherits from must be inside the tree.
fn check_extend(path: &TreePath, bytes: &[u8]) -> Result<(), ToolError> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
    let Content::Parsed(table) = toml(Text::Readable(text)) else { return Ok(()) };
    let own = if path.file_name() == "pyproject.toml" {
        tool_table(&table, "ruff").and_then(toml::Value::as_table)
    } else {
        Some(&table)
    };
    let Some(extend) = own.and_then(|own| own.get("extend")).and_then(toml::Value::as_str) else {
        return Ok(());
    };
    let mut depth = path.ancestors().count();
    let leaves = extend.starts_with(['/', '~', '$'])
        || extend.split('/').any(|part| match part {
            ".." => {
                let at_root = depth == 0;
                depth = depth.saturating_sub(1);
                at_root
            }
            "" | "." => false,
            _ => {
                depth += 1;
                false
            }
        });
    if leaves {
        return Err(ToolError {
            kind: ToolErrorKind::Configuration,
            message: format!(
                "`{path}`, key `extend` = `{extend}` leaves the tree; put that file inside the tree"
            ),
        });
    }
    Ok(())
}

/// The minor version of the Python 3 that ruff takes from `requires-python`: the least lower bound, without its
/// patch, if ruff has that version (seen with 0.17.6: 3.7 to 3.15).
fn least_python(text: Text<'_>) -> Option<u32> {
    let Content::Parsed(table) = toml(text) else { return None };
    let required = table.get("project")?.get("requires-python")?.as_str()?;
    let bound = |part: &str| {
        let part = part.trim();
        let version = [">=", "~=", "===", "==", ">"].into_iter().find_map(|sign| part.strip_prefix(sign))?;
        let mut numbers = version.trim().split('.');
        let major: u32 = numbers.next()?.parse().ok()?;
        Some((major, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
    };
    match required.split(',').filter_map(bound).min()? {
        (3, minor @ 7..=15) => Some(minor),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Place {
    row: i64,
    column: i64,
}

#[derive(Deserialize)]
struct Entry {
    filename: String,
    location: Option<Place>,
    end_location: Option<Place>,
    code: Option<String>,
    name: Option<String>,
    message: String,
    severity: Option<String>,
    url: Option<String>,
}

impl Adapter for Ruff {
    fn name(&self) -> &'static str {
        "ruff"
    }

    fn scope(&self) -> Scope {
        Scope::File
    }

    fn cost(&self) -> Cost {
        Cost { per_byte: 1, start: 90_000 }
    }

    fn version(&self, printed: &str) -> Option<String> {
        first_version(printed)
    }

    fn options(&self) -> &'static [OptionRule] {
        OPTIONS
    }

    fn arguments(&self) -> Vec<String> {
        // The tree's configuration may ask for fixes; linting never writes.
        ["check", "--no-cache", "--no-fix", "--no-fix-only", "--no-show-fixes", "--output-format=json"]
            .map(str::to_owned)
            .to_vec()
    }

    fn configure(
        &self,
        files: &ConfigurationFiles,
        _allow_tree_code: bool,
    ) -> Result<Vec<String>, ToolError> {
        let mut configured = false;
        for (path, bytes) in files {
            if configures(path.file_name(), bytes) {
                check_extend(path, bytes)?;
                configured = true;
            }
        }
        // Each folder may have its own, and `--config` would replace them all: ruff finds them by itself.
        // Files without any are linted with `--isolated`, see `lint`.
        if configured {
            return Ok(Vec::new());
        }
        let mut arguments = vec!["--isolated".to_owned()];
        // Without configuration ruff still takes the target from the project's metadata, but not with `--isolated`.
        if let Some(minor) = root_text(files, "pyproject.toml").and_then(least_python) {
            arguments.push(format!("--config=target-version=\"py3{minor}\""));
        }
        Ok(arguments)
    }

    fn read(&self, output: Output<'_>) -> Reading {
        match output.code {
            Some(0 | 1) => {}
            Some(2) => {
                let words = last_words(output);
                let configuration =
                    ["onfiguration", "pyproject.toml", "ruff.toml", "invalid value", "equired version"];
                return Reading {
                    findings: Vec::new(),
                    error: Some(if configuration.iter().any(|part| words.contains(part)) {
                        refused_configuration("ruff", &words)
                    } else {
                        crashed("ruff", output)
                    }),
                };
            }
            _ => return Reading { findings: Vec::new(), error: Some(crashed("ruff", output)) },
        }
        match serde_json::from_slice::<Vec<Entry>>(output.stdout) {
            Ok(entries) => Reading { findings: entries.into_iter().map(finding).collect(), error: None },
            Err(problem) => {
                Reading { findings: Vec::new(), error: Some(garbled("ruff", output, &problem.to_string())) }
            }
        }
    }

    fn nested_configuration(&self) -> Option<fn(&str, &[u8]) -> bool> {
        Some(configures)
    }

    fn environment(&self, _scratch: &Path, cpu_slots: u32) -> Vec<(String, OsString)> {
        vec![("RAYON_NUM_THREADS".into(), cpu_slots.max(1).to_string().into())]
    }
}

fn finding(entry: Entry) -> Finding {
    Finding {
        path: entry.filename,
        line: entry.location.as_ref().map_or(1, |place| place.row),
        column: entry.location.map(|place| place.column),
        end: entry.end_location.map(|place| (place.row, Some(place.column))),
        counting: Counting { unit: Unit::CodePoints, first: 1 },
        // Older versions give syntax errors no code.
        code: entry.code.unwrap_or_else(|| "invalid-syntax".into()),
        name: entry.name,
        message: entry.message,
        tool_severity: entry.severity,
        url: entry.url,
    }
}
