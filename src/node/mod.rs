//! The agent node: runs tasks, reports to its coordinator.

pub mod outbound;
