//! The report of a tree without a file that could be linted: whoever reads reports finds one, whatever there was to lint.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::cli::time::rfc3339;
use crate::config::Settings;
use crate::linters::aggregate::aggregate;
use crate::linters::report::{Execution, Report};
use crate::types::{Epoch, Manifest, Outcome, Plan, RequestKind, RunId, RunSpec};

/// The run of a report that none was started for.
const NO_RUN: &str = "none";

/// CLEAN if there is nothing that should have been linted, else INCOMPLETE with a finding for each file that could not be.
pub(super) fn report(
    manifest: &Manifest,
    settings: &Settings,
    began: SystemTime,
    ended: SystemTime,
) -> anyhow::Result<Report> {
    let spec = RunSpec {
        tools: Vec::new(),
        versions: BTreeMap::new(),
        allow_tree_code: false,
        python: None,
        severity_overrides: settings.severity.clone(),
        max_shards: 1,
        unreadable: manifest.unreadable().to_vec(),
    };
    let mut result = aggregate(&Plan { tools: Vec::new(), files: 0 }, &spec, &[], &[]);
    if !spec.unreadable.is_empty() {
        result.outcome = Outcome::Incomplete;
    }
    let execution = Execution {
        run_id: RunId::new(NO_RUN)?,
        started_at: rfc3339(&began.into()),
        ended_at: rfc3339(&ended.into()),
        seconds: ended.duration_since(began).unwrap_or_default().as_secs_f64(),
        request: RequestKind::InPlace,
        coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: Epoch(0),
        tools: BTreeMap::new(),
        nodes: BTreeMap::new(),
        retries: 0,
        faults: Vec::new(),
        toolchain_id: None,
        toolchain_mode: None,
        environment_class: String::new(),
    };
    Ok(Report { result, execution })
}
