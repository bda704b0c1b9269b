//! lintmesh coordinates a full mesh of specialist agent nodes that lint a source tree together.

pub mod cli;
pub mod config;
pub mod coordinator;
pub mod engine;
pub mod linters;
pub mod middleware;
pub mod node;
pub mod proto;
pub mod server;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod types;
pub mod wire;
pub mod workspace;
