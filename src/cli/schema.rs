//! `lintmesh schema`: the contract of the JSON report.

use super::exit::Exit;
use super::output;
use crate::linters::report::JSON_SCHEMA;

pub(super) fn run() -> anyhow::Result<Exit> {
    output::print_line(JSON_SCHEMA.trim_end())?;
    Ok(Exit::Success)
}
