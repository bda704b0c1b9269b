//! Linters as data and pure functions: adapters, catalogue, stages, report formats.

pub mod aggregate;
pub mod catalogue;
pub mod classify;
pub mod equivalence;
pub mod process;

pub mod toolchain;
