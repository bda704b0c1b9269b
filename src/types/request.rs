//! How a client gives a tree.

use serde::{Deserialize, Serialize};

/// How the tree was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RequestKind {
    /// Read where it is, by a private mesh on the same machine.
    InPlace,
    /// Uploaded, and named by its digest.
    Snapshot,
    /// Files within the request.
    Inline,
    /// A path on the server.
    ServerPath,
}
