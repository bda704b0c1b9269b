//! One binary for all integration tests; one module per promise.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its harness too")]

mod architecture;
mod authentication;
mod circuit_breaker;
mod cli_remote;
mod cli_usage;
mod deadlines;
mod discovery;
mod failing_tools;
mod hostile_files;
mod lint_command;
mod linter_process;
mod mesh_rpcs;
mod node_session;
mod offline_toolchain;
mod overload;
mod parity;
mod readme;
mod report_formats;
mod rig;
mod runs;
mod settings;
mod silent_connections;
mod support;
mod tool_configuration;
mod toolchain;
