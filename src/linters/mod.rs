//! Linters as data and pure functions: adapters, catalogue, stages, report formats.

pub mod aggregate;
pub mod catalogue;
pub mod classify;
pub mod equivalence;
pub mod process;

pub mod adapter;
mod bandit;
mod flake8;
pub mod lint;
mod mypy;
pub mod options;
pub mod plan;
mod pylint;
pub mod report;
mod ruff;
pub mod source;
pub mod toolchain;
pub mod tree_config;

pub use adapter::{Adapter, adapter, adapters};
pub use options::validate_options;
