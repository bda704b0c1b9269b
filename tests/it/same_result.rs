//! The result depends on the tree, the tools and their configuration only: not on who launched the nodes, how many there
//! are, whether the tree was read in place or shipped, or whether a node failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use lintmesh::proto::v1::{FaultAction, HandleFaultRequest};
use serde_json::value::RawValue;

use super::support::projects::project;
use super::support::serve::{Serve, lintmesh};
use super::support::toolchain::toolchain;

/// A small tree with something to say for each tool, and configuration.
fn example(root: &Path) {
    for (path, text) in [
        (
            "pyproject.toml",
            "[tool.ruff.lint]\nselect = [\"E\", \"F\", \"S\"]\n\n[tool.mypy]\nstrict = true\n",
        ),
        ("setup.cfg", "[flake8]\nmax-line-length = 100\n"),
        ("pkg/__init__.py", ""),
        ("pkg/a.py", "import os\nimport subprocess\n\n\ndef f(x):\n    subprocess.call(x, shell=True)\n"),
        ("pkg/b.py", "from pkg.a import f\n\n\ndef g() -> int:\n    return f('x')\n\n\ndef h(:\n"),
        ("with space/ö.py", "x = 1\nassert x\n"),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("beneath")).expect("created");
        std::fs::write(path, text).expect("written");
    }
}

/// Runs `lintmesh lint --format json` in `folder`; answers the bytes of the result.
async fn result(folder: &Path, arguments: &[&str]) -> String {
    tokio::task::spawn_blocking(toolchain).await.expect("provided");
    let mut command = lintmesh();
    command.args(["lint", ".", "--format", "json"]).args(arguments).current_dir(folder);
    let output: Output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("no panic")
        .expect("the binary is built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "findings: {errors}");
    let parts: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&output.stdout).expect("JSON");
    parts["result"].get().to_owned()
}

#[track_caller]
fn assert_same(one: &str, other: &str, what: &str) {
    if one != other {
        let at =
            one.bytes().zip(other.bytes()).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()));
        let around = |text: &str| {
            let bytes = &text.as_bytes()[at.saturating_sub(200)..text.len().min(at + 200)];
            String::from_utf8_lossy(bytes).into_owned()
        };
        panic!("{what}: differs at byte {at}:\n{}\n----\n{}", around(one), around(other));
    }
}

#[tokio::test]
async fn an_embedded_run_and_a_servers_give_the_same_bytes() {
    let tree = tempfile::tempdir().expect("a folder");
    example(tree.path());
    let flask = project("flask");
    let serve = Serve::start("").await;
    for (folder, arguments) in
        [(tree.path(), vec![]), (&flask, vec!["--exclude", "tests", "--exclude", "docs"])]
    {
        let embedded = result(folder, &arguments).await;
        assert!(embedded.len() > 1000, "{embedded}");
        let url = serve.url();
        let by_server: Vec<&str> = arguments.iter().copied().chain(["--server", &url]).collect();
        assert_same(&embedded, &result(folder, &by_server).await, &format!("{}", folder.display()));
    }
}

#[tokio::test]
async fn neither_the_number_of_nodes_nor_a_failed_one_changes_the_result() {
    let tree = tempfile::tempdir().expect("a folder");
    example(tree.path());
    let four = Serve::start("").await;
    let usual = result(tree.path(), &["--server", &four.url()]).await;
    for node in ["backend-dev", "system-architect"] {
        let fault = HandleFaultRequest {
            node_id: node.into(),
            action: FaultAction::Fail.into(),
            ..Default::default()
        };
        four.coordinator().handle_fault(fault).await.expect("done");
        assert_same(&usual, &result(tree.path(), &["--server", &four.url()]).await, node);
    }
    // One node that can do everything.
    let all = [
        "tool_orchestration",
        "dependency_management",
        "adapter_pattern_implementation",
        "linter_output_normalization",
        "unified_violation_severity_mapping",
        "schema_validation",
        "cross_tool_correlation",
        "result_aggregation",
    ];
    let one = format!("[[nodes.specialists]]\nnode_id = \"alone\"\ncapabilities = {all:?}\n");
    let one = Serve::start(&one).await;
    assert_same(&usual, &result(tree.path(), &["--server", &one.url()]).await, "one node");
}
