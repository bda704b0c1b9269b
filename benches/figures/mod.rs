//! What the benchmarks print alike: the machine, and percentiles.

#![allow(dead_code, reason = "not every benchmark needs all of it")]

use std::time::Duration;

/// Cores, their model, memory and the system: without them no figure means anything.
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory, system) =
        (read("/proc/cpuinfo"), read("/proc/meminfo"), read("/proc/sys/kernel/osrelease"));
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores, {}, {} MiB, Linux {}, load before {}",
        model.map_or("unknown", |(_, model)| model),
        kib.unwrap_or(0) / 1024,
        system.trim(),
        load.split_whitespace().next().unwrap_or("?"),
    )
}

/// The value that so many do not exceed (nearest rank).
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Count, percentiles and the greatest, in one line.
pub fn percentiles(mut values: Vec<Duration>) -> String {
    values.sort_unstable();
    let [p50, p90, p99, most] =
        [0.5, 0.9, 0.99, 1.0].map(|share| format!("{:.2?}", percentile(&values, share)));
    format!("{} measured, p50 {p50}, p90 {p90}, p99 {p99}, most {most}", values.len())
}

/// A figure beside its promise; answers whether it holds.
pub fn verdict(what: &str, holds: bool, measured: &str, promised: &str) -> bool {
    println!("{what}: {measured}, promised {promised}: {}", if holds { "holds" } else { "BROKEN" });
    holds
}

/// CPU time, user and system, that a process has used so far.
pub fn cpu_time(process: u32) -> std::io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may have anything in it: fields 14 and 15 are hundredths of a second (USER_HZ).
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let hundredths: u64 =
        after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(hundredths * 10))
}
