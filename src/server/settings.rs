//! From the settings people write to those the parts take.

use crate::config::{Launch, LoadBalancing, NodeSettings, Role as ConfiguredRole, Settings};
use crate::coordinator::alert::AlertSettings;
use crate::coordinator::recovery::RestartPolicy;
use crate::coordinator::settings::{RequiredCapabilities, Settings as CoreSettings, Strategy};
use crate::middleware::auth::{Role, Token};
use crate::middleware::deadline::DeadlineSettings;
use crate::types::Stage;

use super::stack::InboundLimits;

/// What the core decides by.
pub fn core(settings: &Settings) -> CoreSettings {
    let (mesh, alerts) = (&settings.mesh, &settings.alerts);
    let required = |stage| settings.stages.required(stage).clone();
    CoreSettings {
        heartbeat_interval: mesh.heartbeat_interval,
        probe_interval: mesh.probe_interval,
        progress_timeout: mesh.progress_timeout,
        message_timeout: mesh.message_timeout,
        consensus_threshold: mesh.consensus_threshold,
        fault_tolerance_level: mesh.fault_tolerance_level,
        load_balancing_strategy: match mesh.load_balancing_strategy {
            LoadBalancing::CapabilityBased => Strategy::CapabilityBased,
            LoadBalancing::LeastLoaded => Strategy::LeastLoaded,
            LoadBalancing::RoundRobin => Strategy::RoundRobin,
        },
        max_retry_attempts: mesh.max_retry_attempts,
        circuit_breaker_threshold: mesh.circuit_breaker_threshold,
        recovery_timeout: mesh.recovery_timeout,
        task_timeout: mesh.task_timeout,
        batch_size: mesh.batch_size,
        flush_interval: mesh.flush_interval,
        health_check_interval: mesh.health_check_interval,
        max_nodes: mesh.max_nodes as usize,
        alerts: AlertSettings {
            low_connectivity: alerts.low_connectivity,
            high_node_failure_rate: alerts.high_node_failure_rate,
            high_message_latency: alerts.high_message_latency,
            low_consensus_rate: alerts.low_consensus_rate,
            degraded_health: alerts.degraded_health,
            raise_after: alerts.raise_after,
            clear_after: alerts.clear_after,
            margin: alerts.margin,
        },
        max_open_runs: settings.runs.max_open as usize,
        max_tasks_per_project: settings.queue.max_tasks_per_project.map(|most| most as usize),
        max_runs_per_project: settings.queue.max_runs_per_project.map(|most| most as usize),
        kept_runs: settings.runs.keep as usize,
        keep_runs_for: settings.runs.keep_for,
        drain_timeout: settings.nodes.drain_timeout,
        restart: restart_policy(&settings.nodes),
        required: RequiredCapabilities {
            plan: required(Stage::Plan),
            lint: required(Stage::Lint),
            classify: required(Stage::Classify),
            aggregate: required(Stage::Aggregate),
        },
        ..CoreSettings::default()
    }
}

fn restart_policy(nodes: &NodeSettings) -> RestartPolicy {
    let specs = if nodes.launch == Launch::Local { nodes.specs() } else { Vec::new() };
    RestartPolicy {
        budget: nodes.restart_budget,
        window: nodes.restart_window,
        backoff_max: nodes.restart_backoff_max,
        start_timeout: nodes.restart_timeout,
        launched: specs.into_iter().map(|spec| spec.node_id).collect(),
        has_command: !nodes.restart_command.is_empty(),
    }
}

/// What the API listener allows.
pub fn inbound(settings: &Settings) -> InboundLimits {
    let server = &settings.server;
    InboundLimits {
        requests_in_flight: server.max_concurrent_requests as usize,
        streams_per_caller: server.max_streams_per_client as usize,
        deadlines: DeadlineSettings {
            unary_default: server.request_timeout,
            // What configuration gives to all, no limit of this program takes away.
            unary_max: DeadlineSettings::default().unary_max.max(server.request_timeout),
            ..DeadlineSettings::default()
        },
        max_message_bytes: server.max_message_bytes,
    }
}

/// Who may call.
pub fn tokens(settings: &Settings) -> Vec<Token> {
    let token = |token: &crate::config::Token| {
        Some(Token {
            name: token.name.as_str().into(),
            role: match token.role {
                ConfiguredRole::Reader => Role::Reader,
                ConfiguredRole::Submitter => Role::Submitter,
                ConfiguredRole::Operator => Role::Operator,
            },
            sha256: token.sha256.digest()?,
        })
    };
    settings.auth.tokens.iter().filter_map(token).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_timeout_is_never_cut_by_the_limit_on_what_clients_may_wish() {
        let mut settings = Settings::default();
        for (seconds, longest) in [(60, 600), (900, 900)] {
            settings.server.request_timeout = Duration::from_secs(seconds);
            let deadlines = inbound(&settings).deadlines;
            let given = (deadlines.unary_default.as_secs(), deadlines.unary_max.as_secs());
            assert_eq!(given, (seconds, longest));
        }
    }
}
