//! Finds the files of a tree, once per run, so that every tool gets the same explicit list.
//!
//! Linted are the `*.py` files beneath the paths that were named, and files that were named themselves. `.gitignore`
//! is respected, with or without a repository, but nothing that depends on the user (global ignore files,
//! `.git/info/exclude`). Passed over are hidden folders, virtual environments, folders of installed packages or
//! build results, and symbolic links: what they point to is another file of the tree or outside of it.
//!
//! Beside them the list has what linters read: configuration, stubs, and the Python files that were not selected,
//! since mypy and pylint follow imports into them. So a snapshot of the list behaves as the tree in place does.

mod contents;
mod walk;

use std::io;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::snapshot::TreeLimits;
use crate::types::{Manifest, ManifestError, Unreadable};

use walk::{Selected, Walk, is_excluded};

/// What to look for and how far to go.
#[derive(Debug, Clone)]
pub struct DiscoverOptions {
    /// What relative paths are relative to; the root if absent.
    pub base: Option<PathBuf>,
    /// Python files and folders that are not linted, unless a file is named itself and that counts. A glob without `/` matches names
    /// at any depth (`*_pb2.py`, `migrations`), one with `/` matches paths from the root (`docs/**/conf.py`).
    pub exclude: Vec<String>,
    /// Whether that holds for files that are named themselves too.
    pub force_exclude: bool,
    /// How large the tree may be. A file over its limit is left out and reported; the other two limits are errors.
    pub limits: TreeLimits,
    /// How many files and folders of any kind are looked at.
    pub max_entries: u64,
    /// How many files are read at a time; at least 1.
    pub threads: usize,
}

/// The files of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// The root in its canonical form; the manifest's paths are relative to it.
    pub root: PathBuf,
    /// What was found, and what should have been but cannot be read or named; nothing to lint if it has no targets.
    pub manifest: Manifest,
    /// How many Python files were passed over because they are symbolic links.
    pub links: u64,
    /// Files that were named and are left out all the same, absolute, links followed.
    pub left_out: Vec<PathBuf>,
}

/// Why there is no list. All but `Changed` are for the user to fix.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// Some of the paths do not exist.
    #[error("{} not exist", listed(.0))]
    Missing(Vec<PathBuf>),
    /// A path leads out of the tree.
    #[error("path {} is outside of {}; lint one tree at a time", path.display(), root.display())]
    Outside {
        /// The path.
        path: PathBuf,
        /// The root of the tree.
        root: PathBuf,
    },
    /// A path is neither a file nor a folder.
    #[error("path {} is neither a regular file nor a folder", .0.display())]
    NotAFile(PathBuf),
    /// A path cannot be looked at.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A glob is malformed.
    #[error("exclude pattern `{pattern}` is not valid: {reason}")]
    Exclude {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file became a folder, or the reverse, between two looks at it. Retry.
    #[error("the tree changed while it was being read; run again ({0})")]
    Changed(ManifestError),
    /// The walk found more than a project has.
    #[error(
        "{} holds more than {limit} {what}; name a folder with a project of its own, or raise {setting}",
        root.display()
    )]
    TooLarge {
        /// The root of the tree.
        root: PathBuf,
        /// The limit.
        limit: u64,
        /// What the limit counts.
        what: &'static str,
        /// The setting to raise.
        setting: &'static str,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    match names.len() {
        1 => format!("path {} does", names[0]),
        _ => format!("paths {} do", names.join(", ")),
    }
}

/// Lists the files of the tree at `root` for a run that lints `paths` (none: the whole tree).
///
/// Paths are absolute or relative to [`DiscoverOptions::base`]. Symbolic links in `root` and in the paths themselves
/// are followed, as the user named them. Blocks; reads every listed file once.
pub fn discover(
    root: &Path,
    paths: &[PathBuf],
    options: &DiscoverOptions,
) -> Result<Discovered, DiscoverError> {
    let named = |path: &Path, source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => DiscoverError::Missing(vec![path.to_owned()]),
        _ => DiscoverError::Io { path: path.to_owned(), source },
    };
    let root = root.canonicalize().map_err(|error| named(root, error))?;
    let base = options.base.as_deref().unwrap_or(&root);
    let exclude = globs(&options.exclude)?;
    let (mut missing, mut left_out) = (Vec::new(), Vec::new());
    let mut selected = Selected::default();
    for path in paths {
        let full = match base.join(path).canonicalize() {
            Ok(full) => full,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(path.clone());
                continue;
            }
            Err(error) => return Err(named(path, error)),
        };
        if !full.starts_with(&root) {
            return Err(DiscoverError::Outside { path: path.clone(), root });
        }
        let metadata = full.metadata().map_err(|error| named(path, error))?;
        if metadata.is_dir() {
            selected.folders.push(full);
        } else if metadata.is_file() {
            if options.force_exclude && is_excluded(&exclude, &root, &full) {
                left_out.push(full);
            } else {
                selected.files.push(full);
            }
        } else {
            return Err(DiscoverError::NotAFile(path.clone()));
        }
    }
    if !missing.is_empty() {
        return Err(DiscoverError::Missing(missing));
    }
    if paths.is_empty() {
        selected.folders.push(root.clone());
    }
    let walked = Walk::new(&root, &exclude, options).run(selected)?;
    let (files, mut unreadable) = contents::read(walked.files, options);
    unreadable.extend(walked.unreadable.into_iter().map(|(path, reason)| Unreadable { path, reason }));
    let manifest = Manifest::new(files).map_err(DiscoverError::Changed)?.with_unreadable(unreadable);
    Ok(Discovered { root, manifest, links: walked.links, left_out })
}

fn globs(patterns: &[String]) -> Result<GlobSet, DiscoverError> {
    let mut set = GlobSetBuilder::new();
    let refused = |pattern: &str, error: globset::Error| DiscoverError::Exclude {
        pattern: pattern.to_owned(),
        reason: error.kind().to_string(),
    };
    for pattern in patterns {
        let from_root = pattern.trim_end_matches('/');
        let anchored = match from_root.strip_prefix('/').or_else(|| from_root.strip_prefix("./")) {
            Some(rest) => rest.to_owned(),
            None if from_root.contains('/') => from_root.to_owned(),
            None => format!("**/{from_root}"),
        };
        let glob = GlobBuilder::new(&anchored)
            .literal_separator(true)
            .build()
            .map_err(|error| refused(pattern, error))?;
        set.add(glob);
    }
    set.build().map_err(|error| refused(&patterns.join(", "), error))
}
