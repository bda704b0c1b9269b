//! Measures what it costs that nothing is lost: the engine over the embedded store, with nodes played in this process.
//!
//! `cargo bench --bench durability`, or with `-- SECONDS` (for each of the first two figures). The state is kept in a new
//! folder of `target`, so that it is on a real disk; `LINTMESH_BENCH_DIR` names another. Exits with 1 if a
//! figure that is promised is missed.
//!
//! * Assignment: results arrive at an even pace, 1,000 a second; runs are started as the work runs out. Each task of any
//!   stage is measured, from the call by which the engine is told of what makes it assignable (the run's start; the
//!   result of PLAN; of LINT; the last one of CLASSIFY) to the moment at which its node holds the assignment, which is
//!   sent when the facts behind it are synced to the disk. The nodes have room for every task.
//! * State changes: the same with nodes that answer at once. Counted are the facts that the store has synced.
//! * Start: opening, loading and restoring a store of 1,000 finished runs of 100 tasks each, as a log without a snapshot
//!   and as a snapshot. Each time from a file that was closed, which the page cache holds.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program for measuring; it may panic"
)]

mod figures;
mod played;

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lintmesh::coordinator::settings::Settings;
use lintmesh::engine::{COMMIT_BUCKETS, StoreFigures, compaction};
use lintmesh::store::{EmbeddedOptions, EmbeddedStore, Loaded, Record, Store, StoreError};
use lintmesh::types::{Epoch, RunId, Stage};
use played::{TOOLS, World, open};

/// What is promised.
const MOST_ASSIGNMENT: Duration = Duration::from_millis(5);
const LEAST_CHANGES: f64 = 10_000.0;
const MOST_START: Duration = Duration::from_secs(1);

/// Results a second while assignments are measured.
const PACE: u64 = 1_000;
/// Shards of each tool while assignments are measured, the most that the service makes: 42 tasks a run.
const SHARDS: usize = 4;
/// The same while changes are measured: 202 tasks a run.
const MANY_SHARDS: usize = 20;
/// Runs that are open at a time, at least.
const OPEN: usize = 16;

fn embedded(dir: &Path) -> anyhow::Result<EmbeddedStore> {
    Ok(EmbeddedStore::open(&dir.join("state.redb"), EmbeddedOptions::default())?)
}

async fn assignment(dir: &Path, seconds: u64) -> anyhow::Result<bool> {
    let mut world = World::open(embedded(dir)?, vec![SHARDS; TOOLS.len()]).await?;
    let (mut waiting, mut delays) = (VecDeque::new(), Vec::new());
    let (began, mut answered, mut open) = (Instant::now(), 0, 0);
    let warm_up = Duration::from_secs(2);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let before = world.handle.store_figures();
    while began.elapsed() < warm_up + Duration::from_secs(seconds) {
        ticks.tick().await;
        while let Ok((at, node, assign)) = world.assigned.try_recv() {
            if began.elapsed() > warm_up {
                delays.push((assign.task.stage, world.shared.delay(at, &assign)));
            }
            waiting.push_back((node, assign));
        }
        // By the clock: what a late tick left out is made up for.
        let due = began.elapsed().as_millis() as u64 * PACE / 1000;
        while answered < due
            && let Some((node, assign)) = waiting.pop_front()
        {
            open -= usize::from(assign.task.stage == Stage::Aggregate);
            world.answer(node, assign)?;
            answered += 1;
        }
        while open < OPEN && waiting.len() < 2 * PACE as usize / 10 {
            world.start_run()?;
            open += 1;
        }
    }
    let (took, after) = (began.elapsed(), world.handle.store_figures());
    world.close().await?;
    let (commits, facts) = (after.commits - before.commits, after.records - before.records);
    println!(
        "durable assignment: {answered} results in {:.1} s ({:.0}/s); {facts} facts in {commits} commits of {:.2} ms, \
         {} snapshots",
        took.as_secs_f64(),
        answered as f64 / took.as_secs_f64(),
        (after.commit_seconds - before.commit_seconds) / commits as f64 * 1e3,
        after.snapshots,
    );
    tell_commits(&after);
    for stage in Stage::ALL {
        let of = delays.iter().filter(|(of, _)| *of == stage).map(|(_, delay)| *delay);
        println!("  assignable to assigned, {stage}: {}", figures::percentiles(of.collect()));
    }
    let mut delays: Vec<Duration> = delays.into_iter().map(|(_, delay)| delay).collect();
    delays.sort_unstable();
    let p99 = figures::percentile(&delays, 0.99);
    println!("  assignable to assigned, all: {}", figures::percentiles(delays));
    let is_paced = answered as f64 >= 0.98 * PACE as f64 * took.as_secs_f64();
    let kept = figures::verdict("  p99", p99 <= MOST_ASSIGNMENT, &format!("{p99:.2?}"), "at most 5 ms");
    Ok(figures::verdict("  pace", is_paced, &format!("{answered} results"), "1,000 a second") && kept)
}

/// How long commits took, since the store was opened.
fn tell_commits(figures: &StoreFigures) {
    let mut below = 0;
    for (bound, count) in COMMIT_BUCKETS.iter().zip(figures.commits_by_duration) {
        below += count;
        let share = below as f64 / figures.commits as f64 * 100.0;
        println!("  commits within {:>6.1} ms: {share:.2} %", bound * 1e3);
    }
}

async fn changes(dir: &Path, seconds: u64) -> anyhow::Result<bool> {
    let mut world = World::open(embedded(dir)?, vec![MANY_SHARDS; TOOLS.len()]).await?;
    for _ in 0..OPEN {
        world.start_run()?;
    }
    let (began, before) = (Instant::now(), world.handle.store_figures());
    while began.elapsed() < Duration::from_secs(seconds) {
        let (_, node, assign) = world.next().await?;
        if assign.task.stage == Stage::Aggregate {
            world.start_run()?;
        }
        world.answer(node, assign)?;
    }
    let (took, after) = (began.elapsed(), world.handle.store_figures());
    world.close().await?;
    let (facts, commits) = (after.records - before.records, after.commits - before.commits);
    let per_second = facts as f64 / took.as_secs_f64();
    println!(
        "state changes: {facts} facts in {:.1} s, {commits} commits of {:.0} facts and {:.2} ms on average, {} snapshots",
        took.as_secs_f64(),
        facts as f64 / commits as f64,
        (after.commit_seconds - before.commit_seconds) / commits as f64 * 1e3,
        after.snapshots,
    );
    tell_commits(&after);
    let promised = "at least 10000";
    Ok(figures::verdict("  rate", per_second >= LEAST_CHANGES, &format!("{per_second:.0} facts/s"), promised))
}

/// The log of 1,000 finished runs of 100 tasks, and the same as a snapshot.
async fn finished_runs() -> anyhow::Result<(Vec<Record>, Vec<Record>)> {
    const RUNS: usize = 1_000;
    let log = Whole::default();
    // 49 LINT, 49 CLASSIFY, PLAN and AGGREGATE.
    let mut world = World::open(log.clone(), vec![10, 10, 10, 10, 9]).await?;
    for _ in 0..OPEN {
        world.start_run()?;
    }
    let mut ended = 0;
    while ended < RUNS {
        let (_, node, assign) = world.next().await?;
        let is_last = assign.task.stage == Stage::Aggregate;
        world.answer(node, assign)?;
        ended += usize::from(is_last);
        if is_last && ended + OPEN <= RUNS {
            world.start_run()?;
        }
    }
    let handle = world.handle.clone();
    let snapshot = loop {
        let logs = handle.logs().clone();
        let records = handle.query(move |core, _| {
            let state = core.state();
            let is_quiet = state.open_runs().next().is_none();
            is_quiet.then(|| compaction::records(state, &logs)).transpose()
        });
        match records.await?? {
            Some(records) => break records.to_vec(),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    drop(handle);
    world.close().await?;
    let log = std::mem::take(&mut log.0.lock().unwrap().1);
    Ok((log, snapshot))
}

/// A store that takes no snapshots: an epoch, and every record.
#[derive(Clone, Default)]
struct Whole(Arc<Mutex<(Epoch, Vec<Record>)>>);

impl Store for Whole {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        let epoch = &mut self.0.lock().unwrap().0;
        epoch.0 += 1;
        Ok(*epoch)
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(Loaded::default())
    }

    fn append(&mut self, _: Epoch, _: u64, batch: &[Record]) -> Result<(), StoreError> {
        self.0.lock().unwrap().1.extend_from_slice(batch);
        Ok(())
    }

    fn snapshot(&mut self, _: Epoch, _: u64, _: &[Record]) -> Result<(), StoreError> {
        Ok(())
    }

    fn position(&mut self, _: Epoch) -> Result<u64, StoreError> {
        Ok(self.0.lock().unwrap().1.len() as u64)
    }

    fn blocks(&self) -> bool {
        false
    }
}

fn start(dir: &Path, what: &str, log: &[Record], snapshot: &[Record]) -> anyhow::Result<bool> {
    const STARTS: usize = 9;
    std::fs::create_dir_all(dir)?;
    let mut store = embedded(dir)?;
    let epoch = store.open_epoch()?;
    let mut position = 0;
    for batch in log.chunks(4096) {
        store.append(epoch, position, batch)?;
        position += batch.len() as u64;
    }
    if !snapshot.is_empty() {
        store.snapshot(epoch, position, snapshot)?;
    }
    drop(store);
    let bytes = std::fs::metadata(dir.join("state.redb"))?.len();
    let (mut all, mut opening) = (Vec::new(), Vec::new());
    let used = figures::cpu_time(std::process::id())?;
    for _ in 0..STARTS {
        let began = Instant::now();
        let store = embedded(dir)?;
        opening.push(began.elapsed());
        let (engine, handle) = open(store, Settings::default())?;
        all.push(began.elapsed());
        let kept = handle.logs().get(&RunId::new("run-1000")?).map_or(0, |log| log.newest());
        anyhow::ensure!(kept > 0, "the last run is there");
        drop((engine, handle));
    }
    println!(
        "start from {what}: {} records, {} MiB in the file, {} MiB of records",
        log.len() + snapshot.len(),
        bytes >> 20,
        log.iter().chain(snapshot).map(|record| record.bytes.len()).sum::<usize>() >> 20,
    );
    // What others do on the machine makes a start longer, but not this.
    let used = (figures::cpu_time(std::process::id())? - used) / STARTS as u32;
    println!("  CPU time on all cores, the end included: {used:.2?} a start");
    println!("  of it opening the file: {}", figures::percentiles(opening));
    println!("  open, load, restore: {}", figures::percentiles(all.clone()));
    all.sort_unstable();
    let median = figures::percentile(&all, 0.5);
    Ok(figures::verdict("  median", median <= MOST_START, &format!("{median:.2?}"), "at most 1 s"))
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Cargo adds a flag of its own.
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20);
    println!("machine: {}", figures::machine());
    let base = std::env::var_os("LINTMESH_BENCH_DIR").unwrap_or_else(|| "target".into());
    let dir = tempfile::tempdir_in(base)?;
    let sync = sync_time(dir.path())?;
    println!("disk: {}", figures::percentiles(sync));
    let mut kept = assignment(&dir.path().join("assignment"), seconds).await?;
    kept &= changes(&dir.path().join("changes"), seconds).await?;
    let (log, snapshot) = finished_runs().await?;
    kept &= start(&dir.path().join("log"), "a log of 100,000 finished tasks", &log, &[])?;
    kept &= start(&dir.path().join("snapshot"), "a snapshot of the same", &[], &snapshot)?;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the disk takes to sync 16 KiB: no commit can be faster.
fn sync_time(dir: &Path) -> anyhow::Result<Vec<Duration>> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(dir.join("sync"))?;
    let mut took = Vec::new();
    for at in 0..500 {
        file.write_all_at(&[7; 16 << 10], at * (16 << 10))?;
        let began = Instant::now();
        file.sync_data()?;
        took.push(began.elapsed());
    }
    Ok(took)
}
