//! Since when each attempt has not moved.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::process_table::{Process, descendants};
use crate::linters::process::Progress;
use crate::types::AttemptRef;

/// What an attempt leaves behind while it moves; it has moved if this is another than before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// CPU time of its linter's processes in clock ticks, those included that have ended and were waited for; of this
    /// process while no linter runs, since the node itself computes then.
    cpu_ticks: u64,
    /// Bytes that its linter printed.
    printed: u64,
    /// Its linter, so that going from one part of a stage to the next counts.
    shim: Option<u32>,
}

/// The trace of an attempt in a table of all processes.
pub(super) fn trace(progress: &Progress, table: &[Process]) -> Trace {
    let shim = progress.shim().filter(|pid| table.iter().any(|process| is(process, *pid)));
    let ticks = |processes: &mut dyn Iterator<Item = &Process>| {
        processes.fold(0_u64, |sum, process| sum.saturating_add(process.cpu_ticks))
    };
    let cpu_ticks = match shim.and_then(|pid| i32::try_from(pid).ok()) {
        // Without the shim itself: it looks after a linter that hangs, too.
        Some(pid) => ticks(&mut descendants(table, pid).iter()),
        None => ticks(&mut table.iter().filter(|process| is(process, std::process::id()))),
    };
    Trace { cpu_ticks, printed: progress.printed(), shim }
}

fn is(process: &Process, pid: u32) -> bool {
    u32::try_from(process.pid) == Ok(pid)
}

/// Compares the traces of successive looks.
#[derive(Debug, Default)]
pub(super) struct IdleClock {
    seen: BTreeMap<AttemptRef, (Trace, Instant)>,
}

impl IdleClock {
    /// How long each attempt has left the same trace; attempts that are not among them any more are forgotten.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        traces: Vec<(AttemptRef, Trace)>,
    ) -> Vec<(AttemptRef, Duration)> {
        let mut seen = BTreeMap::new();
        let mut idle = Vec::with_capacity(traces.len());
        for (attempt, trace) in traces {
            let since = match self.seen.get(&attempt) {
                Some((before, since)) if *before == trace => *since,
                _ => now,
            };
            idle.push((attempt.clone(), now.saturating_duration_since(since)));
            seen.insert(attempt, (trace, since));
        }
        self.seen = seen;
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::key;

    #[test]
    fn an_attempt_is_idle_since_its_trace_is_the_same() {
        let (mut clock, start) = (IdleClock::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (still, moved) = (Trace::default(), Trace { printed: 1, ..Trace::default() });
        let idle = |observed: Vec<(AttemptRef, Duration)>| -> Vec<u64> {
            observed.into_iter().map(|(_, idle)| idle.as_secs()).collect()
        };
        assert_eq!(idle(clock.observe(at(0), vec![(key(1), still), (key(2), still)])), [0, 0]);
        assert_eq!(idle(clock.observe(at(5), vec![(key(1), still), (key(2), moved)])), [5, 0]);
        assert_eq!(idle(clock.observe(at(9), vec![(key(1), still), (key(2), moved)])), [9, 4]);
        assert_eq!(idle(clock.observe(at(10), vec![(key(2), moved)])), [5]);
        assert_eq!(idle(clock.observe(at(11), vec![(key(1), still)])), [0], "another start of it");
    }

    #[test]
    fn without_a_linter_the_nodes_own_time_counts() {
        let process = |pid: u32, parent: i32, cpu_ticks| Process {
            pid: i32::try_from(pid).expect("a pid"),
            parent,
            cpu_ticks,
            resident_pages: 0,
            ..Process::default()
        };
        let own = process(std::process::id(), 1, 7);
        assert_eq!(trace(&Progress::default(), &[own]).cpu_ticks, 7);
    }
}
