//! From a client's request to a run: every field checked at once, then the tree, then the core decides.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::service::{Service, blob_error, blocking, stopped};
use super::trees::{self, Tree};
use crate::coordinator::event::RunOrder;
use crate::coordinator::input::{Input, Refusal, Reply};
use crate::linters::{adapters, validate_options};
use crate::middleware::auth::Identity;
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation, Precondition};
use crate::types::{Digest, RunId, RunSpec, ToolName, ToolRequest};
use crate::wire::time;

/// How many shards a tool is split into at most.
const MAX_SHARDS: u32 = 4;
/// How long a client that asks before any node has joined should wait.
const NODES_JOIN: Duration = Duration::from_secs(1);

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
    let source = trees::read(service, request.workspace).await?.map_err(|problems| bad.extend(problems));
    let (Ok(source), true) = (source, bad.is_empty()) else {
        return Err(ApiError::InvalidArgument(bad));
    };
    // A repetition must not pay for listing the tree again, nor depend on it being there still.
    if let Some(run) = earlier(service, caller, &request.request_id, body).await? {
        return Ok(run);
    }
    let run = service.new_run_id(service.engine.now().wall);
    let mut tree = trees::list(service, source).await?;
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
    let key = (caller.name.to_string(), request_id.to_owned());
    let (found, open) = service
        .engine
        .query(move |core, _| {
            let found = core.state().requests.get(&key).map(|run| {
                let same = core.state().runs.get(run).is_some_and(|state| state.order.body == body);
                (run.clone(), same)
            });
            (found, core.state().open_runs().count())
        })
        .await
        .map_err(stopped)?;
    match found {
        // The core decides in the end; asked here too, so that nothing is stored for a run that has no room.
        None if open >= service.settings.runs.max_open as usize => Err(refused(Refusal::TooManyRuns(open))),
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
