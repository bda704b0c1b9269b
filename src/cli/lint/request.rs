//! The request that a lint command makes of its flags, its settings and its tree.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::LintArgs;
use super::arguments::ToolOption;
use super::tree::Tree;
use crate::cli::error::UsageError;
use crate::cli::random_id;
use crate::config::{OutputFormat, Settings};
use crate::linters::report::Format;
use crate::linters::validate_options;
use crate::proto::v1::environment::Interpreter;
use crate::proto::v1::workspace::Source;
use crate::proto::v1::{
    CoordinateRequest, Environment, PathSource, SnapshotSource, ToolSelection, Workspace,
};
use crate::types::ToolRequest;

/// The tree as it was uploaded.
pub(super) fn snapshot(tree: &Tree) -> Source {
    Source::Snapshot(SnapshotSource { digest: tree.found.manifest.digest().to_string() })
}

/// The tree where it is.
pub(super) fn in_place(tree: &Tree) -> Result<Source, UsageError> {
    let root = &tree.found.root;
    let paths = match tree.paths.as_slice() {
        [only] if only == root => Vec::new(),
        paths => paths
            .iter()
            .map(|path| match path.strip_prefix(root) {
                Ok(inside) if inside.as_os_str().is_empty() => Ok(".".to_owned()),
                Ok(inside) => utf8(inside),
                Err(_) => utf8(path),
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Source::Path(PathSource { root: utf8(root)?, paths, exclude: tree.exclude.clone() }))
}

fn utf8(path: &Path) -> Result<String, UsageError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        UsageError(format!("path {} is not UTF-8; name the folder that holds it instead", path.display()))
    })
}

/// Refuses what cannot be asked for, before anything is started or sent for it.
pub(super) fn check(args: &LintArgs, settings: &Settings) -> Result<(), UsageError> {
    selections(args, settings).map(|_| ())
}

/// The whole request. `in_place` says that the interpreter is looked up on this machine; `patience` is for how long this
/// client tries to come back when its connection breaks.
pub(super) fn coordinate(
    source: Source,
    args: &LintArgs,
    settings: &Settings,
    in_place: bool,
    patience: Duration,
) -> anyhow::Result<CoordinateRequest> {
    let environment = match &settings.lint.python {
        None => None,
        Some(path) if in_place => {
            let full = std::path::absolute(path).context("--python")?;
            if !full.is_file() {
                return Err(UsageError(format!("--python {path} does not exist; name an interpreter")).into());
            }
            Some(Interpreter::Python(utf8(&full)?))
        }
        Some(name) => Some(Interpreter::Name(name.clone())),
    };
    Ok(CoordinateRequest {
        request_id: random_id()?,
        project: args.project.clone(),
        priority: args.priority,
        supersede_key: args.supersede_key.clone(),
        workspace: Some(Workspace { source: Some(source) }),
        tools: selections(args, settings)?,
        timeout: args.timeout.map(prost_types::Duration::try_from).transpose().context("--timeout")?,
        cancel_on_disconnect: true,
        disconnect_grace: Some(prost_types::Duration::try_from(patience).context("--reconnect")?),
        environment: environment.map(|interpreter| Environment { interpreter: Some(interpreter) }),
        severities: settings
            .severity
            .iter()
            .map(|(rules, severity)| (rules.clone(), crate::proto::v1::Severity::from(*severity).into()))
            .collect(),
    })
}

/// The selected tools with their options; flags replace the settings' options one by one.
fn selections(args: &LintArgs, settings: &Settings) -> Result<Vec<ToolSelection>, UsageError> {
    let mut bad = Vec::new();
    let mut options: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for tool in &settings.lint.select_tools {
        let set = settings.lint.options.get(tool.as_str()).into_iter().flatten();
        options.insert(tool.as_str(), set.map(|(name, value)| (name.clone(), value.0.clone())).collect());
    }
    for option in &args.options {
        let Some(of_tool) = options.get_mut(option.tool.as_str()) else {
            let selected: Vec<&str> = options.keys().copied().collect();
            bad.push(format!(
                "--option {}.{}: {} is not among the linters of this run ({})",
                option.tool,
                option.name,
                option.tool,
                selected.join(", ")
            ));
            continue;
        };
        of_tool.insert(option.name.clone(), option.value.clone());
    }
    // The server would refuse them too, later and by the names of its protocol.
    for tool in &settings.lint.select_tools {
        let options = options.get(tool.as_str()).cloned().unwrap_or_default();
        for problem in
            validate_options(&ToolRequest { tool: tool.clone(), options }).err().unwrap_or_default()
        {
            let is_flag = |option: &&ToolOption| option.tool == problem.tool && option.name == problem.option;
            let place = match args.options.iter().find(is_flag) {
                Some(_) => "--option ",
                None => "setting lint.options.",
            };
            bad.push(format!("{place}{}.{}: {}", problem.tool, problem.option, problem.problem));
        }
    }
    if !bad.is_empty() {
        return Err(UsageError(bad.join("\n")));
    }
    Ok(options.into_iter().map(|(tool, options)| ToolSelection { tool: tool.to_owned(), options }).collect())
}

/// The report's format that a setting means.
pub(super) const fn report_format(format: OutputFormat) -> Format {
    match format {
        OutputFormat::Full => Format::Full,
        OutputFormat::Concise => Format::Concise,
        OutputFormat::Json => Format::Json,
        OutputFormat::JsonLines => Format::JsonLines,
        OutputFormat::Sarif => Format::Sarif,
        OutputFormat::Github => Format::Github,
        OutputFormat::Junit => Format::Junit,
    }
}
