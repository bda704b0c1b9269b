//! The path of a file within a tree: relative, normal, with `/` between its parts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A file's path within its tree; ordered by its bytes.
///
/// It cannot leave the tree: no absolute path, no `.` or `..`, no empty part, no NUL, no `\0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreePath(Arc<str>);

/// Why a text is not a path within a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path `{path}` {problem}")]
pub struct InvalidPath {
    /// The refused text.
    pub path: String,
    /// What is wrong with it and what to do.
    pub problem: &'static str,
}

/// Linux allows 4,096 bytes with the terminating NUL.
const MAX_BYTES: usize = 4095;

impl TreePath {
    /// Checks that the text names a file inside the tree.
    pub fn new(text: &str) -> Result<Self, InvalidPath> {
        let problem = if text.is_empty() {
            "is empty; name a file"
        } else if text.len() > MAX_BYTES {
            "is longer than 4095 bytes"
        } else if text.contains('\0') {
            "contains a NUL character"
        } else if text.starts_with('/') {
            "is absolute; give it relative to the root of the tree"
        } else if text.ends_with('/') {
            "names a directory; only files are listed"
        } else if text.split('/').any(|part| part == "..") {
            "contains `..`, which could leave the tree"
        } else if text.split('/').any(|part| part.is_empty() || part == ".") {
            "has an empty or `.` part; write it in its shortest form"
        } else {
            return Ok(Self(text.into()));
        };
        Err(InvalidPath { path: text.chars().take(200).collect(), problem })
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part of the path.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Where the file is when the tree is at `root`.
    pub fn under(&self, root: &Path) -> PathBuf {
        root.join(&*self.0)
    }

    /// The directories above the file, nearest first, without the root itself.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.rmatch_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl TryFrom<String> for TreePath {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> Self {
        path.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_that_could_leave_the_tree_or_mean_two_things_are_refused() {
        for bad in ["", "/a", "../a", "a/..", "a/../b", "./a", "a//b", "a/", "a\0b", "."] {
            assert!(TreePath::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "-a.py", "a b/ü\n.py", "..a/b..", "a\\b"] {
            assert!(TreePath::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn ancestors_run_from_the_nearest_up() {
        let path = TreePath::new("a/b/c.py").expect("valid");
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a/b", "a"]);
        assert_eq!(path.file_name(), "c.py");
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_beneath_the_root(text in "[a./\\-]{0,12}") {
            if let Ok(path) = TreePath::new(&text) {
                let full = path.under(Path::new("/root"));
                prop_assert!(full.starts_with("/root"));
                prop_assert!(full.components().all(|part| part.as_os_str() != ".."));
                prop_assert!(full != Path::new("/root"));
            }
        }
    }
}
