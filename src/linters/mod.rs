//! Linters as data and pure functions: adapters, catalogue, stages, report formats.

pub mod adapter;
pub mod aggregate;
mod bandit;
pub mod catalogue;
pub mod classify;
pub mod equivalence;
mod flake8;
pub mod lint;
mod mypy;
pub mod options;
pub mod plan;
pub mod process;
mod pylint;
pub mod report;
mod ruff;
pub mod source;
pub mod toolchain;
pub mod tree_config;

pub use adapter::{Adapter, adapter, adapters};
pub use options::validate_options;
