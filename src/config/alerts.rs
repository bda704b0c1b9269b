//! When alerts are raised, and who is told of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::mesh::POSITIVE;
use super::section::{Rule, any, section};

/// A share of a whole; 0 is one that is never reached.
const RATIO: Rule<f64> =
    Rule { allowed: "a number from 0 to 1", accepts: |share| (0.0..=1.0).contains(share) };

section! {
    /// When alerts are raised, and who is told of them.
    pub struct AlertSettings {
        /// Raised when less than this share of the links that all nodes would have lives.
        low_connectivity: f64 = 0.7, RATIO;
        /// Raised when more than this share of the nodes was FAILED in the last 300 seconds.
        high_node_failure_rate: f64 = 0.2, RATIO;
        /// Raised when messages take longer than these seconds in the mean.
        high_message_latency: Duration = Duration::from_secs(5), POSITIVE;
        /// Raised when less than this share of the decisions is agreed.
        low_consensus_rate: f64 = 0.8, RATIO;
        /// Raised, critical, when less than this share of the nodes is ACTIVE.
        degraded_health: f64 = 0.6, RATIO;
        /// Seconds that a value must be beyond its threshold before the alert is raised.
        raise_after: Duration = Duration::from_secs(10), any("seconds");
        /// Seconds that it must be better by the margin before the alert ends.
        clear_after: Duration = Duration::from_secs(30), any("seconds");
        /// How much better than the threshold, as a share of it.
        margin: f64 = 0.05, RATIO;
        /// Alertmanagers to which alerts are posted (v2 API).
        alertmanager_url: Vec<String> = Vec::new(), any("a list of http(s)://HOST:PORT, with a path or without");
        /// Authorities, PEM, of those that are https.
        alertmanager_ca: Option<PathBuf> = None, any("path of a readable PEM file");
        /// Seconds between two posts of an alert that goes on. An Alertmanager that hears nothing for four times as
        /// long takes it for ended.
        resend_interval: Duration = Duration::from_secs(60), POSITIVE;
        /// Labels that each posted alert has, to tell this mesh from others.
        labels: BTreeMap<String, String> = BTreeMap::new(), any("a table of texts");
    }
}
