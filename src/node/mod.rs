//! The agent node: runs tasks, reports to its coordinator.

mod process_table;
pub mod provision;
pub mod resources;
pub mod shim;
pub mod outbound;
