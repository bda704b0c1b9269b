//! Trees that arrive as data: checking them, and laying them out as files for a node.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::blobs::{BlobError, BlobStore};
use super::selection::Role;
use crate::types::{Digest, Manifest, ManifestEntry, ManifestProblem, TreePath, clashes};

/// Where the bytes of a snapshot come from.
pub trait BlobSource {
    /// The bytes of a blob, checked against its digest.
    fn bytes(&self, digest: &Digest) -> Result<Vec<u8>, BlobError>;
}

impl BlobSource for BlobStore {
    fn bytes(&self, digest: &Digest) -> Result<Vec<u8>, BlobError> {
        self.get(digest)
    }
}

/// Why a tree was not laid out. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    /// A file's blob could not be had. If it is missing: fetch it and retry.
    #[error("file `{path}` of the snapshot: {source}")]
    Blob {
        /// The file.
        path: TreePath,
        /// The reason.
        source: BlobError,
    },
    /// The manifest is wrong about a size. Its maker must fix it.
    #[error("file `{path}` of the snapshot has {actual} bytes, not {listed} as the manifest says")]
    Size {
        /// The file.
        path: TreePath,
        /// The size in the manifest.
        listed: u64,
        /// The size of the blob.
        actual: u64,
    },
    /// The folder is there and holds something, perhaps links. Give an empty or a new one.
    #[error("{} is not empty; a snapshot needs a folder of its own", .0.display())]
    NotEmpty(PathBuf),
    /// The file system failed.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// What was being written.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Writes the tree's files, readable only, into `dir`, which must be empty or not exist.
///
/// Nothing is written outside: a [`TreePath`] cannot leave the tree, and all that is in `dir` was made here, so there
/// is no link to follow. Files are copied and not linked to a store's, so that no linter can damage the store.
/// Blocks; looks at `cancelled` before each file. On any error what was written is removed.
pub fn materialise(
    manifest: &Manifest,
    source: &impl BlobSource,
    dir: &Path,
    cancelled: &CancellationToken,
) -> Result<(), MaterialiseError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    if fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(MaterialiseError::NotEmpty(dir.to_owned()));
    }
    let written = write_files(manifest, source, dir, cancelled);
    if written.is_err()
        && let Err(error) = fs::remove_dir_all(dir)
    {
        tracing::warn!(dir = %dir.display(), %error, "a part of a snapshot could not be removed");
    }
    written
}

fn write_files(
    manifest: &Manifest,
    source: &impl BlobSource,
    dir: &Path,
    cancelled: &CancellationToken,
) -> Result<(), MaterialiseError> {
    let mut folders: BTreeSet<&str> = BTreeSet::new();
    for file in manifest.files() {
        if cancelled.is_cancelled() {
            return Err(MaterialiseError::Cancelled);
        }
        let bytes = source
            .bytes(&file.digest)
            .map_err(|source| MaterialiseError::Blob { path: file.path.clone(), source })?;
        let actual = bytes.len() as u64;
        if actual != file.size {
            return Err(MaterialiseError::Size { path: file.path.clone(), listed: file.size, actual });
        }
        if let Some(folder) = file.path.ancestors().next()
            && folders.insert(folder)
        {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).map_err(failed(&folder))?;
        }
        let path = file.path.under(dir);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .and_then(|mut opened| opened.write_all(&bytes))
            .map_err(failed(&path))?;
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> MaterialiseError + use<> {
    let path = path.to_owned();
    move |source| MaterialiseError::Io { path, source }
}

/// How large a tree may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// The number of files.
    pub max_files: u64,
    /// The largest file, in bytes.
    pub max_file_bytes: u64,
    /// All files together, in bytes.
    pub max_total_bytes: u64,
}

/// A file that came within a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Its path as the request has it, not checked yet.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The bytes of a tree's files by digest, each once.
pub type Contents = Vec<(Digest, Vec<u8>)>;

/// Makes a manifest of files that came within a request: `*.py` files are linted, the others are there to be read.
///
/// Answers all that is wrong with them at once, each with its field (`workspace.inline.files[3].path`).
pub fn inline(
    files: Vec<InlineFile>,
    limits: &TreeLimits,
) -> Result<(Manifest, Contents), Vec<ManifestProblem>> {
    const FIELD: &str = "workspace.inline.";
    let mut problems = oversized(files.iter().map(|file| file.bytes.len() as u64), limits);
    let mut paths = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        match TreePath::new(&file.path) {
            Ok(path) => paths.push((index, path)),
            Err(error) => problems.push(ManifestProblem {
                field: format!("files[{index}].path"),
                description: error.to_string(),
            }),
        }
    }
    problems.extend(clashes(paths.iter().map(|(index, path)| (*index, path))));
    let refused = |problems: Vec<ManifestProblem>| {
        let within = |problem: ManifestProblem| ManifestProblem {
            field: format!("{FIELD}{}", problem.field),
            description: problem.description,
        };
        problems.into_iter().map(within).collect::<Vec<_>>()
    };
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    let mut seen = BTreeSet::new();
    let mut entries = Vec::with_capacity(files.len());
    let mut contents = Vec::with_capacity(files.len());
    for (file, (_, path)) in files.into_iter().zip(paths) {
        let digest = Digest::of(&file.bytes);
        let lint = Role::of(path.file_name()) == Some(Role::Source);
        entries.push(ManifestEntry { path, digest, size: file.bytes.len() as u64, lint });
        if seen.insert(digest) {
            contents.push((digest, file.bytes));
        }
    }
    match Manifest::new(entries) {
        Ok(manifest) => Ok((manifest, contents)),
        Err(error) => Err(refused(error.0)),
    }
}

/// Where a manifest breaks the limits; empty if it keeps them. Fields are relative to the manifest (`files[3].size`).
pub fn beyond_limits(manifest: &Manifest, limits: &TreeLimits) -> Vec<ManifestProblem> {
    oversized(manifest.files().iter().map(|file| file.size), limits)
}

fn oversized(sizes: impl ExactSizeIterator<Item = u64>, limits: &TreeLimits) -> Vec<ManifestProblem> {
    let mut problems = Vec::new();
    let count = sizes.len() as u64;
    if count > limits.max_files {
        problems.push(ManifestProblem {
            field: "files".into(),
            description: format!("has {count} files; at most {} are allowed", limits.max_files),
        });
    }
    let mut total = 0_u64;
    for (index, size) in sizes.enumerate() {
        total = total.saturating_add(size);
        if size > limits.max_file_bytes {
            problems.push(ManifestProblem {
                field: format!("files[{index}]"),
                description: format!("has {size} bytes; a file may have at most {}", limits.max_file_bytes),
            });
        }
    }
    if total > limits.max_total_bytes {
        problems.push(ManifestProblem {
            field: "files".into(),
            description: format!(
                "have {total} bytes together; at most {} are allowed",
                limits.max_total_bytes
            ),
        });
    }
    problems
}

#[cfg(test)]
mod tests;
