//! Linters as data and pure functions: adapters, catalogue, stages, report formats.

pub mod process;
pub mod toolchain;
