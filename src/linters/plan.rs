//! The PLAN stage: which tools run, with which arguments, over which shards. A pure function.

use super::adapter::{Adapter, Cost, Scope, adapter};
use super::options::{render_options, validate_options};
use super::tree_config::ConfigurationFiles;
use crate::types::{
    Manifest, ManifestEntry, Plan, RunSpec, Shard, ToolError, ToolErrorKind, ToolPlan, ToolRequest,
};

/// A shard must be worth at least this many starts of its tool, or sharding costs more than it saves.
const STARTS_PER_SHARD: u64 = 3;

/// Decides how a run is carried out. `configuration` holds the files for which
/// [`super::tree_config::is_configuration`] is true; the same input gives the same plan, byte for byte.
pub fn plan(manifest: &Manifest, configuration: &ConfigurationFiles, spec: &RunSpec) -> Plan {
    let targets: Vec<&ManifestEntry> = manifest.targets().collect();
    let mut tools: Vec<_> =
        spec.tools.iter().map(|request| plan_tool(request, &targets, configuration, spec)).collect();
    tools.sort_by(|a, b| a.tool.cmp(&b.tool));
    Plan { tools, files: u32::try_from(targets.len()).unwrap_or(u32::MAX) }
}

fn plan_tool(
    request: &ToolRequest,
    targets: &[&ManifestEntry],
    configuration: &ConfigurationFiles,
    spec: &RunSpec,
) -> ToolPlan {
    let version = spec.versions.get(&request.tool);
    let planned = || {
        let adapter = usable(request)?;
        if version.is_none() {
            return Err(ToolError {
                kind: ToolErrorKind::Missing,
                message: format!(
                    "{} is not in the toolchain; install it there, choose another toolchain, or leave the tool out",
                    request.tool
                ),
            });
        }
        let mut arguments = adapter.arguments();
        arguments.extend(adapter.configure(configuration, spec.allow_tree_code)?);
        arguments.extend(render_options(adapter.options(), &request.options));
        Ok((arguments, shards(adapter, targets, spec.max_shards)))
    };
    let (arguments, shards, refused) = match planned() {
        Ok((arguments, shards)) => (arguments, shards, None),
        Err(error) => (Vec::new(), Vec::new(), Some(error)),
    };
    let version = version.cloned().unwrap_or_default();
    ToolPlan { tool: request.tool.clone(), version, arguments, refused, shards }
}

/// The adapter, if the request is valid. Requests are validated at the door; this is the second line.
fn usable(request: &ToolRequest) -> Result<&'static dyn Adapter, ToolError> {
    let refuse = |kind, message| Err(ToolError { kind, message });
    if let Err(problems) = validate_options(request) {
        let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return refuse(ToolErrorKind::Configuration, message);
    }
    match adapter(request.tool.as_str()) {
        Some(adapter) => Ok(adapter),
        None => refuse(ToolErrorKind::Missing, format!("{} is not known", request.tool)),
    }
}

/// What linting a file costs; an empty file is not free.
fn file_cost(entry: &ManifestEntry, cost: Cost) -> u64 {
    entry.size.saturating_add(1).saturating_mul(cost.per_byte)
}

fn shards(adapter: &dyn Adapter, targets: &[&ManifestEntry], max_shards: u32) -> Vec<Shard> {
    if targets.is_empty() {
        return Vec::new();
    }
    let cost = adapter.cost();
    let total = targets.iter().map(|entry| file_cost(entry, cost)).fold(0, u64::saturating_add);
    let worth = total / cost.start.saturating_mul(STARTS_PER_SHARD).max(1);
    let count = match adapter.scope() {
        Scope::Project => 1,
        Scope::File => worth.clamp(1, u64::from(max_shards.max(1))).min(targets.len() as u64),
    };
    balance(targets, cost, usize::try_from(count).unwrap_or(1))
}

/// Longest processing time first: each file goes to the lightest shard (Graham's LPT rule, at most 4/3 of the best).
fn balance(targets: &[&ManifestEntry], cost: Cost, count: usize) -> Vec<Shard> {
    let mut by_cost: Vec<_> = targets.iter().map(|entry| (file_cost(entry, cost), *entry)).collect();
    by_cost.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.path.cmp(&right.path)));
    let mut shards = vec![Shard { files: Vec::new(), cost: 0 }; count];
    for (cost, entry) in by_cost {
        if let Some(lightest) = shards.iter_mut().min_by_key(|shard| shard.cost) {
            lightest.files.push(entry.path.clone());
            lightest.cost = lightest.cost.saturating_add(cost);
        }
    }
    for shard in &mut shards {
        shard.files.sort();
    }
    shards.sort_by(|a, b| b.cost.cmp(&a.cost).then_with(|| a.files.cmp(&b.files)));
    shards
}
