//! The numbers the core decides by.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alert::AlertSettings;
use super::recovery::RestartPolicy;
use crate::types::Stage;

/// How the scheduler chooses among the nodes that may take a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The most suitable node: `capability_match * priority_weight / (1 + load)`.
    CapabilityBased,
    /// The node with the lowest load.
    LeastLoaded,
    /// Each in turn.
    RoundRobin,
}

impl Strategy {
    /// The name used in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Strategy::CapabilityBased => "capability_based",
            Strategy::LeastLoaded => "least_loaded",
            Strategy::RoundRobin => "round_robin",
        }
    }
}

/// Settings of the mesh, by the names of the operations manual.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Between a node's heartbeats.
    pub heartbeat_interval: Duration,
    /// Between the probes of a link, and of a session that is silent.
    pub probe_interval: Duration,
    /// How long an attempt may stand still before it is taken back.
    pub progress_timeout: Duration,
    /// Silence after which a node is FAILED.
    pub message_timeout: Duration,
    /// How long a node whose session was reset may take to come back before it is FAILED.
    pub reconnect_grace: Duration,
    /// Share of the votes a decision needs.
    pub consensus_threshold: f64,
    /// Share of the nodes that may fail. If more fall silent at once, the coordinator suspects itself first.
    pub fault_tolerance_level: f64,
    /// How nodes are chosen.
    pub load_balancing_strategy: Strategy,
    /// Attempts of a task after the first that crashed.
    pub max_retry_attempts: u32,
    /// Failures in a row that open a node's breaker.
    pub circuit_breaker_threshold: u32,
    /// How long a breaker stays open before a probe.
    pub recovery_timeout: Duration,
    /// Time a task may take.
    pub task_timeout: Duration,
    /// Messages in a batch, at most.
    pub batch_size: u32,
    /// How long telemetry may wait for a batch.
    pub flush_interval: Duration,
    /// Between full health reports.
    pub health_check_interval: Duration,
    /// Nodes that may belong to the mesh.
    pub max_nodes: usize,
    /// Runs that may be open at a time.
    pub max_open_runs: usize,
    /// Tasks of one project that may run at a time; none: no limit.
    pub max_tasks_per_project: Option<usize>,
    /// Runs of one project that may be open at a time; none: no limit.
    pub max_runs_per_project: Option<usize>,
    /// Runs that are remembered after they ended.
    pub kept_runs: usize,
    /// How long they are.
    pub keep_runs_for: Duration,
    /// How long a drained node may take to finish what it runs, if its operator does not say.
    pub drain_timeout: Duration,
    /// How node processes are started again.
    pub restart: RestartPolicy,
    /// When alerts are raised and when they end.
    pub alerts: AlertSettings,
    /// Capabilities each stage needs.
    pub required: RequiredCapabilities,
}

/// The capabilities each stage needs; a table in configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredCapabilities {
    /// For PLAN.
    pub plan: BTreeSet<String>,
    /// For LINT.
    pub lint: BTreeSet<String>,
    /// For CLASSIFY.
    pub classify: BTreeSet<String>,
    /// For AGGREGATE.
    pub aggregate: BTreeSet<String>,
}

impl RequiredCapabilities {
    /// What a stage needs.
    pub fn of(&self, stage: Stage) -> &BTreeSet<String> {
        match stage {
            Stage::Plan => &self.plan,
            Stage::Lint => &self.lint,
            Stage::Classify => &self.classify,
            Stage::Aggregate => &self.aggregate,
        }
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(5),
            probe_interval: Duration::from_secs(1),
            progress_timeout: Duration::from_secs(120),
            message_timeout: Duration::from_secs(30),
            reconnect_grace: Duration::from_secs(1),
            consensus_threshold: 0.75,
            fault_tolerance_level: 0.33,
            load_balancing_strategy: Strategy::CapabilityBased,
            max_retry_attempts: 3,
            circuit_breaker_threshold: 5,
            recovery_timeout: Duration::from_secs(60),
            task_timeout: Duration::from_secs(600),
            batch_size: 10,
            flush_interval: Duration::from_secs(1),
            health_check_interval: Duration::from_secs(30),
            max_nodes: 1024,
            max_open_runs: 64,
            max_tasks_per_project: None,
            max_runs_per_project: None,
            kept_runs: 1000,
            keep_runs_for: Duration::from_secs(30 * 24 * 3600),
            drain_timeout: Duration::from_secs(30),
            restart: RestartPolicy::default(),
            alerts: AlertSettings::default(),
            required: RequiredCapabilities {
                plan: set(&["tool_orchestration", "dependency_management"]),
                lint: set(&["adapter_pattern_implementation", "linter_output_normalization"]),
                classify: set(&["unified_violation_severity_mapping", "schema_validation"]),
                aggregate: set(&["cross_tool_correlation", "result_aggregation"]),
            },
        }
    }
}
