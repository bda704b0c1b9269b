//! The agent node: runs tasks, reports to its coordinator.

pub mod outbound;
mod process_table;
pub mod provision;
pub mod resources;
pub mod shim;
