//! A directed link between two nodes, as its observer sees it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LinkState {
    /// Not established yet.
    Connecting,
    /// The peer answers probes.
    Up,
    /// The connection was refused, or ended from the other side.
    Reset,
    /// The connection stands, but probes go unanswered.
    Silent,
}

impl LinkState {
    /// The name as it is written everywhere: `CONNECTING`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            LinkState::Connecting => "CONNECTING",
            LinkState::Up => "UP",
            LinkState::Reset => "RESET",
            LinkState::Silent => "SILENT",
        }
    }
}

/// What a node measured of its link to a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkReport {
    /// The peer.
    pub peer: NodeId,
    /// The link's state.
    pub state: LinkState,
    /// Since the last answered probe; none if none was answered.
    pub last_seen_age: Option<Duration>,
    /// Of the last answered probe.
    pub round_trip: Option<Duration>,
    /// The peer's clock less the observer's own, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// Payload bytes sent on the link since it was planned.
    pub sent_bytes: u64,
    /// Payload bytes received on it.
    pub received_bytes: u64,
}

impl LinkReport {
    /// Of a link of which nothing but its state is known.
    pub const fn new(peer: NodeId, state: LinkState) -> Self {
        Self {
            peer,
            state,
            last_seen_age: None,
            round_trip: None,
            clock_offset_ms: None,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }
}
