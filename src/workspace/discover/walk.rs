//! One walk over a tree: which files it has, and what each is to the run.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use ignore::{DirEntry, WalkBuilder};

use super::{DiscoverError, DiscoverOptions};
use crate::types::TreePath;
use crate::workspace::selection::{
    CONFIGURATION, ENVIRONMENT_MARKERS, MAX_OTHER_CONFIGURATION_BYTES, Role, is_build_folder,
    is_skipped_folder,
};

/// What the user named, canonical and beneath the root.
#[derive(Debug, Default)]
pub(super) struct Selected {
    pub(super) folders: Vec<PathBuf>,
    pub(super) files: Vec<PathBuf>,
}

/// A file of the tree that is yet to be read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) full: PathBuf,
    pub(super) lint: bool,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) files: BTreeMap<TreePath, Found>,
    /// Path and reason.
    pub(super) unreadable: BTreeSet<(TreePath, String)>,
    pub(super) links: u64,
}

pub(super) struct Walk<'a> {
    root: &'a Path,
    exclude: &'a GlobSet,
    options: &'a DiscoverOptions,
    walked: Walked,
    entered: BTreeSet<PathBuf>,
    entries: u64,
    bytes: u64,
}

/// Whether the file or a folder above it matches an exclude pattern.
pub(super) fn is_excluded(exclude: &GlobSet, root: &Path, full: &Path) -> bool {
    let relative = full.strip_prefix(root).unwrap_or(full);
    relative.ancestors().any(|path| path != Path::new("") && exclude.is_match(path))
}

impl<'a> Walk<'a> {
    pub(super) fn new(root: &'a Path, exclude: &'a GlobSet, options: &'a DiscoverOptions) -> Self {
        let (walked, entered) = (Walked::default(), BTreeSet::new());
        Self { root, exclude, options, walked, entered, entries: 0, bytes: 0 }
    }

    pub(super) fn run(mut self, selected: Selected) -> Result<Walked, DiscoverError> {
        // Inside a repository, ignore files count from its top, as for git; else those from the root down.
        let in_repository = self.root.ancestors().any(|folder| folder.join(".git").exists());
        let mut whole = WalkBuilder::new(self.root);
        whole.parents(in_repository).require_git(in_repository);
        self.walk(whole, &selected.folders)?;
        for folder in &selected.folders {
            // Ignored or hidden, but the user named it.
            if !self.entered.contains(folder) {
                let mut part = WalkBuilder::new(folder);
                part.parents(false).require_git(false);
                self.walk(part, &selected.folders)?;
            }
        }
        for file in selected.files {
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            self.add(file, size, Role::Source, true)?;
        }
        Ok(self.walked)
    }

    fn walk(&mut self, mut builder: WalkBuilder, folders: &[PathBuf]) -> Result<(), DiscoverError> {
        builder
            .hidden(false)
            .ignore(false)
            .git_global(false)
            .git_exclude(false)
            .git_ignore(true)
            .follow_links(false)
            .filter_entry(|entry| entry.depth() == 0 || !is_dir(entry) || is_walked(entry.path()));
        for entry in builder.build() {
            self.entries += 1;
            if self.entries > self.options.max_entries {
                let limit = self.options.max_entries;
                return Err(self.too_large(limit, "files and folders", "workspace.max_entries"));
            }
            match entry {
                Ok(entry) => self.visit(&entry, folders)?,
                Err(error) => self.failed(&error),
            }
        }
        Ok(())
    }

    fn visit(&mut self, entry: &DirEntry, folders: &[PathBuf]) -> Result<(), DiscoverError> {
        let path = entry.path();
        if is_dir(entry) {
            self.entered.insert(path.to_owned());
            return self.add_configuration(path);
        }
        let role = match entry.file_name().to_str() {
            Some(name) => Role::of(name),
            None => entry.file_name().as_bytes().ends_with(b".py").then_some(Role::Source),
        };
        let (Some(role), Some(kind)) = (role, entry.file_type()) else { return Ok(()) };
        if kind.is_symlink() {
            self.walked.links += u64::from(role == Role::Source);
            return Ok(());
        }
        if !kind.is_file() {
            return Ok(());
        }
        let size = entry.metadata().map_or(0, |metadata| metadata.len());
        if role == Role::OtherConfiguration && size > MAX_OTHER_CONFIGURATION_BYTES {
            return Ok(());
        }
        let lint = role == Role::Source
            && folders.iter().any(|folder| path.starts_with(folder))
            && !self.is_excluded(path);
        self.add(path.to_owned(), size, role, lint)
    }

    /// Tools read their configuration whether git ignores it or not.
    fn add_configuration(&mut self, folder: &Path) -> Result<(), DiscoverError> {
        for name in CONFIGURATION {
            let path = folder.join(name);
            if let Ok(metadata) = path.symlink_metadata()
                && metadata.is_file()
            {
                self.add(path, metadata.len(), Role::Configuration, false)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, full: PathBuf, size: u64, role: Role, lint: bool) -> Result<(), DiscoverError> {
        let path = match self.tree_path(&full) {
            Ok(path) => path,
            Err((path, reason)) => {
                // No import reaches a file that cannot even be named, so only who wants it linted misses it.
                if lint {
                    self.unreadable(path, reason);
                }
                return Ok(());
            }
        };
        if let Some(found) = self.walked.files.get_mut(&path) {
            found.lint |= lint;
            return Ok(());
        }
        let limits = self.options.limits;
        if size > limits.max_file_bytes {
            // A file that the user excluded is not missed.
            if lint || !(role == Role::Source && self.is_excluded(&full)) {
                let reason = format!("has {size} bytes; a file may have at most {}", limits.max_file_bytes);
                self.unreadable(path, reason);
            }
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > limits.max_total_bytes {
            let limit = limits.max_total_bytes;
            return Err(self.too_large(limit, "bytes of source", "workspace.max_snapshot_bytes"));
        }
        self.walked.files.insert(path, Found { full, lint });
        if self.walked.files.len() as u64 > limits.max_files {
            return Err(self.too_large(limits.max_files, "source files", "workspace.max_snapshot_files"));
        }
        Ok(())
    }

    fn is_excluded(&self, full: &Path) -> bool {
        is_excluded(self.exclude, self.root, full)
    }

    fn failed(&mut self, error: &ignore::Error) {
        let reason = error.io_error().map_or_else(|| error.to_string(), |io| io.kind().to_string());
        if let Some(path) = path_of(error) {
            let shown = self.tree_path(path).unwrap_or_else(|(path, _)| path);
            self.unreadable(shown, format!("cannot be read: {reason}"));
        }
    }

    fn unreadable(&mut self, path: TreePath, reason: String) {
        self.walked.unreadable.insert((path, reason));
    }

    /// The path within the tree, or how to show it and why it cannot be used.
    fn tree_path(&self, full: &Path) -> Result<TreePath, (TreePath, String)> {
        let relative = full.strip_prefix(self.root).unwrap_or(full);
        let shown = relative.to_string_lossy();
        match (relative.to_str(), TreePath::new(&shown)) {
            (Some(_), Ok(path)) => Ok(path),
            (None, Ok(path)) => Err((path, "its name is not UTF-8; rename it".into())),
            (_, Err(error)) => {
                let start: String = shown.trim_start_matches('/').chars().take(200).collect();
                let path = TreePath::new(start.trim_end_matches('/')).unwrap_or_else(|_| unnamed());
                Err((path, error.problem.to_owned()))
            }
        }
    }

    fn too_large(&self, limit: u64, what: &'static str, setting: &'static str) -> DiscoverError {
        DiscoverError::TooLarge { root: self.root.to_owned(), limit, what, setting }
    }
}

/// Stands for the tree's own root, which has no path within the tree.
fn unnamed() -> TreePath {
    TreePath::new("(root)").unwrap_or_else(|error| unreachable!("a plain name: {error}"))
}

fn is_dir(entry: &DirEntry) -> bool {
    entry.file_type().is_some_and(|kind| kind.is_dir())
}

/// Whether a folder beneath the root is part of the project.
fn is_walked(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
    !(is_skipped_folder(&name)
        || is_build_folder(&name) && !folder.join("__init__.py").exists()
        || ENVIRONMENT_MARKERS.iter().any(|marker| folder.join(marker).exists()))
}

fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        ignore::Error::Loop { child, .. } => Some(child),
        _ => None,
    }
}
