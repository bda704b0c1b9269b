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
    // Each shard is a start of the tool, which on a small tree is all that counts.
    let mut shards = vec![Shard { files: Vec::new(), cost: cost.start }; count];
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::types::{Digest, ToolName, TreePath};

    fn manifest(sizes: &[u64]) -> Manifest {
        let entry = |(index, size): (usize, &u64)| ManifestEntry {
            path: TreePath::new(&format!("m{index:04}.py")).expect("valid"),
            digest: Digest::of(b""),
            size: *size,
            lint: true,
        };
        Manifest::new(sizes.iter().enumerate().map(entry).collect()).expect("valid")
    }

    fn spec(tools: &[&str], max_shards: u32) -> RunSpec {
        let names: Vec<_> = tools.iter().map(|tool| ToolName::new(tool).expect("valid")).collect();
        RunSpec {
            tools: names
                .iter()
                .map(|tool| ToolRequest { tool: tool.clone(), options: BTreeMap::new() })
                .collect(),
            versions: names.iter().map(|tool| (tool.clone(), "2.0".to_owned())).collect(),
            allow_tree_code: false,
            python: None,
            severity_overrides: BTreeMap::new(),
            max_shards,
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn file_tools_are_sharded_when_it_pays_and_project_tools_never() {
        let big = manifest(&[200_000; 40]);
        let plan = plan(&big, &BTreeMap::new(), &spec(&["ruff", "flake8", "pylint", "mypy", "bandit"], 4));
        let shards: Vec<_> =
            plan.tools.iter().map(|tool| (tool.tool.as_str().to_owned(), tool.shards.len())).collect();
        let expected = [("bandit", 4), ("flake8", 4), ("mypy", 1), ("pylint", 1), ("ruff", 4)];
        assert_eq!(shards, expected.map(|(tool, count)| (tool.to_owned(), count)));
        let small = super::plan(&manifest(&[4_000; 20]), &BTreeMap::new(), &spec(&["flake8"], 4));
        assert_eq!(small.tools[0].shards.len(), 1);
        let none = super::plan(&manifest(&[]), &BTreeMap::new(), &spec(&["flake8"], 4));
        assert!(none.tools[0].shards.is_empty());
    }

    #[test]
    fn on_a_small_tree_the_tool_that_starts_slowest_is_the_longest_task() {
        let tools = ["bandit", "flake8", "mypy", "pylint", "ruff"];
        let longest_of = |sizes: &[u64]| {
            let plan = plan(&manifest(sizes), &BTreeMap::new(), &spec(&tools, 1));
            let longest = plan.tools.into_iter().max_by_key(|tool| tool.shards[0].cost);
            longest.map(|tool| tool.tool.to_string())
        };
        assert_eq!(longest_of(&[100]).as_deref(), Some("mypy"));
        assert_eq!(longest_of(&[200_000; 40]).as_deref(), Some("pylint"));
    }

    #[test]
    fn a_missing_tool_a_bad_option_and_tree_code_are_refusals_with_a_kind() {
        let mut spec = spec(&["flake8", "mypy", "pylint"], 4);
        spec.versions.remove("flake8".parse::<ToolName>().as_ref().expect("valid"));
        spec.tools[1].options.insert("plugins".into(), "x".into());
        let config = BTreeMap::from([(
            TreePath::new(".pylintrc").expect("valid"),
            b"[MAIN]\ninit-hook=import x\n".to_vec(),
        )]);
        let plan = plan(&manifest(&[10]), &config, &spec);
        let kinds: Vec<_> =
            plan.tools.iter().map(|tool| tool.refused.as_ref().map(|error| error.kind)).collect();
        assert_eq!(
            kinds,
            [
                Some(ToolErrorKind::Missing),
                Some(ToolErrorKind::Configuration),
                Some(ToolErrorKind::TreeCodeRefused)
            ]
        );
        assert!(plan.tools.iter().all(|tool| tool.shards.is_empty()));
    }

    #[test]
    fn options_follow_the_configuration_on_the_command_line() {
        let mut spec = spec(&["flake8"], 1);
        spec.tools[0].options.insert("max-line-length".into(), "99".into());
        let plan = plan(&manifest(&[10]), &BTreeMap::new(), &spec);
        let arguments = &plan.tools[0].arguments;
        assert_eq!(arguments[arguments.len() - 2..], ["--isolated", "--max-line-length=99"]);
    }

    proptest! {
        #[test]
        fn shards_hold_each_file_once_longest_first(sizes in proptest::collection::vec(0_u64..900_000, 1..60), max in 1_u32..9) {
            let manifest = manifest(&sizes);
            let spec = spec(&["bandit", "ruff"], max);
            let plan = plan(&manifest, &BTreeMap::new(), &spec);
            prop_assert_eq!(&plan, &super::plan(&manifest, &BTreeMap::new(), &spec));
            for tool in &plan.tools {
                prop_assert!(tool.shards.len() <= max as usize);
                prop_assert!(tool.shards.is_sorted_by(|a, b| a.cost >= b.cost));
                let mut seen = BTreeSet::new();
                for shard in &tool.shards {
                    prop_assert!(!shard.files.is_empty() && shard.files.is_sorted());
                    seen.extend(shard.files.iter().cloned());
                }
                prop_assert_eq!(seen.len(), sizes.len());
                prop_assert_eq!(tool.shards.iter().map(|shard| shard.files.len()).sum::<usize>(), sizes.len());
            }
        }
    }
}
