//! What several promises need: real projects, a real toolchain, a real server.

mod cache;
pub(crate) mod calls;
pub(crate) mod coordinator;
pub(crate) mod fake_linters;
pub(crate) mod linked_nodes;
pub(crate) mod lint_command;
pub(crate) mod linters;
pub(crate) mod played_nodes;
pub(crate) mod projects;
pub(crate) mod serve;
pub(crate) mod toolchain;
pub(crate) mod virtual_network;
