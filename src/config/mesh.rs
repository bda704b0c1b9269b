//! How the mesh watches itself, and what its linters may use.

use std::time::Duration;

use super::section::{Rule, any, choice, section};

/// A time span that must not be zero.
pub(super) const POSITIVE: Rule<Duration> =
    Rule { allowed: "seconds, more than 0", accepts: |duration| !duration.is_zero() };
/// A share of a whole.
const SHARE: Rule<f64> =
    Rule { allowed: "a number above 0, at most 1", accepts: |share| *share > 0.0 && *share <= 1.0 };
/// A count.
pub(super) const AT_LEAST_ONE: Rule<u32> =
    Rule { allowed: "a whole number, at least 1", accepts: |count| *count >= 1 };
/// A size.
pub(super) const BYTES: Rule<u64> = Rule { allowed: "bytes, at least 1", accepts: |bytes| *bytes >= 1 };

choice! {
    /// How a task's node is chosen among the eligible ones.
    pub enum LoadBalancing {
        /// By suitability: how well its capabilities match, its weight and its load.
        CapabilityBased = "capability_based",
        /// The one with the least load.
        LeastLoaded = "least_loaded",
        /// In turn.
        RoundRobin = "round_robin",
    }
}

section! {
    /// How the mesh watches itself, places work and retries.
    pub struct MeshSettings {
        /// Seconds between two heartbeats of a node.
        heartbeat_interval: Duration = Duration::from_secs(5), POSITIVE;
        /// Seconds between two probes of a link between nodes, and of a node that is silent.
        probe_interval: Duration = Duration::from_secs(1), POSITIVE;
        /// Seconds that an attempt may use no CPU time and write nothing before it is taken back.
        progress_timeout: Duration = Duration::from_secs(120), POSITIVE;
        /// Seconds of silence after which a node is FAILED.
        message_timeout: Duration = Duration::from_secs(30), POSITIVE;
        /// Share of the roster that must agree to a decision.
        consensus_threshold: f64 = 0.75, SHARE;
        /// Share of the nodes that may fall silent at once before the coordinator suspects itself.
        fault_tolerance_level: f64 = 0.33, SHARE;
        /// How a task's node is chosen.
        load_balancing_strategy: LoadBalancing = LoadBalancing::CapabilityBased,
            any("capability_based, least_loaded or round_robin");
        /// Attempts of a task after its first one was lost to a crash.
        max_retry_attempts: u32 = 3, any("a whole number");
        /// Failures in a row that open a node's circuit breaker.
        circuit_breaker_threshold: u32 = 5, AT_LEAST_ONE;
        /// Seconds that an open circuit breaker waits before it lets one attempt through.
        recovery_timeout: Duration = Duration::from_secs(60), POSITIVE;
        /// Seconds that one task may run; its linter is ended then.
        task_timeout: Duration = Duration::from_secs(600), POSITIVE;
        /// Messages sent in one batch at most.
        batch_size: u32 = 10, AT_LEAST_ONE;
        /// Seconds that telemetry may wait for a batch to fill.
        flush_interval: Duration = Duration::from_secs(1), POSITIVE;
        /// Nodes that may belong to the mesh.
        max_nodes: u32 = 1024, AT_LEAST_ONE;
        /// Seconds between two messages of `StreamHealth` without a change, for clients that do not say.
        health_check_interval: Duration = Duration::from_secs(30), POSITIVE;
    }
}

section! {
    /// What one linter process may use, everything it starts included. Its elapsed time is `mesh.task_timeout`.
    pub struct LimitSettings {
        /// Seconds of CPU time.
        cpu: Duration = Duration::from_secs(600), POSITIVE;
        /// Bytes of memory.
        memory_bytes: u64 = 2 << 30, BYTES;
        /// Bytes of the largest file it may write.
        file_bytes: u64 = 256 << 20, BYTES;
        /// Bytes it may print.
        output_bytes: u64 = 256 << 20, BYTES;
        /// Processes at a time.
        processes: u32 = 64, AT_LEAST_ONE;
    }
}
