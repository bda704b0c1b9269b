//! What several promises need: real projects and a real toolchain.

mod cache;
pub(crate) mod fake_linters;
pub(crate) mod lint_command;
pub(crate) mod projects;
pub(crate) mod toolchain;
