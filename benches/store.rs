//! How fast the embedded store is: `cargo bench --bench store -- [FOLDER]`, on the disk of that folder, or of the one for
//! temporary files.
//!
//! It prints how long an append of 1, 16 and 256 records takes, how long a snapshot of many takes, and how long it takes
//! to open and read them, as a coordinator left them that was stopped and as one that was killed.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program for measuring; it may panic"
)]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lintmesh::store::{EmbeddedOptions, EmbeddedStore, Record, Store};

/// Bytes of a record: about what an encoded event of a task has.
const RECORD_BYTES: usize = 250;
/// How long each size of batch is tried.
const PATIENCE: Duration = Duration::from_secs(5);
/// What 100,000 finished tasks leave in a snapshot: a record for each of their 1,000 runs, and the 50,000 events that are
/// kept of all runs that have ended.
const KEPT: usize = 51_000;
/// Appended since the snapshot: as many as the engine lets there be before the next while runs are open, twice what the
/// snapshot holds.
const LOOSE: usize = 2 * KEPT;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = match std::env::args().skip(1).find(|argument| argument != "--bench") {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    println!("machine: {}; folder: {}", machine(), folder.path().display());
    appends(&folder.path().join("appends.redb"))?;
    starts(folder.path())
}

fn appends(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut store = EmbeddedStore::open(path, EmbeddedOptions::default())?;
    let epoch = store.open_epoch()?;
    let mut position = 0;
    for size in [1, 16, 256] {
        let batch = records(size);
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < PATIENCE {
            let append = Instant::now();
            store.append(epoch, position, &batch)?;
            times.push(append.elapsed());
            position += size as u64;
        }
        let rate = (times.len() * size) as f64 / began.elapsed().as_secs_f64();
        times.sort_unstable();
        println!(
            "append of {size:>3} records of {RECORD_BYTES} bytes: {:>6} appends, p50 {:>7.3} ms, p99 {:>7.3} ms, {rate:>8.0} records/s",
            times.len(),
            milliseconds(percentile(&times, 50)),
            milliseconds(percentile(&times, 99)),
        );
    }
    Ok(())
}

fn starts(folder: &Path) -> Result<(), Box<dyn Error>> {
    let (stopped, killed) = (folder.join("stopped.redb"), folder.join("killed.redb"));
    let mut store = EmbeddedStore::open(&stopped, EmbeddedOptions::default())?;
    let epoch = store.open_epoch()?;
    let kept = records(KEPT);
    let began = Instant::now();
    store.snapshot(epoch, 0, &kept)?;
    println!("snapshot of {KEPT} records: {:.3} s", began.elapsed().as_secs_f64());
    let loose = records(256);
    let mut position = 0;
    while position < LOOSE as u64 {
        store.append(epoch, position, &loose)?;
        position += loose.len() as u64;
    }
    fs::copy(&stopped, &killed)?;
    drop(store);
    println!("file: {:.1} MB", fs::metadata(&stopped)?.len() as f64 / 1e6);
    for (how, path) in [("stopped", stopped), ("killed", killed)] {
        let began = Instant::now();
        let mut store = EmbeddedStore::open(&path, EmbeddedOptions::default())?;
        let opened = began.elapsed();
        store.open_epoch()?;
        let loaded = store.load()?;
        assert_eq!((loaded.snapshot.len(), loaded.log.len() as u64), (KEPT, position));
        println!(
            "start after the last one was {how}: open {:.3} s, with epoch and {} records {:.3} s",
            opened.as_secs_f64(),
            loaded.snapshot.len() + loaded.log.len(),
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn records(count: usize) -> Vec<Record> {
    let record = |number: usize| Record {
        version: 1,
        bytes: format!("{number:0>width$}", width = RECORD_BYTES).into_bytes(),
    };
    (0..count).map(record).collect()
}

/// Of sorted times, the one that so many of a hundred do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", model.unwrap_or("unknown"))
}
