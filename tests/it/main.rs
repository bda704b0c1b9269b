//! Integration tests: one module per promise.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its harness too")]

mod linter_process;
mod toolchain;
