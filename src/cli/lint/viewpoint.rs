//! What the readers of a report call a file: neither GitHub nor who stands in another folder starts at the tree's root.

use std::io;
use std::path::{Path, PathBuf};

use crate::linters::report::Format;
use crate::types::TreePath;

/// The tree and the folders from which its reports are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Viewpoint {
    root: PathBuf,
    cwd: PathBuf,
    /// The top of the repository that the tree is in; its root if it is in none.
    repository: PathBuf,
}

impl Viewpoint {
    /// For a tree on this machine and the current folder.
    pub(in crate::cli) fn on(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let cwd = std::env::current_dir()?;
        let cwd = cwd.canonicalize().unwrap_or(cwd);
        let top = root.ancestors().find(|folder| folder.join(".git").symlink_metadata().is_ok());
        let repository = top.unwrap_or(&root).to_owned();
        Ok(Self { root, cwd, repository })
    }

    /// Where the tree is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A file as readers of a format find it: at a terminal from the current folder, or by its full path if it is not
    /// beneath that; GitHub and what reads SARIF from the top of the repository.
    pub(super) fn name(&self, format: Format, path: &TreePath) -> String {
        let from = match format {
            Format::Full | Format::Concise => &self.cwd,
            Format::Github | Format::Sarif => &self.repository,
            Format::Json | Format::JsonLines | Format::Junit => &self.root,
        };
        let full = path.under(&self.root);
        full.strip_prefix(from).unwrap_or(&full).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &str, cwd: &str, repository: &str) -> [String; 3] {
        let view = Viewpoint { root: root.into(), cwd: cwd.into(), repository: repository.into() };
        let path = TreePath::new("pkg/a.py").expect("valid");
        [Format::Concise, Format::Github, Format::Json].map(|format| view.name(format, &path))
    }

    #[test]
    fn a_file_is_named_from_where_its_reader_is() {
        for (root, cwd, repository, names_of) in [
            ("/r", "/r", "/r", ["pkg/a.py", "pkg/a.py", "pkg/a.py"]),
            ("/r/backend", "/r", "/r", ["backend/pkg/a.py", "backend/pkg/a.py", "pkg/a.py"]),
            ("/r/backend", "/r/backend/pkg", "/r", ["a.py", "backend/pkg/a.py", "pkg/a.py"]),
            ("/r", "/elsewhere", "/r", ["/r/pkg/a.py", "pkg/a.py", "pkg/a.py"]),
        ] {
            assert_eq!(names(root, cwd, repository), names_of, "{root} from {cwd}");
        }
    }

    #[test]
    fn the_repository_is_the_nearest_above_the_tree() {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().canonicalize().expect("there");
        let tree = top.join("outer/backend");
        std::fs::create_dir_all(&tree).expect("made");
        // A work tree or a submodule has a file there, and not a folder.
        std::fs::write(top.join("outer/.git"), "gitdir: elsewhere\n").expect("written");
        std::fs::create_dir(top.join(".git")).expect("made");
        assert_eq!(Viewpoint::on(&tree).expect("there").repository, top.join("outer"));
    }
}
