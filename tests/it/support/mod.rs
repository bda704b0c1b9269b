//! What several promises need: real projects and a real toolchain.

mod cache;
pub(crate) mod projects;
pub(crate) mod toolchain;
