//! The stages of a run, in order.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Digest;

/// A stage of a run. PLAN, CLASSIFY and AGGREGATE are pure functions of their input blobs, so anyone can repeat them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Stage {
    /// Decides what is run, with which configuration, over which shards.
    Plan,
    /// Runs one linter over one shard.
    Lint,
    /// Gives each diagnostic of one shard its severity, rule name and documentation link.
    Classify,
    /// Folds duplicates across tools and builds the result.
    Aggregate,
}

impl Stage {
    /// All stages, in the order in which a run passes through them.
    pub const ALL: [Stage; 4] = [Stage::Plan, Stage::Lint, Stage::Classify, Stage::Aggregate];

    /// The name as documents write it: `PLAN`, `LINT`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Plan => "PLAN",
            Stage::Lint => "LINT",
            Stage::Classify => "CLASSIFY",
            Stage::Aggregate => "AGGREGATE",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The blob that a finished task leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskOutput {
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What was measured while a task ran. Not part of any result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The program that ran, for LINT.
    pub executable: Option<String>,
    /// Elapsed time.
    pub wall: Duration,
    /// CPU time of the linter's processes.
    pub cpu: Duration,
}
