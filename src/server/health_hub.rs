//! Measures the mesh's health once for all who watch it.
//!
//! A thousand watchers cost the coordinator what one costs: the hub asks it, numbers what has changed, and everybody gets
//! the same report, whose bytes are made once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use crate::coordinator::health::MeshHealth;
use crate::coordinator::node::LoadScore;
use crate::engine::{Handle, Stopped};
use crate::proto::v1::StreamHealthResponse;
use crate::types::{LinkReport, ToolName, UnixMillis};
use crate::wire::mesh_health;

/// Changes that come together are told together.
const TOGETHER: Duration = Duration::from_millis(20);
/// How much longer the next change waits for each watcher: time for all of them to be told of the one before.
const FOR_EACH_WATCHER: Duration = Duration::from_micros(100);
/// What changes without the coordinator's doing, for example a link or a breaker, is noticed after so long.
const SWEEP: Duration = Duration::from_millis(250);

/// One measurement, shared by all who are told of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Numbers the changes.
    pub revision: u64,
    /// What is sent.
    pub response: StreamHealthResponse,
}

/// The hub.
pub struct HealthHub {
    engine: Handle,
    tools: Vec<ToolName>,
    changes: watch::Sender<Report>,
    newest: AtomicU64,
    last: Mutex<Option<Measured>>,
}

struct Measured {
    at: Instant,
    report: Report,
    /// What must differ for a change.
    settled: MeshHealth,
}

impl HealthHub {
    /// A hub whose revisions follow `started`, so that they grow over restarts too.
    pub fn new(engine: Handle, tools: Vec<ToolName>, started: UnixMillis) -> Self {
        let newest = AtomicU64::new(started.0);
        Self { engine, tools, changes: watch::Sender::default(), newest, last: Mutex::default() }
    }

    /// The number of the newest change.
    pub fn revision(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Told of each change, and of the newest only.
    pub fn changes(&self) -> watch::Receiver<Report> {
        self.changes.subscribe()
    }

    /// A report that is at most so old. Those who ask at the same time share one.
    pub async fn report(&self, most_age: Duration) -> Result<Report, Stopped> {
        let mut last = self.last.lock().await;
        if let Some(measured) = last.as_ref().filter(|measured| measured.at.elapsed() < most_age) {
            return Ok(measured.report.clone());
        }
        let tools = self.tools.clone();
        let at = Instant::now();
        let health = self.engine.observe(move |core, now| core.mesh_health(now, &tools)).await?;
        let settled = settled(health.clone());
        let changed = last.as_ref().is_none_or(|measured| measured.settled != settled);
        if changed {
            self.newest.fetch_add(1, Ordering::Relaxed);
        }
        let revision = self.revision();
        let message = mesh_health::health(&health, revision);
        let report = Report { revision, response: StreamHealthResponse { health: Some(message.into()) } };
        if changed {
            self.changes.send_replace(report.clone());
        }
        *last = Some(Measured { at, report: report.clone(), settled });
        Ok(report)
    }

    /// Finds the changes, while anybody watches, until the coordinator stops.
    pub async fn follow(&self) {
        let mut revision = self.engine.revision();
        loop {
            tokio::select! {
                changed = revision.changed() => if changed.is_err() { return },
                () = sleep(SWEEP) => {}
            }
            let watchers = self.changes.receiver_count();
            if watchers == 0 {
                continue;
            }
            sleep(TOGETHER).await;
            revision.borrow_and_update();
            if self.report(Duration::ZERO).await.is_err() {
                return;
            }
            sleep(FOR_EACH_WATCHER * u32::try_from(watchers).unwrap_or(u32::MAX)).await;
        }
    }
}

/// The health without what is only measured, and differs each time.
fn settled(mut health: MeshHealth) -> MeshHealth {
    health.at = UnixMillis::default();
    health.revision = 0;
    health.figures = Default::default();
    for alert in &mut health.alerts {
        alert.value = 0.0;
    }
    for node in health.nodes.values_mut() {
        node.load = LoadScore::default();
        node.last_heartbeat = None;
        node.last_heartbeat_age = None;
        node.clock_offset_ms = None;
        for link in &mut node.links {
            *link = LinkReport::new(link.peer.clone(), link.state);
        }
    }
    health
}
