//! Heartbeats: what the node measured of itself and of its links.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::Lasting;
use crate::node::envelope::Said;
use crate::node::idle::trace;
use crate::node::process_table;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::LinkReport;
use crate::wire::peer::links;

/// Sends a beat at once and then at the cadence; a beat that finds the queue full is left out, since the next one
/// says more.
pub(super) async fn heartbeats(lasting: &Lasting, every: Duration, queue: mpsc::Sender<Said>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        ticks.tick().await;
        number += 1;
        let kind = pb::heartbeat::Kind::Beat(measured(lasting, number).await);
        match queue.try_send(Payload::Heartbeat(pb::Heartbeat { kind: Some(kind) }).into()) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => tracing::debug!(number, "a beat was left out"),
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}

async fn measured(lasting: &Lasting, number: u64) -> pb::Beat {
    let (meter, idle) = (Arc::clone(&lasting.meter), Arc::clone(&lasting.idle));
    let running = lasting.executor.progress();
    // Reading /proc blocks for milliseconds.
    let (usage, attempts) = tokio::task::spawn_blocking(move || {
        let (table, now) = (process_table::read(), Instant::now());
        let usage = meter.lock().unwrap_or_else(PoisonError::into_inner).observe(now, &table);
        let traces = running.into_iter().map(|(key, progress)| (key, trace(&progress, &table))).collect();
        let attempts = idle.lock().unwrap_or_else(PoisonError::into_inner).observe(now, traces);
        (usage, attempts)
    })
    .await
    .unwrap_or_default();
    let (running_tasks, capabilities_in_use) = lasting.executor.in_use();
    let refused = lasting.peers.refused();
    // An attempt that is not told of counts as lost, but its result may only be on its way.
    let (_, held) = lasting.executor.inventory();
    pb::Beat {
        number,
        running_tasks,
        capabilities_in_use,
        cpu: usage.cpu,
        memory: usage.memory,
        links: lasting.peers.reports().iter().map(LinkReport::to_proto).collect(),
        attempts: attempts
            .iter()
            .map(|(attempt, idle)| links::progress_to_proto(attempt, *idle))
            .chain(held.iter().map(|attempt| links::progress_to_proto(attempt, Duration::ZERO)))
            .collect(),
        abstaining: lasting.peers.was_late(),
        outputs_by_peers: lasting.inputs.by_peer(),
        refused_messages: refused.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
    }
}

/// Tells the coordinator of every link that changes, at once.
pub(super) async fn link_changes(lasting: &Lasting, queue: &mpsc::Sender<Said>) {
    lasting.peers.forget_told();
    loop {
        for (peer, state) in lasting.peers.next_changes().await {
            if queue.send(links::change(&peer, state).into()).await.is_err() {
                return;
            }
        }
    }
}
