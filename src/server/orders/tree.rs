//! The tree of a request: where it comes from, what is in it, its bytes at hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::proto::v1;
use crate::server::service::{Service, blob_error, blocking};
use crate::status::{ApiError, FieldViolation, Precondition};
use crate::types::{Digest, Manifest, ManifestProblem, RequestKind};
use crate::workspace::blobs::{BlobError, Pin};
use crate::workspace::discover::{DiscoverError, DiscoverOptions, discover};
use crate::workspace::snapshot::{self, Contents, InlineFile, TreeLimits};

const SNAPSHOT: &str = "workspace.snapshot.digest";
const INLINE: &str = "workspace.inline.files";
const ROOT: &str = "workspace.path.root";

/// A tree that is listed, with its bytes where nodes find them.
pub struct Tree {
    /// Its files.
    pub manifest: Manifest,
    /// Where nodes read it in place.
    pub root: Option<String>,
    /// How it came.
    pub source: RequestKind,
    /// Its files in the blob store; none if nodes read it in place.
    pub blobs: Vec<Digest>,
    /// Keeps its bytes until the run holds them.
    pub pins: Vec<Pin>,
}

/// Where a tree comes from, as far as the request alone tells.
pub enum Source {
    /// A manifest that should be in the blob store.
    Snapshot(Digest),
    /// Files of the request itself.
    Inline(Manifest, Contents),
    /// A folder of this machine.
    Path(v1::PathSource),
}

/// Reads where the tree comes from; the inner error is all that is wrong with the request's words about it. Stores
/// nothing.
pub async fn read(
    service: &Arc<Service>,
    workspace: Option<v1::Workspace>,
) -> Result<Result<Source, Vec<FieldViolation>>, ApiError> {
    let one = |field, text: String| Err(vec![FieldViolation::new(field, text)]);
    Ok(match workspace.and_then(|workspace| workspace.source) {
        None => one("workspace", "is needed: give `snapshot`, `inline` or `path`".to_owned()),
        Some(v1::workspace::Source::Snapshot(snapshot)) => match snapshot.digest.parse() {
            Ok(digest) => Ok(Source::Snapshot(digest)),
            Err(error) => one(SNAPSHOT, format!("{error}")),
        },
        Some(v1::workspace::Source::Inline(inline)) => {
            let shared = service.clone();
            blocking(move || inline_files(&shared, inline.files)).await?
        }
        Some(v1::workspace::Source::Path(path)) if !Path::new(&path.root).is_absolute() => {
            one(ROOT, format!("`{}` is not an absolute path", path.root))
        }
        Some(v1::workspace::Source::Path(path)) => Ok(Source::Path(path)),
    })
}

/// Lists the tree and puts its bytes where nodes find them.
pub async fn list(service: &Arc<Service>, source: Source) -> Result<Tree, ApiError> {
    match source {
        Source::Snapshot(digest) => snapshot_tree(service, digest).await,
        Source::Inline(manifest, contents) => inline_tree(service, manifest, contents).await,
        Source::Path(path) => path_tree(service, path).await,
    }
}

fn limits(service: &Service) -> TreeLimits {
    let workspace = &service.settings.workspace;
    TreeLimits {
        max_files: workspace.max_snapshot_files,
        max_file_bytes: workspace.max_file_bytes,
        max_total_bytes: workspace.max_snapshot_bytes,
    }
}

fn within(prefix: &'static str) -> impl Fn(ManifestProblem) -> FieldViolation {
    move |problem| FieldViolation::new(format!("{prefix}{}", problem.field), problem.description)
}

/// What to answer when blobs of a snapshot are not there.
pub fn missing(digests: Vec<Digest>) -> ApiError {
    let missing = digests.into_iter().map(|digest| Precondition {
        kind: "BLOB_MISSING",
        subject: format!("blobs/{digest}"),
        description: "upload it with WorkspaceService.UploadBlobs first".into(),
    });
    ApiError::FailedPrecondition(missing.collect())
}

async fn snapshot_tree(service: &Arc<Service>, digest: Digest) -> Result<Tree, ApiError> {
    let mut pins = vec![service.blobs.pin([digest])];
    let shared = service.clone();
    blocking(move || {
        if !shared.blobs.contains(&digest) {
            return Err(missing(vec![digest]));
        }
        let bytes = shared.blobs.get(&digest).map_err(blob_error)?;
        let manifest = Manifest::parse(&bytes).map_err(|error| {
            ApiError::InvalidArgument(error.0.into_iter().map(within("workspace.snapshot.")).collect())
        })?;
        let bad = snapshot::beyond_limits(&manifest, &limits(&shared));
        if !bad.is_empty() {
            let bad = bad.into_iter().map(within("workspace.snapshot.")).collect();
            return Err(ApiError::InvalidArgument(bad));
        }
        let digests: BTreeSet<Digest> = manifest.files().iter().map(|file| file.digest).collect();
        let digests: Vec<Digest> = digests.into_iter().collect();
        pins.push(shared.blobs.pin(digests.iter().copied()));
        let absent = shared.blobs.missing(&digests);
        if !absent.is_empty() {
            return Err(missing(absent));
        }
        let mut wrong = Vec::new();
        for (index, file) in manifest.files().iter().enumerate() {
            let Some(actual) = shared.blobs.size(&file.digest).filter(|actual| *actual != file.size) else {
                continue;
            };
            // A power cut may have cut it short: then it is the blob that is wrong, and is removed.
            shared.blobs.get(&file.digest).map_err(|error| match error {
                BlobError::Missing(digest) => missing(vec![digest]),
                error => blob_error(error),
            })?;
            let text = format!("is {} but the blob has {actual} bytes", file.size);
            wrong.push(FieldViolation::new(format!("workspace.snapshot.files[{index}].size"), text));
        }
        if !wrong.is_empty() {
            return Err(ApiError::InvalidArgument(wrong));
        }
        Ok(Tree { manifest, root: None, source: RequestKind::Snapshot, blobs: digests, pins })
    })
    .await?
}

/// Reads files out of a request; answers all that is wrong with them at once.
fn inline_files(service: &Service, files: Vec<v1::InlineFile>) -> Result<Source, Vec<FieldViolation>> {
    if files.is_empty() {
        return Err(vec![FieldViolation::new(INLINE, "is empty; give at least one file")]);
    }
    let mut bad = Vec::new();
    let mut total = 0_u64;
    let mut given = Vec::with_capacity(files.len());
    for (index, file) in files.into_iter().enumerate() {
        let bytes = match file.content {
            Some(v1::inline_file::Content::Text(text)) => text.into_bytes(),
            Some(v1::inline_file::Content::Data(data)) => data,
            None => {
                let text = "give `text` or `data`; an empty file has an empty `text`";
                bad.push(FieldViolation::new(format!("{INLINE}[{index}]"), text));
                Vec::new()
            }
        };
        total += bytes.len() as u64;
        given.push(InlineFile { path: file.path, bytes });
    }
    let most = service.settings.workspace.max_inline_bytes;
    if total > most {
        let text = format!("have {total} bytes; at most {most} may come inline: upload a snapshot instead");
        bad.push(FieldViolation::new(INLINE, text));
    }
    match snapshot::inline(given, &limits(service)) {
        Ok((manifest, contents)) if bad.is_empty() => Ok(Source::Inline(manifest, contents)),
        read => {
            bad.extend(read.err().unwrap_or_default().into_iter().map(within("")));
            Err(bad)
        }
    }
}

async fn inline_tree(
    service: &Arc<Service>,
    manifest: Manifest,
    contents: Contents,
) -> Result<Tree, ApiError> {
    let shared = service.clone();
    blocking(move || {
        let blobs: Vec<Digest> = contents.iter().map(|(digest, _)| *digest).collect();
        let pins = vec![shared.blobs.pin(blobs.iter().copied())];
        for (digest, bytes) in contents {
            shared.inputs.put_expected(digest, &bytes).map_err(blob_error)?;
        }
        Ok(Tree { manifest, root: None, source: RequestKind::Inline, blobs, pins })
    })
    .await?
}

async fn path_tree(service: &Arc<Service>, path: v1::PathSource) -> Result<Tree, ApiError> {
    let shared = service.clone();
    blocking(move || {
        let canonical = Path::new(&path.root).canonicalize().ok().filter(|root| root.is_dir());
        let allowed = |root: &PathBuf| {
            shared
                .trees
                .allowed_roots
                .iter()
                .any(|allowed| allowed.canonicalize().is_ok_and(|allowed| root.starts_with(allowed)))
        };
        // Whether a forbidden path exists is nobody's business, so both get the same answer.
        let Some(root) = canonical.filter(allowed) else {
            let text = format!(
                "`{}` is not a directory under one of the roots the server allows (workspace.allowed_roots)",
                path.root
            );
            return Err(ApiError::invalid(ROOT, text));
        };
        let workspace = &shared.settings.workspace;
        let options = DiscoverOptions {
            force_exclude: false,
            base: None,
            exclude: path.exclude,
            limits: limits(&shared),
            max_entries: workspace.max_entries,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
        let paths: Vec<PathBuf> = path.paths.into_iter().map(Into::into).collect();
        let found = discover(&root, &paths, &options).map_err(discover_error)?;
        let in_place = shared.trees.nodes_share_files.then(|| root.to_str().map(str::to_owned)).flatten();
        let (mut pins, mut blobs) = (Vec::new(), Vec::new());
        if in_place.is_none() {
            blobs.extend(found.manifest.files().iter().map(|file| file.digest));
            pins.push(shared.blobs.pin(blobs.iter().copied()));
            for file in found.manifest.files() {
                let full = file.path.under(&root);
                let bytes = std::fs::read(&full).map_err(|error| {
                    ApiError::invalid(ROOT, format!("{} cannot be read: {error}", file.path))
                })?;
                shared.inputs.put_expected(file.digest, &bytes).map_err(blob_error)?;
            }
        }
        let source = if in_place.is_some() { RequestKind::InPlace } else { RequestKind::ServerPath };
        Ok(Tree { manifest: found.manifest, root: in_place, source, blobs, pins })
    })
    .await?
}

fn discover_error(error: DiscoverError) -> ApiError {
    let field = match &error {
        DiscoverError::Exclude { .. } => "workspace.path.exclude",
        DiscoverError::Missing(_) | DiscoverError::Outside { .. } | DiscoverError::NotAFile(_) => {
            "workspace.path.paths"
        }
        DiscoverError::Io { .. } | DiscoverError::Changed(_) | DiscoverError::TooLarge { .. } => {
            "workspace.path.root"
        }
    };
    ApiError::invalid(field, error.to_string())
}
