//! What several promises need: real projects and a real toolchain.

mod cache;
pub mod projects;
pub mod toolchain;
