//! The one place that reads time for the coordinator.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::{Now, Tick, UnixMillis};

/// Tells the moment on both clocks.
pub trait Clock: Send + Sync + 'static {
    /// The moment.
    fn now(&self) -> Now;
}

/// The machine's clocks. The monotonic one is tokio's, so that tests can pause it.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// A clock whose first tick is now.
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Now {
            tick: Tick(0) + self.start.elapsed(),
            wall: UnixMillis(u64::try_from(wall).unwrap_or(u64::MAX)),
        }
    }
}
