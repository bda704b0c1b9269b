//! One binary for all integration tests; one module per promise.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its harness too")]

mod alerts;
mod architecture;
mod authentication;
mod bad_requests;
mod circuit_breaker;
mod cli_remote;
mod cli_usage;
mod deadlines;
mod discovery;
mod failing_tools;
mod graceful_stop;
mod health_stream;
mod hostile_files;
mod killed_node;
mod lint_command;
mod linter_process;
mod logs;
mod mesh_rpcs;
mod metrics;
mod node_admission;
mod node_session;
mod offline_toolchain;
mod overload;
mod parity;
mod peer_links;
mod probes;
mod readme;
mod report_formats;
mod rig;
mod runs;
mod same_result;
mod session_rules;
mod settings;
mod silent_connections;
mod support;
mod tls_and_tokens;
mod tool_configuration;
mod toolchain;
