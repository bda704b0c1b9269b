//! From a client's request to a run: every field checked at once, then the tree, then the core decides.

mod fields;
mod tree;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::service::{Service, blob_error, blocking, stopped};
use crate::coordinator::decision::{Refusal, Reply};
use crate::coordinator::event::RunOrder;
use crate::coordinator::input::Input;
use crate::middleware::auth::Identity;
use crate::proto::v1;
use crate::status::{ApiError, Precondition};
use crate::types::{Digest, RunId, RunSpec, ToolName};
use crate::workspace::blobs::BlobError;
use tree::Tree;

pub use fields::check_id;

/// How many shards a tool is split into at most.
const MAX_SHARDS: u32 = 4;
/// How long a client that asks before any node has joined should wait.
const NODES_JOIN: Duration = Duration::from_secs(1);

/// Starts the run a request asks for, or finds the one it started before.
pub async fn start(
    service: &Arc<Service>,
    caller: &Identity,
    mut request: v1::CoordinateRequest,
) -> Result<RunId, ApiError> {
    let body = Digest::of(&fields::canonical_body(&request));
    let mut bad = Vec::new();
    fields::check_labels(&request, &mut bad);
    let priority = fields::priority(&request, &mut bad);
    let timeout = fields::timeout(service, &request, &mut bad);
    let tools = fields::tools(&request, &mut bad);
    let python = fields::interpreter(service, &request, &mut bad);
    let severity_overrides = fields::severities(service, &request, &mut bad);
    let source =
        tree::read(service, request.workspace.take()).await?.map_err(|problems| bad.extend(problems));
    let (Ok(source), true) = (source, bad.is_empty()) else {
        return Err(ApiError::InvalidArgument(bad));
    };
    // What is asked below would be answered only when the state can be stored again.
    service.stores_facts()?;
    // A repetition must not pay for listing the tree again, nor depend on it being there still.
    if let Some(run) = earlier(service, caller, &request, body).await? {
        return Ok(run);
    }
    service.takes_runs().await?;
    let run = service.new_run_id(service.engine.now().wall);
    // Before the tree, so that nothing is stored while there is nobody to lint it.
    let versions = versions(service).await?;
    let mut tree = tree::list(service, source).await?;
    let spec = RunSpec {
        versions: versions.clone(),
        allow_tree_code: service.trees.allow_tree_code,
        python,
        severity_overrides,
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
        priority,
        supersede_key: request.supersede_key,
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
    // Listing a tree takes its time.
    service.takes_runs().await?;
    let (shared, pins) = (service.clone(), tree.pins);
    // A task of its own: if the client goes away meanwhile this call is dropped, but the run that starts all the same
    // must keep its blobs.
    let decided = tokio::spawn(async move {
        let reply = shared.engine.decide(Input::StartRun { run, order: Box::new(order) }).await;
        if let Ok(Reply::Run(run)) = &reply {
            shared.pins.keep_for(run, pins);
        }
        reply
    });
    match decided.await.map_err(|_| ApiError::Internal { request_id: String::new() })?.map_err(stopped)? {
        Reply::Run(run) => Ok(run),
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
        Refusal::TooManyNodes(most) => {
            ApiError::ResourceExhausted { what: "nodes", limit: most as u64, retry: Duration::from_secs(60) }
        }
        Refusal::TooManyRunsOfProject { limit, .. } => ApiError::ResourceExhausted {
            what: "open runs of one project (queue.max_runs_per_project)",
            limit: limit as u64,
            retry: Duration::from_secs(5),
        },
        Refusal::DeclaredOtherwise(node) => ApiError::FailedPrecondition(vec![Precondition {
            kind: "NODE_DECLARED_OTHERWISE",
            subject: node.to_string(),
            description: message,
        }]),
        Refusal::NodeConnected(node) => ApiError::FailedPrecondition(vec![Precondition {
            kind: "NODE_CONNECTED",
            subject: node.to_string(),
            description: message,
        }]),
        Refusal::NodeIdTaken(node) => ApiError::AlreadyExists {
            reason: "NODE_ID_TAKEN",
            message,
            resource_type: "node",
            name: node.to_string(),
        },
        Refusal::StaleIncarnation { node, .. } => ApiError::AlreadyExists {
            reason: "STALE_INCARNATION",
            message,
            resource_type: "node",
            name: node.to_string(),
        },
    }
}

/// The run that the same request started before. If there is none, there must be room for a new one.
async fn earlier(
    service: &Service,
    caller: &Identity,
    request: &v1::CoordinateRequest,
    body: Digest,
) -> Result<Option<RunId>, ApiError> {
    let key = (caller.name.to_string(), request.request_id.clone());
    let (project, supersede_key) = (request.project.clone(), request.supersede_key.clone());
    let (found, room) = service
        .engine
        .query(move |core, _| {
            let found = core.state().requests.get(&key).map(|run| {
                let same = core.state().runs.get(run).is_some_and(|state| state.order.body == body);
                (run.clone(), same)
            });
            (found, core.admit(&key.0, &project, &supersede_key))
        })
        .await
        .map_err(stopped)?;
    match found {
        // The core decides in the end; asked here too, so that nothing is stored for a run that has no room.
        None => room.map(|_| None).map_err(refused),
        Some((run, true)) => Ok(Some(run)),
        Some((_, false)) => Err(ApiError::IdReused { field: "request_id", id: request.request_id.clone() }),
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

/// Stores what nodes read beside the files of the tree, and has all of it survive a power cut where the run does.
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
    let mut all = std::mem::take(&mut tree.blobs);
    blocking(move || {
        shared.inputs.put(&manifest).map_err(blob_error)?;
        shared.inputs.put(&spec).map_err(blob_error)?;
        if !shared.is_durable {
            return Ok(());
        }
        // The run outlives the process once it is accepted; what it reads must have outlived it before.
        all.extend([digests.0, digests.1]);
        shared.blobs.make_durable(&all).map_err(|error| match error {
            // Found damaged only now, and removed, so that it can be uploaded again.
            BlobError::Missing(_) => tree::missing(shared.blobs.missing(&all)),
            error => blob_error(error),
        })
    })
    .await??;
    Ok(digests)
}
