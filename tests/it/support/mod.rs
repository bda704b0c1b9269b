//! What several promises need: real projects, a real toolchain, a real server.

mod cache;
pub(crate) mod calls;
pub(crate) mod captured_logs;
pub(crate) mod coordinator;
pub(crate) mod decisions;
pub(crate) mod disk;
pub(crate) mod fake_linters;
pub(crate) mod faulty_store;
pub(crate) mod forward;
pub(crate) mod in_process;
pub(crate) mod linked_nodes;
pub(crate) mod lint_command;
pub(crate) mod linters;
pub(crate) mod played_nodes;
pub(crate) mod projects;
pub(crate) mod serve;
pub(crate) mod stores;
pub(crate) mod toolchain;
pub(crate) mod virtual_network;
