//! Integration tests: one module per promise.

mod linter_process;
mod discovery;
