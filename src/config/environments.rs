//! What is allowed in the two tables whose keys the user chooses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::section::Rule;
use crate::types::{NodeId, Severity, names_rules};

pub(super) fn rule() -> Rule<BTreeMap<String, PathBuf>> {
    Rule {
        allowed: "name = absolute path of an interpreter; names of a-z, 0-9 and '-'",
        // The names are identifiers of the API, with the same rule as all others.
        accepts: |all| all.iter().all(|(name, path)| NodeId::new(name).is_ok() && path.is_absolute()),
    }
}

pub(super) fn severity_rule() -> Rule<BTreeMap<String, Severity>> {
    Rule {
        allowed: "\"tool:code\" = CRITICAL, HIGH, MEDIUM, LOW or INFO",
        accepts: |all| all.keys().all(|key| names_rules(key)),
    }
}
