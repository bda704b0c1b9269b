//! Reports to write.

use std::collections::BTreeMap;

use lintmesh::linters::aggregate::aggregate;
use lintmesh::linters::classify::classify;
use lintmesh::linters::report::{
    Execution, FaultRecord, Format, NodeExecution, Options, Report, TaskExecution, ToolExecution, from_root,
    write,
};
use lintmesh::linters::toolchain::ToolchainMode;
use lintmesh::types::{
    ClassifiedOutput, Digest, Epoch, FaultCause, LintOutput, NodeId, Plan, Position, RawDiagnostic,
    RequestKind, RunId, RunSpec, Shard, Span, Stage, ToolError, ToolErrorKind, ToolName, ToolPlan, TreePath,
};

pub(super) fn tool(name: &str) -> ToolName {
    ToolName::new(name).expect("a valid name")
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}

pub(super) fn spec() -> RunSpec {
    RunSpec {
        tools: Vec::new(),
        versions: BTreeMap::new(),
        allow_tree_code: false,
        python: None,
        severity_overrides: BTreeMap::new(),
        max_shards: 1,
        unreadable: Vec::new(),
    }
}

pub(super) fn plan(tools: &[&str]) -> Plan {
    let one = |name: &&str| ToolPlan {
        tool: tool(name),
        version: "1.2.3".into(),
        arguments: vec!["--output-format=json".into()],
        refused: None,
        shards: vec![Shard { files: vec![TreePath::new("pkg/a.py").expect("valid")], cost: 1 }],
    };
    Plan { tools: tools.iter().map(one).collect(), files: 1 }
}

pub(super) fn execution() -> Execution {
    let lint = |name: &str| TaskExecution { stage: Stage::Lint, tool: Some(tool(name)), shard: Some(1) };
    let whole = |stage| TaskExecution { stage, tool: None, shard: None };
    let node_part =
        |agent_type: &str, tasks: Vec<TaskExecution>| NodeExecution { agent_type: agent_type.into(), tasks };
    let ran = |seconds: f64| ToolExecution {
        executable: "/opt/tools/bin/x".into(),
        seconds,
        cpu_seconds: seconds,
        nodes: vec![node("backend-dev")],
    };
    Execution {
        run_id: RunId::new("run-1").expect("valid"),
        started_at: "2026-11-22T07:30:00Z".into(),
        ended_at: "2026-11-22T07:30:01.250Z".into(),
        seconds: 1.25,
        request: RequestKind::InPlace,
        coordinator_version: "0.1.0".into(),
        epoch: Epoch(3),
        tools: BTreeMap::from([(tool("pylint"), ran(0.75)), (tool("ruff"), ran(0.03))]),
        nodes: BTreeMap::from([
            (
                node("backend-dev"),
                node_part("backend-dev", vec![lint("ruff"), lint("pylint"), lint("pylint")]),
            ),
            (node("system-architect"), node_part("system-architect", vec![whole(Stage::Plan)])),
            (node("spare"), node_part("api-docs", vec![])),
        ]),
        retries: 1,
        faults: vec![FaultRecord {
            node_id: node("spare"),
            cause: FaultCause::ProcessExited,
            redistributed_tasks: 1,
        }],
        toolchain_id: Some(Digest::of(b"lock")),
        toolchain_mode: Some(ToolchainMode::Managed),
        environment_class: "cpython-3.11 linux x86_64".into(),
    }
}

pub(super) fn raw(
    path: &str,
    code: &str,
    (line, column): (u32, Option<u32>),
    end: Option<(u32, u32)>,
    message: &str,
) -> RawDiagnostic {
    RawDiagnostic {
        path: TreePath::new(path).expect("a valid path"),
        span: Span {
            start: Position { line, column },
            end: end.map(|(line, column)| Position { line, column: Some(column) }),
        },
        tool_line: line,
        tool_column: column,
        code: code.into(),
        name: None,
        message: message.into(),
        tool_severity: None,
        url: None,
        line_hash: "0123456789abcdef".into(),
    }
}

pub(super) fn classified(
    tool_name: &str,
    error: Option<ToolError>,
    diagnostics: Vec<RawDiagnostic>,
) -> ClassifiedOutput {
    classify(&LintOutput { tool: tool(tool_name), files: 1, error, diagnostics }, &spec())
}

/// A small run in which pylint failed half-way.
pub(super) fn example() -> Report {
    let error = ToolError {
        kind: ToolErrorKind::Crashed,
        message: "ended by signal 9\nlast words: \u{1b}[2J".into(),
    };
    let outputs = [
        classified(
            "ruff",
            None,
            vec![
                raw("pkg/a.py", "F401", (1, Some(8)), Some((1, 10)), "`os` imported but unused"),
                raw("pkg/a.py", "F821", (3, Some(12)), Some((3, 19)), "Undefined name `missing`"),
            ],
        ),
        classified(
            "pylint",
            Some(error),
            vec![
                raw("pkg/a.py", "C0114", (1, Some(1)), None, "Missing module docstring"),
                raw("pkg/a.py", "W0611", (1, Some(1)), None, "Unused import os"),
            ],
        ),
    ];
    Report { result: aggregate(&plan(&["pylint", "ruff"]), &spec(), &outputs, &[]), execution: execution() }
}

pub(super) fn source(path: &TreePath) -> Option<String> {
    (path.as_str() == "pkg/a.py").then(|| "import os\n\n\tx = '漢' + missing\n".to_owned())
}

pub(super) fn written(report: &Report, format: Format, color: bool) -> String {
    let options =
        Options { color, width: 80, statistics: true, quiet: false, source: &source, name: &from_root };
    let mut bytes = Vec::new();
    write(report, format, &options, &mut bytes).expect("memory takes all");
    String::from_utf8(bytes).expect("reports are UTF-8")
}
