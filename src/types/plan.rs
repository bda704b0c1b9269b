//! What the PLAN stage reads and decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Severity, ToolError, ToolName, TreePath, Unreadable};

/// One tool a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRequest {
    /// Which.
    pub tool: ToolName,
    /// Options by name, from the short list that the tool's adapter allows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Everything beside the tree that a run's result depends on; a blob, input of PLAN, CLASSIFY and AGGREGATE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The tools, sorted by name.
    pub tools: Vec<ToolRequest>,
    /// The version of each tool in the toolchain the nodes share; a tool that is not there is missing.
    pub versions: BTreeMap<ToolName, String>,
    /// Whether configuration that runs code of the tree may be used.
    pub allow_tree_code: bool,
    /// The interpreter whose installed packages mypy and pylint see; none for the toolchain's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// Severities that replace the catalogue's, by `tool:code` (`pylint:C0301`) or `tool:prefix*`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub severity_overrides: BTreeMap<String, Severity>,
    /// How many shards a tool that can be sharded is split into at most; at least 1.
    pub max_shards: u32,
    /// Files of the tree that could not be read or named, with the reason; each becomes a diagnostic of the report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Unreadable>,
}

/// Whether a text can name rules in [`RunSpec::severity_overrides`].
pub fn names_rules(key: &str) -> bool {
    key.len() <= 256
        && key.split_once(':').is_some_and(|(tool, code)| ToolName::new(tool).is_ok() && !code.is_empty())
}

/// The files of one LINT task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Sorted by path.
    pub files: Vec<TreePath>,
    /// Estimated effort, in bytes of source times the tool's weight; only compared.
    pub cost: u64,
}

/// How one tool is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolPlan {
    /// Which.
    pub tool: ToolName,
    /// The pinned version; empty if the tool is missing.
    pub version: String,
    /// Command-line arguments before the files: output form, configuration, options. No path of the machine.
    pub arguments: Vec<String>,
    /// Why the tool is not run at all, if so; then there are no shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ToolError>,
    /// Its tasks, in the order in which they should start.
    pub shards: Vec<Shard>,
}

/// The output of PLAN: a blob, input of LINT and AGGREGATE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Sorted by tool.
    pub tools: Vec<ToolPlan>,
    /// How many files are linted.
    pub files: u32,
}
