//! What the client does by default, and where the linters come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::config::{Value, ValueKind};

use super::reader::{At, Reader};
use super::section::{Rule, any, choice, section};
use super::setting::{Setting, scalar, text};
use crate::types::{Severity, ToolName};

/// Where the linters come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolchainChoice {
    /// Pinned versions that lintmesh installs into the user's cache.
    Managed,
    /// Whatever `PATH` holds.
    System,
    /// The virtual environment in this folder.
    Environment(PathBuf),
}

scalar!(
    ToolchainChoice,
    |value| match text(value)? {
        "" => None,
        "managed" => Some(ToolchainChoice::Managed),
        "system" => Some(ToolchainChoice::System),
        path => Some(ToolchainChoice::Environment(path.into())),
    },
    |choice| match choice {
        ToolchainChoice::Managed => "\"managed\"".into(),
        ToolchainChoice::System => "\"system\"".into(),
        ToolchainChoice::Environment(path) => format!("{:?}", path.to_string_lossy()),
    }
);

section! {
    /// Where the linters come from.
    pub struct ToolchainSettings {
        /// Pinned versions installed once into the cache, those on `PATH`, or those of a virtual environment.
        mode: ToolchainChoice = ToolchainChoice::Managed, any("managed, system, or the path of a virtual environment");
        /// Where managed versions are installed; if not set, the user's cache folder.
        cache_dir: Option<PathBuf> = None, any("path of a folder");
    }
}

choice! {
    /// How a report is written.
    pub enum OutputFormat {
        /// Each diagnostic with its source line.
        Full = "full",
        /// One line for each diagnostic.
        Concise = "concise",
        /// The whole report as JSON.
        Json = "json",
        /// One JSON object for each diagnostic.
        JsonLines = "json-lines",
        /// SARIF 2.1.0.
        Sarif = "sarif",
        /// Annotations of GitHub workflows.
        Github = "github",
        /// JUnit XML.
        Junit = "junit",
    }
}

/// The value of a linter's option as it is written on a command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionText(pub String);

impl Setting for OptionText {
    fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self> {
        fn written(value: &Value) -> Option<String> {
            match &value.kind {
                ValueKind::String(text) => Some(text.clone()),
                ValueKind::Boolean(_) | ValueKind::I64(_) | ValueKind::Float(_) => {
                    Some(value.kind.to_string())
                }
                ValueKind::Array(all) => {
                    all.iter().map(written).collect::<Option<Vec<_>>>().map(|all| all.join(","))
                }
                _ => None,
            }
        }
        written(value).map(OptionText).or_else(|| reader.refuse(value, at))
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

const TOOLS: [&str; 5] = ["bandit", "flake8", "mypy", "pylint", "ruff"];

section! {
    /// What `lintmesh lint` does when no flag says otherwise.
    pub struct LintSettings {
        /// The linters that run.
        select_tools: Vec<ToolName> = TOOLS.iter().filter_map(|name| ToolName::new(name).ok()).collect(), Rule {
            allowed: "a list of linters, at least one of bandit, flake8, mypy, pylint and ruff",
            accepts: |tools: &Vec<ToolName>| {
                !tools.is_empty() && tools.iter().all(|tool| TOOLS.contains(&tool.as_str()))
            },
        };
        /// Files and folders that are not linted: globs on names, or with a `/` on paths from the root.
        exclude: Vec<String> = Vec::new(), any("a list of globs");
        /// The lowest severity that makes the exit status 1.
        fail_on: Severity = Severity::Info, any("CRITICAL, HIGH, MEDIUM, LOW or INFO");
        /// How the report is written.
        format: OutputFormat = OutputFormat::Full, any("full, concise, json, json-lines, sarif, github or junit");
        /// The server that lints; if not set, a private mesh is started. Commands other than `lint` do not look here.
        server: Option<String> = None, any("URL");
        /// The interpreter whose installed packages mypy and pylint see, or with a server its name for one.
        python: Option<String> = None, any("path of an interpreter, or a name in the server's `environments`");
        /// Options by linter, for example `flake8.max-line-length = 100`.
        options: BTreeMap<String, BTreeMap<String, OptionText>> = BTreeMap::new(),
            any("a table for each linter: option = text, number, true, false or a list");
    }
}
