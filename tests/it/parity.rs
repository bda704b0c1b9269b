//! For each tool, the diagnostics of a sharded run equal those of the tool run directly: same version, configuration
//! and list of files, as multisets of (path, line, column, code, message).
//!
//! The direct run is read in another output form than the adapters', by code that shares nothing with theirs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lintmesh::linters::adapter::Scope;
use lintmesh::linters::lint::{LintRequest, ProcessRunner, lint};
use lintmesh::linters::plan::plan;
use lintmesh::linters::process::{self, Finished, Limits, ProcessError, ProcessSpec};
use lintmesh::linters::toolchain::{ToolBinary, Toolchain};
use lintmesh::linters::tree_config::is_configuration;
use lintmesh::linters::{adapter, adapters};
use lintmesh::types::{
    Digest, LintOutput, Manifest, ManifestEntry, RunSpec, Shard, ToolName, ToolPlan, ToolRequest, TreePath,
};
use tokio_util::sync::CancellationToken;

use super::support::projects::project;
use super::support::toolchain::toolchain;

type Key = (String, i64, i64, String, String);
type Multiset = BTreeMap<Key, u32>;

const NO_COLUMN: i64 = -1;

#[tokio::test]
async fn a_sharded_run_on_flask_says_what_the_tools_say() {
    assert_parity(&project("flask"), &["src"]).await;
}

#[tokio::test]
async fn a_sharded_run_on_requests_says_what_the_tools_say() {
    assert_parity(&project("requests"), &["src"]).await;
}

/// Fails if, for any tool, a run over the Python files beneath `paths` of the project differs from the direct run.
pub(crate) async fn assert_parity(project: &Path, paths: &[&str]) {
    let toolchain = toolchain();
    let manifest = manifest(project, paths);
    let files: Vec<String> = manifest.targets().map(|entry| entry.path.to_string()).collect();
    assert!(files.len() > 10, "{files:?}");
    let configuration = manifest
        .files()
        .iter()
        .filter(|entry| is_configuration(&entry.path))
        .map(|entry| (entry.path.clone(), std::fs::read(entry.path.under(project)).expect("listed")))
        .collect();
    let tools = adapters().iter().map(|adapter| ToolRequest {
        tool: ToolName::new(adapter.name()).expect("valid"),
        options: BTreeMap::new(),
    });
    let spec = RunSpec {
        tools: tools.collect(),
        versions: toolchain.versions(),
        allow_tree_code: false,
        python: None,
        severity_overrides: BTreeMap::new(),
        max_shards: 4,
        unreadable: Vec::new(),
    };
    let mut said = 0;
    for tool in &plan(&manifest, &configuration, &spec).tools {
        assert_eq!(tool.refused, None);
        let name = tool.tool.as_str();
        let direct = run_directly(project, &toolchain, name, &files).await;
        said += direct.len();
        let mut sharded = Multiset::new();
        for shard in shards(tool) {
            let output = run_shard(project, &toolchain, tool, &shard).await;
            assert_eq!(output.error, None, "{name}");
            for (key, count) in keys(name, &output) {
                *sharded.entry(key).or_default() += count;
            }
        }
        assert_same(name, &direct, &sharded);
    }
    assert!(said > 50, "the tools said only {said} things: nothing was compared");
}

/// The planned shards, and for tools that may be sharded at least three, however small the project is.
fn shards(tool: &ToolPlan) -> Vec<Shard> {
    let scope = adapter(tool.tool.as_str()).expect("known").scope();
    if scope == Scope::Project || tool.shards.len() >= 3 {
        return tool.shards.clone();
    }
    let files: Vec<&TreePath> = tool.shards.iter().flat_map(|shard| &shard.files).collect();
    (0..3)
        .map(|part| Shard {
            files: files.iter().skip(part).step_by(3).map(|path| (*path).clone()).collect(),
            cost: 1,
        })
        .collect()
}

fn assert_same(tool: &str, direct: &Multiset, sharded: &Multiset) {
    let surplus = |of: &Multiset, over: &Multiset| -> Vec<String> {
        of.iter()
            .filter(|(key, count)| over.get(*key).copied().unwrap_or(0) < **count)
            .map(|(key, count)| format!("{count} x {key:?}"))
            .collect()
    };
    let (lost, added) = (surplus(direct, sharded), surplus(sharded, direct));
    assert!(lost.is_empty() && added.is_empty(), "{tool}: only direct: {lost:#?}\nonly sharded: {added:#?}");
}

fn manifest(project: &Path, paths: &[&str]) -> Manifest {
    let mut entries = Vec::new();
    let mut folders = vec![project.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable").map(|entry| entry.expect("readable")) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(project).expect("beneath").to_str().expect("UTF-8").to_owned();
            let bytes = std::fs::read(&path).expect("readable");
            entries.push(ManifestEntry {
                lint: relative.ends_with(".py")
                    && paths.iter().any(|p| relative.starts_with(&format!("{p}/"))),
                path: TreePath::new(&relative).expect("valid"),
                digest: Digest::of(&bytes),
                size: bytes.len() as u64,
            });
        }
    }
    Manifest::new(entries).expect("valid")
}

const LIMITS: Limits = Limits {
    wall: Duration::from_secs(900),
    cpu: Duration::from_secs(900),
    memory_bytes: 8 << 30,
    file_bytes: 1 << 30,
    output_bytes: 1 << 30,
    processes: 64,
};

async fn run_shard(project: &Path, toolchain: &Toolchain, tool: &ToolPlan, shard: &Shard) -> LintOutput {
    let scratch = tempfile::tempdir().expect("a folder");
    let cancel = CancellationToken::new();
    let linted = lint(LintRequest {
        root: project,
        plan: tool,
        shard,
        toolchain,
        python: None,
        scratch: scratch.path(),
        limits: &LIMITS,
        cpu_slots: 1,
        runner: &Shimmed,
        cancel: &cancel,
    });
    linted.await.expect("an answer").output
}

fn keys(tool: &str, output: &LintOutput) -> Multiset {
    let mut keys = Multiset::new();
    for diagnostic in &output.diagnostics {
        // mypy's text form gives notes no code and counts columns from 1.
        let note = tool == "mypy" && diagnostic.tool_severity.as_deref() == Some("note");
        let code = if note { String::new() } else { diagnostic.code.clone() };
        let column = diagnostic.tool_column.map_or(NO_COLUMN, i64::from);
        let key = (
            diagnostic.path.to_string(),
            i64::from(diagnostic.tool_line),
            column,
            code,
            diagnostic.message.clone(),
        );
        *keys.entry(key).or_default() += 1;
    }
    keys
}

/// Runs a process as a node does: beneath the shim.
struct Shimmed;

impl ProcessRunner for Shimmed {
    async fn run(&self, spec: ProcessSpec, cancel: &CancellationToken) -> Result<Finished, ProcessError> {
        process::run(spec, Path::new(env!("CARGO_BIN_EXE_lintmesh")), cancel).await
    }
}

/// Runs the tool as a user would in the root of the project: it finds its configuration by itself.
async fn run_directly(project: &Path, toolchain: &Toolchain, tool: &str, files: &[String]) -> Multiset {
    let Some(ToolBinary::Present { program, prefix, .. }) =
        toolchain.tools.get(&ToolName::new(tool).expect("valid"))
    else {
        panic!("{tool} is missing")
    };
    let home = tempfile::tempdir().expect("a folder");
    let arguments: &[&str] = match tool {
        "bandit" => &["-q", "-f", "json"],
        "flake8" => &[],
        "mypy" => &["--show-column-numbers", "--no-error-summary", "--no-pretty", "--cache-dir=/dev/null"],
        "pylint" => &["-f", "json"],
        _ => &["check", "--no-cache", "--output-format=json-lines"],
    };
    let output = tokio::process::Command::new(program)
        .args(prefix)
        .args(arguments)
        .args(files)
        .current_dir(project)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home.path())
        .env("LANG", "C.UTF-8")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONSAFEPATH", "1")
        // pylint walks sets of names: without a fixed seed, two direct runs name a cycle (R0401) differently.
        .env("PYTHONHASHSEED", "0")
        .output()
        .await
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut keys = Multiset::new();
    let rows: Vec<Key> = match tool {
        "flake8" => text.lines().map(flake8_line).collect(),
        "mypy" => text.lines().map(mypy_line).collect(),
        "ruff" => text.lines().map(|line| ruff_line(line, project)).collect(),
        "pylint" => pylint_rows(&text),
        _ => bandit_rows(&text),
    };
    for key in rows {
        *keys.entry(key).or_default() += 1;
    }
    keys
}

/// `path:line:column: rest`; the column may be missing.
fn place(line: &str) -> (String, i64, i64, &str) {
    let (place, rest) =
        line.split_once(": ").unwrap_or_else(|| panic!("not `path:line:column: rest`: {line}"));
    let parts: Vec<&str> = place.split(':').collect();
    let number = |at: usize| parts.get(at).map_or(NO_COLUMN, |part| part.parse().expect("a number"));
    (parts[0].to_owned(), number(1), number(2), rest)
}

fn flake8_line(line: &str) -> Key {
    let (path, line, column, rest) = place(line);
    let (code, message) = rest.split_once(' ').expect("code and message");
    (path, line, column, code.to_owned(), message.to_owned())
}

fn mypy_line(line: &str) -> Key {
    let (path, line, column, rest) = place(line);
    let column = if column == NO_COLUMN { column } else { column - 1 };
    let (severity, text) = rest.split_once(": ").expect("severity and text");
    let (message, code) = match text.rsplit_once("  [") {
        Some((message, code)) if severity == "error" => (message, code.trim_end_matches(']')),
        _ => (text, ""),
    };
    (path, line, column, code.to_owned(), message.to_owned())
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn ruff_line(line: &str, project: &Path) -> Key {
    let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let path = text(&row["filename"]);
    let path = Path::new(&path).strip_prefix(project).expect("beneath").to_str().expect("UTF-8");
    let place = &row["location"];
    let number = |name: &str| place[name].as_i64().expect("a number");
    (path.to_owned(), number("row"), number("column"), text(&row["code"]), text(&row["message"]))
}

fn pylint_rows(json: &str) -> Vec<Key> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).expect("JSON");
    let row = |row: &serde_json::Value| {
        let number = |name: &str| row[name].as_i64().expect("a number");
        let code = text(&row["message-id"]);
        let mut message = text(&row["message"]);
        if code == "R0801" {
            // Which of the similar files pylint quotes after their list differs from one direct run to the next.
            let listed = |line: &&str| line.starts_with("Similar lines in ") || line.starts_with("==");
            message = message.lines().take_while(listed).collect::<Vec<_>>().join("\n");
        }
        (text(&row["path"]), number("line"), number("column"), code, message)
    };
    rows.iter().map(row).collect()
}

fn bandit_rows(json: &str) -> Vec<Key> {
    let report: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(report["errors"].as_array().map(Vec::len), Some(0));
    let row = |row: &serde_json::Value| {
        let number = |name: &str| row[name].as_i64().expect("a number");
        let path = text(&row["filename"]).trim_start_matches("./").to_owned();
        (path, number("line_number"), number("col_offset"), text(&row["test_id"]), text(&row["issue_text"]))
    };
    report["results"].as_array().expect("a list").iter().map(row).collect()
}
