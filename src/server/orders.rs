//! From a client's request to a run: every field checked at once, the tree listed, its bytes at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::service::{Service, blob_error, blocking, stopped};
use crate::coordinator::event::RunOrder;
use crate::coordinator::input::{Input, Refusal, Reply};
use crate::linters::{adapters, validate_options};
use crate::middleware::auth::Identity;
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation, Precondition};
use crate::types::{Digest, Manifest, ManifestProblem, RequestKind, RunId, RunSpec, ToolName, ToolRequest};
use crate::wire::time;
use crate::workspace::blobs::Pin;
use crate::workspace::discover::{DiscoverError, DiscoverOptions, discover};
use crate::workspace::snapshot::{self, InlineFile, TreeLimits};

/// How many shards a tool is split into at most.
const MAX_SHARDS: u32 = 4;
/// How long a client that asks before any node has joined should wait.
const NODES_JOIN: Duration = Duration::from_secs(1);

/// A tree that is listed, with its bytes where nodes find them.
struct Tree {
    manifest: Manifest,
    root: Option<String>,
    source: RequestKind,
    /// Keeps its bytes until the run holds them.
    pins: Vec<Pin>,
}

/// Starts the run a request asks for, or finds the one it started before.
pub async fn start(
    service: &Arc<Service>,
    caller: &Identity,
    request: v1::CoordinateRequest,
) -> Result<RunId, ApiError> {
    let body = Digest::of(&canonical_body(&request));
    let mut bad = Vec::new();
    check_labels(&request, &mut bad);
    let timeout = timeout(service, &request, &mut bad);
    let tools = tools(&request, &mut bad);
    let python = interpreter(service, &request, &mut bad);
    let source = request.workspace.and_then(|workspace| workspace.source);
    if source.is_none() {
        let text = "is needed: give `snapshot`, `inline` or `path`";
        bad.push(FieldViolation::new("workspace", text));
    }
    let (Some(source), true) = (source, bad.is_empty()) else {
        return Err(ApiError::InvalidArgument(bad));
    };
    // A repetition must not pay for listing the tree again, nor depend on it being there still.
    if let Some(run) = earlier(service, caller, &request.request_id, body).await? {
        return Ok(run);
    }
    let run = service.new_run_id(service.engine.now().wall);
    let mut tree = tree(service, source).await?;
    let versions = versions(service).await?;
    let spec = RunSpec {
        versions: versions.clone(),
        allow_tree_code: service.trees.allow_tree_code,
        python,
        severity_overrides: service.settings.severity.clone(),
        max_shards: MAX_SHARDS,
        unreadable: tree.manifest.unreadable().to_vec(),
        tools: tools.clone(),
    };
    let files = u32::try_from(tree.manifest.targets().count()).unwrap_or(u32::MAX);
    let (manifest, spec) = store(service, &mut tree, &spec).await?;
    let order = RunOrder {
        caller: caller.name.to_string(),
        request_id: request.request_id,
        body,
        project: request.project,
        manifest,
        files,
        spec,
        tree_root: tree.root,
        tools: tools
            .into_iter()
            .map(|request| {
                let version = versions.get(&request.tool).cloned();
                (request.tool, version)
            })
            .collect(),
        timeout,
        source: tree.source,
    };
    let reply =
        service.engine.decide(Input::StartRun { run, order: Box::new(order) }).await.map_err(stopped)?;
    match reply {
        Reply::Run(run) => {
            service.keep_for(&run, tree.pins);
            Ok(run)
        }
        Reply::Refused(refusal) => Err(refused(refusal)),
        Reply::Done | Reply::Welcome { .. } | Reply::Fault(_) => {
            Err(ApiError::Internal { request_id: String::new() })
        }
    }
}

/// What a refusal of the core means to a client.
pub fn refused(refusal: Refusal) -> ApiError {
    let message = refusal.to_string();
    match refusal {
        Refusal::UnknownNode(node) => ApiError::NotFound { resource_type: "node", name: node.to_string() },
        Refusal::UnknownRun(run) => ApiError::NotFound { resource_type: "run", name: run.to_string() },
        Refusal::IdReused(id) => ApiError::IdReused { field: "request_id", id },
        Refusal::TooManyRuns(open) => ApiError::ResourceExhausted {
            what: "open runs",
            limit: open as u64,
            retry: Duration::from_secs(5),
        },
        Refusal::DeclaredOtherwise(node) => ApiError::FailedPrecondition(vec![Precondition {
            kind: "NODE_DECLARED_OTHERWISE",
            subject: node.to_string(),
            description: message,
        }]),
        Refusal::StaleIncarnation { node, .. } => ApiError::AlreadyExists {
            reason: "STALE_INCARNATION",
            message,
            resource_type: "node",
            name: node.to_string(),
        },
    }
}

/// The request without its id: what must be the same when an id is used again.
fn canonical_body(request: &v1::CoordinateRequest) -> Vec<u8> {
    // Maps are ordered by key, and both sides of the comparison are encoded by this very code.
    let body = v1::CoordinateRequest { request_id: String::new(), ..request.clone() };
    body.encode_to_vec()
}

/// Request and fault ids: short enough to index, printable so that they can be searched for.
pub fn check_id(field: &str, id: &str, bad: &mut Vec<FieldViolation>) {
    if id.len() > 36 || !id.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        bad.push(FieldViolation::new(field, "must have at most 36 printable ASCII characters"));
    }
}

fn check_labels(request: &v1::CoordinateRequest, bad: &mut Vec<FieldViolation>) {
    check_id("request_id", &request.request_id, bad);
    if request.project.chars().count() > 128 || request.project.chars().any(char::is_control) {
        let text = "must have at most 128 characters, none of them a control character";
        bad.push(FieldViolation::new("project", text));
    }
}

fn timeout(service: &Service, request: &v1::CoordinateRequest, bad: &mut Vec<FieldViolation>) -> Duration {
    let longest = service.settings.runs.timeout;
    let Some(wish) = request.timeout else { return longest };
    match time::span(wish) {
        Some(wish) if !wish.is_zero() && wish <= longest => wish,
        _ => {
            let text = format!("must be more than 0 and at most {} s (runs.timeout)", longest.as_secs());
            bad.push(FieldViolation::new("timeout", text));
            longest
        }
    }
}

/// The tools of a request, sorted; all of them if it names none.
fn tools(request: &v1::CoordinateRequest, bad: &mut Vec<FieldViolation>) -> Vec<ToolRequest> {
    let mut chosen: BTreeMap<ToolName, ToolRequest> = BTreeMap::new();
    for (index, selection) in request.tools.iter().enumerate() {
        let field = format!("tools[{index}]");
        let Ok(tool) = ToolName::new(&selection.tool) else {
            let known: Vec<_> = adapters().iter().map(|adapter| adapter.name()).collect();
            let text = format!("`{}` is not a linter; choose from {}", selection.tool, known.join(", "));
            bad.push(FieldViolation::new(format!("{field}.tool"), text));
            continue;
        };
        let options = selection.options.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let wanted = ToolRequest { tool: tool.clone(), options };
        for problem in validate_options(&wanted).err().unwrap_or_default() {
            let place = if problem.option.is_empty() {
                format!("{field}.tool")
            } else {
                format!("{field}.options[{}]", problem.option)
            };
            bad.push(FieldViolation::new(place, problem.problem));
        }
        if chosen.insert(tool.clone(), wanted).is_some() {
            bad.push(FieldViolation::new(field, format!("`{tool}` is selected twice")));
        }
    }
    if request.tools.is_empty() {
        return Service::tools()
            .into_iter()
            .map(|tool| ToolRequest { tool, options: BTreeMap::new() })
            .collect();
    }
    chosen.into_values().collect()
}

fn interpreter(
    service: &Service,
    request: &v1::CoordinateRequest,
    bad: &mut Vec<FieldViolation>,
) -> Option<String> {
    use v1::environment::Interpreter;
    match request.environment.as_ref()?.interpreter.as_ref()? {
        Interpreter::Name(name) => {
            let found = service.settings.environments.get(name);
            if found.is_none() {
                let known: Vec<_> = service.settings.environments.keys().map(String::as_str).collect();
                let text = format!(
                    "`{name}` is not in the server's `environments`; it knows: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                );
                bad.push(FieldViolation::new("environment.name", text));
            }
            found.map(|path| path.to_string_lossy().into_owned())
        }
        Interpreter::Python(path) if !service.trees.allow_interpreter_paths => {
            let text = format!("`{path}`: this server takes only names from its `environments`");
            bad.push(FieldViolation::new("environment.python", text));
            None
        }
        Interpreter::Python(path) => {
            if !Path::new(path).is_absolute() || !Path::new(path).is_file() {
                let text = format!("`{path}` is not the absolute path of a Python interpreter");
                bad.push(FieldViolation::new("environment.python", text));
            }
            Some(path.clone())
        }
    }
}

async fn earlier(
    service: &Service,
    caller: &Identity,
    request_id: &str,
    body: Digest,
) -> Result<Option<RunId>, ApiError> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let key = (caller.name.to_string(), request_id.to_owned());
    let found = service
        .engine
        .query(move |core, _| {
            let run = core.state().requests.get(&key)?;
            let same = core.state().runs.get(run).is_some_and(|state| state.order.body == body);
            Some((run.clone(), same))
        })
        .await
        .map_err(stopped)?;
    match found {
        None => Ok(None),
        Some((run, true)) => Ok(Some(run)),
        Some((_, false)) => Err(ApiError::IdReused { field: "request_id", id: request_id.to_owned() }),
    }
}

/// The versions of the tools the ACTIVE nodes have: those of the toolchain most of them share.
async fn versions(service: &Service) -> Result<BTreeMap<ToolName, String>, ApiError> {
    service
        .engine
        .query(|core, _| {
            let mut shared: BTreeMap<&str, (usize, &BTreeMap<ToolName, String>)> = BTreeMap::new();
            for (id, _) in core.state().active() {
                if let Some(presence) = core.presences().get(id) {
                    shared.entry(&presence.toolchain_id).or_insert((0, &presence.tools)).0 += 1;
                }
            }
            shared.into_values().max_by_key(|(nodes, _)| *nodes).map(|(_, tools)| tools.clone())
        })
        .await
        .map_err(stopped)?
        .ok_or_else(|| ApiError::Unavailable {
            reason: "NO_ACTIVE_NODE",
            message: "no node is ACTIVE, so nothing can be linted; see GetMeshStatus".into(),
            retry: NODES_JOIN,
        })
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

async fn tree(service: &Arc<Service>, source: v1::workspace::Source) -> Result<Tree, ApiError> {
    match source {
        v1::workspace::Source::Snapshot(snapshot) => snapshot_tree(service, &snapshot.digest).await,
        v1::workspace::Source::Inline(inline) => inline_tree(service, inline.files).await,
        v1::workspace::Source::Path(path) => path_tree(service, path).await,
    }
}

async fn snapshot_tree(service: &Arc<Service>, digest: &str) -> Result<Tree, ApiError> {
    const FIELD: &str = "workspace.snapshot.digest";
    let digest: Digest = digest.parse().map_err(|error| ApiError::invalid(FIELD, format!("{error}")))?;
    let mut pins = vec![service.blobs.pin([digest])];
    let shared = service.clone();
    blocking(move || {
        let missing = |digests: Vec<Digest>| {
            let missing = digests.into_iter().map(|digest| Precondition {
                kind: "BLOB_MISSING",
                subject: format!("blobs/{digest}"),
                description: "upload it with WorkspaceService.UploadBlobs first".into(),
            });
            ApiError::FailedPrecondition(missing.collect())
        };
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
        let wrong: Vec<FieldViolation> = manifest
            .files()
            .iter()
            .enumerate()
            .filter_map(|(index, file)| {
                let actual = shared.blobs.size(&file.digest)?;
                (actual != file.size).then(|| {
                    let text = format!("is {} but the blob has {actual} bytes", file.size);
                    FieldViolation::new(format!("workspace.snapshot.files[{index}].size"), text)
                })
            })
            .collect();
        if !wrong.is_empty() {
            return Err(ApiError::InvalidArgument(wrong));
        }
        Ok(Tree { manifest, root: None, source: RequestKind::Snapshot, pins })
    })
    .await?
}

async fn inline_tree(service: &Arc<Service>, files: Vec<v1::InlineFile>) -> Result<Tree, ApiError> {
    const FIELD: &str = "workspace.inline.files";
    if files.is_empty() {
        return Err(ApiError::invalid(FIELD, "is empty; give at least one file"));
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
                bad.push(FieldViolation::new(format!("{FIELD}[{index}]"), text));
                continue;
            }
        };
        total += bytes.len() as u64;
        given.push(InlineFile { path: file.path, bytes });
    }
    let most = service.settings.workspace.max_inline_bytes;
    if total > most {
        let text = format!("have {total} bytes; at most {most} may come inline: upload a snapshot instead");
        bad.push(FieldViolation::new(FIELD, text));
    }
    if !bad.is_empty() {
        return Err(ApiError::InvalidArgument(bad));
    }
    let shared = service.clone();
    blocking(move || {
        let (manifest, contents) = snapshot::inline(given, &limits(&shared))
            .map_err(|problems| ApiError::InvalidArgument(problems.into_iter().map(within("")).collect()))?;
        let pins = vec![shared.blobs.pin(contents.iter().map(|(digest, _)| *digest))];
        for (digest, bytes) in contents {
            shared.blobs.put_expected(digest, &bytes).map_err(blob_error)?;
        }
        Ok(Tree { manifest, root: None, source: RequestKind::Inline, pins })
    })
    .await?
}

async fn path_tree(service: &Arc<Service>, path: v1::PathSource) -> Result<Tree, ApiError> {
    const FIELD: &str = "workspace.path.root";
    let shared = service.clone();
    blocking(move || {
        let root = Path::new(&path.root);
        if !root.is_absolute() {
            return Err(ApiError::invalid(FIELD, format!("`{}` is not an absolute path", path.root)));
        }
        let canonical = root.canonicalize().ok().filter(|root| root.is_dir());
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
            return Err(ApiError::invalid(FIELD, text));
        };
        let workspace = &shared.settings.workspace;
        let options = DiscoverOptions {
            base: None,
            exclude: path.exclude,
            limits: limits(&shared),
            max_entries: workspace.max_entries,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
        let paths: Vec<PathBuf> = path.paths.into_iter().map(Into::into).collect();
        let found = discover(&root, &paths, &options).map_err(discover_error)?;
        let in_place = shared.trees.nodes_share_files.then(|| root.to_str().map(str::to_owned)).flatten();
        let mut pins = Vec::new();
        if in_place.is_none() {
            pins.push(shared.blobs.pin(found.manifest.files().iter().map(|file| file.digest)));
            for file in found.manifest.files() {
                let full = file.path.under(&root);
                let bytes = std::fs::read(&full).map_err(|error| {
                    ApiError::invalid(FIELD, format!("{} cannot be read: {error}", file.path))
                })?;
                shared.blobs.put_expected(file.digest, &bytes).map_err(blob_error)?;
            }
        }
        let source = if in_place.is_some() { RequestKind::InPlace } else { RequestKind::ServerPath };
        let manifest = found.manifest.with_unreadable(found.unreadable);
        Ok(Tree { manifest, root: in_place, source, pins })
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

async fn store(
    service: &Arc<Service>,
    tree: &mut Tree,
    spec: &RunSpec,
) -> Result<(Digest, Digest), ApiError> {
    let manifest = tree.manifest.canonical_bytes();
    let spec = serde_json::to_vec(spec).map_err(|_| ApiError::Internal { request_id: String::new() })?;
    let digests = (Digest::of(&manifest), Digest::of(&spec));
    tree.pins.push(service.blobs.pin([digests.0, digests.1]));
    let shared = service.clone();
    blocking(move || {
        shared.blobs.put(&manifest).map_err(blob_error)?;
        shared.blobs.put(&spec).map_err(blob_error)
    })
    .await??;
    Ok(digests)
}
