//! Which linter programs a node has: plain data, made by provisioning, read by adapters.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::{Digest, ToolName};

/// Where the tools come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolchainMode {
    /// Pinned versions that lintmesh installed into the user's cache.
    Managed,
    /// A virtual environment that the user named.
    Environment,
    /// Whatever `PATH` holds.
    System,
}

/// One tool of a toolchain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolBinary {
    /// It can be run.
    Present {
        /// The version it reports (managed: the version that is pinned).
        version: String,
        /// The program.
        program: PathBuf,
        /// Arguments that come before all others, for example `-m flake8`.
        prefix: Vec<String>,
    },
    /// It cannot be run, and why.
    Missing {
        /// What was looked for and where, and the remedy.
        reason: String,
    },
}

/// The linters of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// Equal ids mean: same lock (or same versions), same adapters, same mode.
    pub id: Digest,
    /// Where the tools come from.
    pub mode: ToolchainMode,
    /// By name.
    pub tools: BTreeMap<ToolName, ToolBinary>,
}

impl Toolchain {
    /// The versions of the tools that are there.
    pub fn versions(&self) -> BTreeMap<ToolName, String> {
        self.tools
            .iter()
            .filter_map(|(name, binary)| match binary {
                ToolBinary::Present { version, .. } => Some((name.clone(), version.clone())),
                ToolBinary::Missing { .. } => None,
            })
            .collect()
    }
}
