//! Measures which share of its host a node and everything it started use.

use std::fs;
use std::num::NonZeroUsize;

use nix::unistd::{SysconfVar, sysconf};
use tokio::time::Instant;

use super::process_table::{self, Process};

/// What the node and its descendants use, as shares of the host from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time used since the sample before, of all the cores' time; 0 for the first sample.
    pub cpu: f64,
    /// Resident memory, of the host's memory. Pages shared by several processes count for each.
    pub memory: f64,
}

/// Compares successive samples of `/proc`.
#[derive(Debug)]
pub struct Meter {
    root: i32,
    host: Host,
    last: Option<(Instant, u64)>,
}

/// The constants of a host; a value that the system does not tell is 0.
#[derive(Debug, Clone, Copy)]
struct Host {
    cores: usize,
    ticks_per_second: u64,
    page_bytes: u64,
    memory_bytes: u64,
}

impl Meter {
    /// A meter for this process and its descendants.
    pub fn new() -> Self {
        let system = |name| sysconf(name).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let host = Host {
            cores: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            ticks_per_second: system(SysconfVar::CLK_TCK),
            page_bytes: system(SysconfVar::PAGE_SIZE),
            memory_bytes: fs::read_to_string("/proc/meminfo").map_or(0, |text| total_memory(&text)),
        };
        Self { root: nix::unistd::getpid().as_raw(), host, last: None }
    }

    /// Compares a table of all processes with the one before.
    pub(super) fn observe(&mut self, now: Instant, table: &[Process]) -> Usage {
        let own = table.iter().filter(|process| process.pid == self.root).copied();
        let tree = process_table::descendants(table, self.root).into_iter().chain(own);
        let (ticks, pages) = tree.fold((0_u64, 0_u64), |(ticks, pages), process| {
            (ticks.saturating_add(process.cpu_ticks), pages.saturating_add(process.resident_pages))
        });
        let cpu = self.last.map_or(0.0, |(before, ticks_before)| {
            let elapsed = now.saturating_duration_since(before).as_secs_f64();
            // A killed child's time is lost to its parent if nobody waits for it, so the sum may shrink.
            let used = ticks.saturating_sub(ticks_before) as f64;
            share(used, elapsed * self.host.ticks_per_second as f64 * self.host.cores as f64)
        });
        self.last = Some((now, ticks));
        let memory = share(pages.saturating_mul(self.host.page_bytes) as f64, self.host.memory_bytes as f64);
        Usage { cpu, memory }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}

/// `MemTotal` of `/proc/meminfo` in bytes; 0 if it is not there.
fn total_memory(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOST: Host = Host { cores: 2, ticks_per_second: 100, page_bytes: 4096, memory_bytes: 4_096_000 };

    fn meter() -> Meter {
        Meter { root: 10, host: HOST, last: None }
    }

    fn process(pid: i32, parent: i32, cpu_ticks: u64, resident_pages: u64) -> Process {
        Process { pid, parent, cpu_ticks, resident_pages, ..Process::default() }
    }

    #[test]
    fn shares_count_the_whole_tree_and_nothing_else() {
        let (mut meter, start) = (meter(), Instant::now());
        let first = [process(10, 1, 50, 100), process(11, 10, 0, 50), process(99, 1, 7777, 900)];
        assert_eq!(meter.observe(start, &first), Usage { cpu: 0.0, memory: 0.15 });
        // 100 ticks more in 2 seconds on 2 cores of 100 ticks each: a quarter.
        let later = [process(10, 1, 70, 100), process(11, 10, 30, 50), process(12, 11, 50, 100)];
        assert_eq!(meter.observe(start + Duration::from_secs(2), &later), Usage { cpu: 0.25, memory: 0.25 });
    }

    #[test]
    fn shares_stay_between_0_and_1() {
        let (mut meter, start) = (meter(), Instant::now());
        let busy = |ticks| [process(10, 1, ticks, 1_000_000)];
        assert_eq!(meter.observe(start, &busy(500)).memory, 1.0);
        assert_eq!(meter.observe(start + Duration::from_millis(1), &busy(900)).cpu, 1.0);
        assert_eq!(meter.observe(start + Duration::from_secs(1), &busy(10)).cpu, 0.0, "time went missing");
        assert_eq!(meter.observe(start + Duration::from_secs(1), &busy(90)).cpu, 0.0, "no time passed");
        assert_eq!(meter.observe(start + Duration::from_secs(2), &[]), Usage::default(), "all vanished");
    }

    #[test]
    fn total_memory_is_read_or_zero() {
        assert_eq!(total_memory("MemFree: 5 kB\nMemTotal:       24576 kB\n"), 24576 * 1024);
        assert_eq!(total_memory("MemTotal: many kB\n"), 0);
        assert_eq!(total_memory(""), 0);
    }

    #[test]
    fn this_process_is_measured() {
        let usage = Meter::new().observe(Instant::now(), &process_table::read());
        assert!(usage.memory > 0.0 && usage.memory < 1.0, "{usage:?}");
    }
}
