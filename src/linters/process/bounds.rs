//! How long the end of a process may take, at each of those who wait for it.
//!
//! Whoever waits for another must wait longer, or it goes away before the other has killed what is its own:
//! the shim's own bound is for an end that it began itself (`END_DEADLINE` in `node::shim::supervise`); once it is told to
//! stop, the node waits for [`KILL_DEADLINE`] and then kills it; the executor (`KILL_BOUND` in `node::executor`) waits
//! longer than [`END_BOUND`]; and the node's process (`STOP_BOUND` in `node::agent`) longer than the executor.

use std::time::Duration;

/// How much later than the shim the node enforces the wall limit, should the shim not do it.
pub(super) const WALL_GRACE: Duration = Duration::from_secs(1);
/// How long the shim gets to end everything, once it is told to, before it is killed itself.
pub(super) const KILL_DEADLINE: Duration = Duration::from_millis(2500);
/// How long a killed shim may take to be gone; only one that hangs in the kernel takes longer.
pub(super) const REAP_DEADLINE: Duration = Duration::from_millis(500);
/// How long the search for what a killed shim left is waited for.
pub(super) const SEARCH_DEADLINE: Duration = Duration::from_secs(1);
/// How long the pipes may stay open once every process that is known is gone, if somebody wants what is in them.
pub(super) const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// The longest that [`run`](super::run) takes to return once it is cancelled.
pub const END_BOUND: Duration = KILL_DEADLINE.saturating_add(REAP_DEADLINE).saturating_add(SEARCH_DEADLINE);

/// By how much the wall limit must come before any later end of the caller's own: the node has ended by then even what
/// its shim did not.
pub const WALL_MARGIN: Duration = WALL_GRACE.saturating_add(END_BOUND);
