//! One binary for all integration tests; one module per promise.

mod authentication;
mod circuit_breaker;
mod deadlines;
mod discovery;
mod linter_process;
mod overload;
mod readme;
mod report_formats;
mod rig;
mod settings;
mod silent_connections;
