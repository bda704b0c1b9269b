//! The agent node: runs tasks, reports to its coordinator.

pub mod agent;
pub mod backoff;
mod envelope;
pub mod executor;
pub mod held;
pub mod host;
mod idle;
pub mod inputs;
pub mod launcher;
pub mod lifetime;
pub mod link;
mod orphan;
pub mod outbound;
pub mod outbox;
pub mod peers;
mod process_table;
pub mod provision;
mod relay;
pub mod resources;
pub mod secret;
pub mod session;
pub mod shim;
pub mod stages;
#[cfg(test)]
mod testing;
mod way;
mod work_folder;
pub mod workspace_cache;
