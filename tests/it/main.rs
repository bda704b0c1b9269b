//! Integration tests: one module per promise.

mod linter_process;
mod discovery;
//! One binary for all integration tests; one module per promise.

mod authentication;
mod circuit_breaker;
mod deadlines;
mod overload;
mod rig;
mod silent_connections;
