//! One binary for all integration tests; one module per promise.

mod discovery;
mod linter_process;
mod authentication;
mod circuit_breaker;
mod deadlines;
mod discovery;
mod linter_process;
mod overload;
mod rig;
mod settings;
mod silent_connections;
mod settings;
#![allow(clippy::unwrap_used, reason = "a test may panic, in its harness too")]

mod linter_process;
mod toolchain;
//! Integration tests: one module per promise.

mod report_formats;
