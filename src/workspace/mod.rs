//! The files of a tree: finding them, listing them, keeping their bytes, laying them out for a node.

pub mod blobs;
pub mod discover;
pub mod project_root;
mod selection;
pub mod snapshot;
