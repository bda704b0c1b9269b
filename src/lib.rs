//! lintmesh coordinates a full mesh of specialist agent nodes that lint a source tree together.

pub mod cli;
pub mod config;
pub mod coordinator;
pub mod linters;
pub mod node;
pub mod proto;
pub mod server;
pub mod telemetry;
pub mod types;
pub mod workspace;
