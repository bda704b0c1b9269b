//! The tree that is linted: which folder, which settings, which files.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::LintArgs;
use crate::config::{Settings, Sources};
use crate::workspace::discover::{DiscoverOptions, Discovered, discover};
use crate::workspace::project_root::project_root;
use crate::workspace::snapshot::TreeLimits;

/// Files read at a time; more do not help on one disk.
const MOST_THREADS: usize = 8;

/// A tree and what is to be linted of it.
#[derive(Debug)]
pub(super) struct Tree {
    /// Its files.
    pub(super) found: Discovered,
    /// What the user named, absolute, links followed.
    pub(super) paths: Vec<PathBuf>,
    /// All globs that leave files out.
    pub(super) exclude: Vec<String>,
    /// What the user named, in their words.
    named: Vec<PathBuf>,
}

impl Tree {
    /// What was looked at, for messages.
    pub(super) fn described(&self) -> String {
        self.named.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Reads the settings that hold for the paths and lists the files.
pub(super) async fn find(args: &LintArgs) -> anyhow::Result<(Settings, Tree)> {
    let args = args.clone();
    tokio::task::spawn_blocking(move || find_blocking(&args)).await.context("looking for files")?
}

fn find_blocking(args: &LintArgs) -> anyhow::Result<(Settings, Tree)> {
    let cwd = std::env::current_dir().context("the current folder cannot be read")?;
    let root = match &args.root {
        Some(root) => cwd.join(root),
        None => project_root(&cwd, &args.paths),
    };
    let sources = Sources {
        directories: vec![root.clone()],
        pyproject: true,
        overrides: args.overrides(),
        ..args.config.sources()
    };
    let settings = crate::cli::arguments::load(&sources)?;
    let exclude: Vec<String> = settings.lint.exclude.iter().chain(&args.exclude).cloned().collect();
    let options = DiscoverOptions {
        base: Some(cwd.clone()),
        exclude: exclude.clone(),
        force_exclude: args.force_exclude,
        limits: TreeLimits {
            max_files: settings.workspace.max_snapshot_files,
            max_file_bytes: settings.workspace.max_file_bytes,
            max_total_bytes: settings.workspace.max_snapshot_bytes,
        },
        max_entries: settings.workspace.max_entries,
        threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS)),
    };
    let found = discover(&root, &args.paths, &options)?;
    let full = |path: &PathBuf| {
        cwd.join(path).canonicalize().with_context(|| format!("cannot read {}", path.display()))
    };
    let mut paths = args.paths.iter().map(full).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| !found.left_out.contains(path));
    Ok((settings, Tree { found, paths, exclude, named: args.paths.clone() }))
}

/// The text of a source file, for excerpts; what is not UTF-8 is replaced. None if it cannot be read or is too large.
pub(super) fn text_of(path: &Path, max_bytes: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).ok()?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).ok()?;
    (read as u64 <= max_bytes).then(|| String::from_utf8_lossy(&bytes).into_owned())
}
