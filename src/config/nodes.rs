//! The agent nodes and what the stages of a run need of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::mesh::{AT_LEAST_ONE, POSITIVE};
use super::section::{Rule, any, choice, section};
use super::service::{HASH, SecretHash};
use crate::types::{NodeId, NodeSpec, Stage};

choice! {
    /// Who starts the nodes.
    pub enum Launch {
        /// The coordinator does, on its own host.
        Local = "local",
        /// Somebody else does; the coordinator waits for them.
        External = "external",
    }
}

section! {
    /// A secret with which a node enrols.
    pub struct Secret {
        /// Names it in logs; required.
        name: String = String::new(), any("text");
        /// SHA-256 of the secret; required.
        sha256: SecretHash = SecretHash::default(), HASH;
    }
}

const CAPABILITIES: Rule<BTreeSet<String>> = any("a list of names");

section! {
    /// One node.
    pub struct Specialist {
        /// Its name; required, different for each.
        node_id: Option<NodeId> = None, any("a name of a-z, 0-9 and '-'");
        /// Its specialisation; if not set, its name.
        agent_type: Option<String> = None, any("text");
        /// What it is for.
        capabilities: BTreeSet<String> = BTreeSet::new(), CAPABILITIES;
        /// What it can also do when those made for it are busy or gone.
        fallback_capabilities: BTreeSet<String> = BTreeSet::new(), CAPABILITIES;
        /// The tools and topics it is made for; shown only.
        tools_focus: Vec<String> = Vec::new(), any("a list of words");
        /// Multiplies its suitability.
        priority_weight: f64 = 1.0, Rule {
            allowed: "a number above 0, at most 1",
            accepts: |weight| *weight > 0.0 && *weight <= 1.0,
        };
        /// Tasks it runs at a time.
        max_concurrent_tasks: u32 = 4, AT_LEAST_ONE;
    }
}

impl Specialist {
    fn default_one(node_id: &str, capabilities: [&str; 4], focus: &[&str], weight: f64, tasks: u32) -> Self {
        Self {
            node_id: NodeId::new(node_id).ok(),
            capabilities: capabilities.map(str::to_owned).into(),
            tools_focus: focus.iter().map(|word| (*word).to_owned()).collect(),
            priority_weight: weight,
            max_concurrent_tasks: tasks,
            ..Self::default()
        }
    }
}

section! {
    /// The agent nodes.
    pub struct NodeSettings {
        /// Who starts the nodes.
        launch: Launch = Launch::Local, any("local or external");
        /// The secrets with which nodes enrol that the coordinator did not start itself.
        secrets: Vec<Secret> = Vec::new(), any("a list of tables {name, sha256}");
        /// The nodes. By default the four specialists system-architect, backend-dev, api-docs and
        /// integration-specialist, each of which can fall back to the work of the others.
        specialists: Vec<Specialist> = default_specialists(), Rule {
            allowed: "a list of tables, at least one",
            accepts: |all: &Vec<Specialist>| !all.is_empty(),
        };
        /// Starts of a FAILED node's process within `nodes.restart_window`; then it stays FAILED until somebody recovers
        /// it. 0 starts none.
        restart_budget: u32 = 5, any("a whole number");
        /// Seconds over which the starts of a node's process are counted. A node that was ACTIVE for a minute starts
        /// anew.
        restart_window: Duration = Duration::from_secs(600), POSITIVE;
        /// Seconds of the longest pause before a start: the first comes at once, then after 1, 2, 4 seconds and so on.
        restart_backoff_max: Duration = Duration::from_secs(60), POSITIVE;
        /// Seconds that one start may take, from the order to the node's joining.
        restart_timeout: Duration = Duration::from_secs(60), POSITIVE;
        /// The command that starts a node again which the coordinator did not start itself: a program and its arguments,
        /// run without a shell. In each, `{node_id}`, `{endpoint}` (where its peers reached it, empty if it never
        /// joined) and `{cause}` (why it is FAILED) are replaced. Exit status 0 means that the node will join. With no
        /// command, such a node is started again by hand.
        restart_command: Vec<String> = Vec::new(), any("a list of words, the program first");
        /// Seconds that a drained node gets to finish what it runs, and a node process after SIGTERM; the rest is given
        /// to others.
        drain_timeout: Duration = Duration::from_secs(30), any("seconds");
        /// Seconds for which the nodes that `lintmesh serve` started outlive it when it is killed or fails: they go on with
        /// what they run, and the coordinator that is started next adopts them. 0 ends them with it.
        orphan_grace: Duration = Duration::from_secs(60), any("seconds");
    }
}

impl NodeSettings {
    /// The nodes as the mesh declares them.
    pub fn specs(&self) -> Vec<NodeSpec> {
        let spec = |node: &Specialist| {
            let node_id = node.node_id.clone()?;
            Some(NodeSpec {
                agent_type: node.agent_type.clone().unwrap_or_else(|| node_id.as_str().to_owned()),
                node_id,
                capabilities: node.capabilities.clone(),
                fallback_capabilities: node.fallback_capabilities.clone(),
                tools_focus: node.tools_focus.clone(),
                priority_weight: node.priority_weight,
                max_concurrent_tasks: node.max_concurrent_tasks,
            })
        };
        self.specialists.iter().filter_map(spec).collect()
    }
}

fn default_specialists() -> Vec<Specialist> {
    let mut nodes = vec![
        Specialist::default_one(
            "system-architect",
            [
                "external_tool_pipeline_design",
                "integration_architecture",
                "tool_orchestration",
                "dependency_management",
            ],
            &["pipeline", "orchestration"],
            0.9,
            5,
        ),
        Specialist::default_one(
            "backend-dev",
            [
                "adapter_pattern_implementation",
                "linter_output_normalization",
                "error_handling",
                "performance_optimization",
            ],
            &["flake8", "pylint", "ruff", "mypy", "bandit"],
            0.8,
            3,
        ),
        Specialist::default_one(
            "api-docs",
            [
                "unified_violation_severity_mapping",
                "documentation_generation",
                "api_specification",
                "schema_validation",
            ],
            &["severity_mapping", "documentation"],
            0.7,
            4,
        ),
        Specialist::default_one(
            "integration-specialist",
            ["real_time_result_ingestion", "cross_tool_correlation", "data_streaming", "result_aggregation"],
            &["ingestion", "correlation", "streaming"],
            1.0,
            6,
        ),
    ];
    // Nothing may depend on one node: each can do what the others are for.
    let all: BTreeSet<_> = nodes.iter().flat_map(|node| node.capabilities.clone()).collect();
    for node in &mut nodes {
        node.fallback_capabilities = all.difference(&node.capabilities).cloned().collect();
    }
    nodes
}

fn required(capabilities: [&str; 2]) -> BTreeSet<String> {
    capabilities.map(str::to_owned).into()
}

section! {
    /// The capabilities that each stage of a run requires of the node that gets its tasks.
    pub struct StageSettings {
        /// For PLAN.
        plan: BTreeSet<String> = required(["tool_orchestration", "dependency_management"]), CAPABILITIES;
        /// For LINT.
        lint: BTreeSet<String> = required(["adapter_pattern_implementation", "linter_output_normalization"]),
            CAPABILITIES;
        /// For CLASSIFY.
        classify: BTreeSet<String> = required(["unified_violation_severity_mapping", "schema_validation"]),
            CAPABILITIES;
        /// For AGGREGATE.
        aggregate: BTreeSet<String> = required(["cross_tool_correlation", "result_aggregation"]), CAPABILITIES;
    }
}

impl StageSettings {
    /// What a stage requires.
    pub fn required(&self, stage: Stage) -> &BTreeSet<String> {
        match stage {
            Stage::Plan => &self.plan,
            Stage::Lint => &self.lint,
            Stage::Classify => &self.classify,
            Stage::Aggregate => &self.aggregate,
        }
    }
}
