//! What is known of each rule beside what its tool says: severity, name, documentation.
//!
//! The data is in `severities.toml` and `names.tsv`, to be read and reviewed there; this is only the look-up.

mod links;
mod severity;

pub use links::{documentation, name};
pub use severity::{Assessment, Basis, assess};
