//! One binary for all integration tests; one module per promise.

mod authentication;
mod circuit_breaker;
mod deadlines;
mod discovery;
mod linter_process;
mod node_session;
mod overload;
mod report_formats;
mod rig;
mod settings;
mod silent_connections;
