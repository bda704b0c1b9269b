//! What the server counts beside the core: what it refused, and what passes between it and the nodes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::told_by_nodes::ToldByNodes;
use crate::coordinator::metrics::Traffic;
use crate::middleware::refusals::Reasons;

/// Counts since the server's start; they only grow.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that were closed before their first request, on all listeners, by reason.
    pub refused_connections: Reasons,
    /// Nodes that were not let in, by reason.
    pub refused_nodes: Reasons,
    /// Messages of nodes that were dropped, by reason.
    pub refused_messages: Reasons,
    /// What nodes count of each other.
    pub told_by_nodes: ToldByNodes,
    /// Posts to Alertmanagers, by outcome.
    pub alert_posts: Reasons,
    /// What passes over the sessions of nodes.
    pub traffic: SessionTraffic,
}

/// Messages over the sessions of nodes, in both directions. A few additions for each message.
#[derive(Debug, Default)]
pub struct SessionTraffic {
    messages: AtomicU64,
    bytes: AtomicU64,
    latency_micros: AtomicU64,
    latency_samples: AtomicU64,
}

impl SessionTraffic {
    /// Counts messages that were sent or received together, and their bytes.
    pub fn passed(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Samples how long a message of a node took until it was decided on.
    pub fn took(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_micros.fetch_add(micros, Ordering::Relaxed);
        self.latency_samples.fetch_add(1, Ordering::Relaxed);
    }

    /// The sums so far.
    pub fn total(&self) -> Traffic {
        Traffic {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            latency: Duration::from_micros(self.latency_micros.load(Ordering::Relaxed)),
            latency_samples: self.latency_samples.load(Ordering::Relaxed),
        }
    }
}
