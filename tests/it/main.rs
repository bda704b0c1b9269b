//! Integration tests: one module per promise.

mod discovery;
mod linter_process;
