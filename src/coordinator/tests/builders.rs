//! The four specialists, their orders and their plans.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::coordinator::decision::{Refusal, Reply};
use crate::coordinator::event::RunOrder;
use crate::coordinator::input::{FaultAction, FaultRequest, FaultTarget, Hello, Input};
use crate::coordinator::run::{Task, TaskState};
use crate::coordinator::settings::Settings;
use crate::types::{
    Digest, Incarnation, NodeId, NodeSpec, Plan, Shard, Stage, TaskOutput, ToolError, ToolErrorKind,
    ToolName, ToolPlan, TreePath,
};

pub(super) const ARCHITECT: &str = "system-architect";
pub(super) const BACKEND: &str = "backend-dev";
pub(super) const DOCS: &str = "api-docs";
pub(super) const INTEGRATION: &str = "integration-specialist";
pub(super) const ALL: [&str; 4] = [ARCHITECT, BACKEND, DOCS, INTEGRATION];

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid node id")
}

pub(super) fn tool(name: &str) -> ToolName {
    ToolName::new(name).expect("a valid tool name")
}

/// The four specialists of the operations manual; each can fall back on what the others are for.
pub(super) fn specialist(name: &str) -> NodeSpec {
    let required = Settings::default().required;
    let (own, priority_weight, max_concurrent_tasks) = match name {
        ARCHITECT => (required.plan.clone(), 0.9, 5),
        BACKEND => (required.lint.clone(), 0.8, 3),
        DOCS => (required.classify.clone(), 0.7, 4),
        _ => (required.aggregate.clone(), 1.0, 6),
    };
    let all: BTreeSet<String> =
        Stage::ALL.into_iter().flat_map(|stage| required.of(stage).iter().cloned()).collect();
    NodeSpec {
        node_id: node(name),
        agent_type: name.to_owned(),
        fallback_capabilities: all.difference(&own).cloned().collect(),
        capabilities: own,
        tools_focus: Vec::new(),
        priority_weight,
        max_concurrent_tasks,
    }
}

/// A node's Hello: one machine of two cores, the tools at version 1.
pub(super) fn hello(name: &str, incarnation: u64) -> Hello {
    Hello {
        spec: specialist(name),
        incarnation: Incarnation(incarnation),
        host_id: "host".into(),
        cpu_slots: 2,
        toolchain_id: "toolchain".into(),
        tools: ["bandit", "flake8", "mypy", "pylint", "ruff"].map(|name| (tool(name), "1".into())).into(),
        environment_class: "cpython-3.11".into(),
        failure_domain: "host".into(),
        peer_endpoint: Some(format!("{name}:9")),
        draining: false,
        sandbox: "none".into(),
        process_id: u32::try_from(incarnation).unwrap_or(1),
        running: Vec::new(),
        unacknowledged: Vec::new(),
    }
}

/// An order of some tools at version 1.
pub(super) fn order(tools: &[&str]) -> RunOrder {
    RunOrder {
        caller: "tester".into(),
        request_id: String::new(),
        body: Digest::of(b"body"),
        project: "project".into(),
        priority: Default::default(),
        supersede_key: String::new(),
        manifest: Digest::of(b"manifest"),
        files: 10,
        spec: Digest::of(b"spec"),
        tree_root: None,
        tools: tools.iter().map(|name| (tool(name), Some("1".to_owned()))).collect(),
        timeout: seconds(3600),
        source: crate::types::RequestKind::InPlace,
    }
}

/// A plan with so many shards for each tool; the first is the longest.
pub(super) fn plan<'a>(tools: impl IntoIterator<Item = &'a ToolName>, shards: u64) -> Plan {
    let shard = |number: u64| Shard {
        files: vec![TreePath::new(&format!("f{number}.py")).expect("a valid path")],
        cost: 100 + shards - number,
    };
    let tools = tools
        .into_iter()
        .map(|tool| ToolPlan {
            tool: tool.clone(),
            version: "1".into(),
            arguments: Vec::new(),
            refused: None,
            shards: (0..shards).map(shard).collect(),
        })
        .collect();
    Plan { tools, files: 10 }
}

/// A blob that nobody reads here.
pub(super) fn blob(text: &str) -> TaskOutput {
    TaskOutput { digest: Digest::of(text.as_bytes()), size: 1 }
}

pub(super) fn fault(id: &str, action: FaultAction, name: &str) -> FaultRequest {
    let target = FaultTarget::Node(NodeId::new(name).expect("a valid node id"));
    FaultRequest { fault_id: id.into(), body: Digest::of(name.as_bytes()), action, target }
}

pub(super) fn failing(id: &str, name: &str) -> Input {
    Input::HandleFault(fault(id, FaultAction::Fail, name))
}

pub(super) fn recovering(id: &str, name: &str) -> Input {
    Input::HandleFault(fault(id, FaultAction::Recover, name))
}

/// A drain that gives what runs so many seconds.
pub(super) fn draining(id: &str, name: &str, bound: u64) -> Input {
    Input::HandleFault(fault(id, FaultAction::Drain { bound: Some(seconds(bound)) }, name))
}

pub(super) fn refusal(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

pub(super) fn is_queued(task: &Task) -> bool {
    task.state == TaskState::Queued
}

pub(super) fn tool_error() -> ToolError {
    ToolError { kind: ToolErrorKind::Crashed, message: "ended by signal 9".into() }
}
