//! What the coordinator keeps over a restart, and where.

use std::path::PathBuf;

use super::mesh::BYTES;
use super::section::{any, choice, section};

choice! {
    /// Where facts are kept.
    pub enum StoreKind {
        /// In a file of `state.dir`, where a restarted coordinator finds them.
        Embedded = "embedded",
        /// In memory: all runs and reports go with the process.
        Memory = "memory",
    }
}

section! {
    /// What `lintmesh serve` keeps over a restart, and where. `lintmesh lint` without `--server` keeps nothing.
    pub struct StateSettings {
        /// Where runs, reports and the state of the mesh are kept.
        store: StoreKind = StoreKind::Embedded, any("embedded or memory");
        /// The folder: the state, the blobs (unless `workspace.blob_dir` says otherwise) and what the nodes started here
        /// need. One coordinator at a time. If not set, `lintmesh` in the folder for state of the user, which is
        /// `$XDG_STATE_HOME` or `~/.local/state`.
        dir: Option<PathBuf> = None, any("path of a folder");
        /// Bytes that must be free where the state and the blobs are kept for new runs to be taken. Runs that were taken
        /// use this room to end.
        min_free_bytes: u64 = 64 << 20, BYTES;
    }
}
