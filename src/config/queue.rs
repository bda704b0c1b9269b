//! How the projects share the mesh.

use super::section::{Rule, section};

/// A limit that may be absent. Not set means none, so 0 need not.
const LIMIT: Rule<Option<u32>> = Rule {
    allowed: "a whole number, at least 1; if not set, no limit",
    accepts: |most| most.is_none_or(|most| most >= 1),
};

section! {
    /// How the projects share the mesh.
    pub struct QueueSettings {
        /// Tasks of one project that run at a time; more wait, whoever else is idle.
        max_tasks_per_project: Option<u32> = None, LIMIT;
        /// Runs of one project that are not finished; more are refused.
        max_runs_per_project: Option<u32> = None, LIMIT;
    }
}
