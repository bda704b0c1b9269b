//! The end of a server, in its order: probes, runs, streams, nodes, listeners. Each step has a bound.

use std::time::Duration;

use super::{RunningServer, health};
use crate::coordinator::input::Input;

/// How long the coordinator may take to note that it stops.
const STOPPING_BOUND: Duration = Duration::from_secs(2);

impl RunningServer {
    /// The first step of an orderly end: probes are told to look elsewhere, new runs are refused, and those that are open
    /// have so long to end. Those that have not are taken up by the next coordinator; without a store that outlives this
    /// process they are cancelled, since nobody would remember them.
    pub async fn drain(&self, bound: Duration) {
        self.end_health().await;
        let engine = &self.service.engine;
        let mut revision = engine.revision();
        let all_ended = async {
            let mut told = 0;
            loop {
                revision.borrow_and_update();
                match engine.observe(|core, _| core.state().open.len()).await {
                    Ok(0) | Err(_) => return,
                    Ok(open) if open != told => {
                        tracing::info!(runs = open, "waiting for open runs to end");
                        told = open;
                    }
                    Ok(_) => {}
                }
                if revision.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(bound, all_ended).await.is_ok() {
            return;
        }
        let open = engine.observe(|core, _| core.state().open.clone()).await.unwrap_or_default();
        if engine.is_durable() {
            tracing::info!(
                runs = open.len(),
                "open runs go on when a coordinator starts on this state again"
            );
            return;
        }
        let reason = format!("the server stops; the run had {} s more to end", bound.as_secs_f64());
        for run in open {
            tracing::warn!(%run, "cancelled: it did not end before the server stops");
            // A stopped coordinator runs nothing any more.
            let _ = engine.decide(Input::CancelRun { run, reason: reason.clone() }).await;
        }
    }

    async fn end_health(&self) {
        self.service.draining.cancel();
        if let Some(health) = self.health.lock().await.take()
            && let Err(error) = health.await
        {
            tracing::error!(%error, "health is not reported any more");
        }
    }

    /// The next step: open streams of clients end with a reason.
    pub async fn retire(&self) {
        self.end_health().await;
        self.service.stopping.cancel();
        // A stopped coordinator judges nobody any more, and one that cannot store facts gives no answer.
        let told = self.service.engine.decide(Input::Stopping);
        let _ = tokio::time::timeout(STOPPING_BOUND, told).await;
    }

    /// The last step: the listeners drain, within their bound, and the coordinator ends. Answers why it had failed before,
    /// if it had and nobody was told yet.
    pub async fn shutdown(&self) -> Option<String> {
        self.retire().await;
        health::end(self.reporter.clone()).await;
        self.service.engine.sessions().close_all();
        self.listening.cancel();
        for listener in self.listeners.lock().await.drain(..) {
            match listener.await {
                Ok(served) if served.aborted > 0 => {
                    tracing::warn!(connections = served.aborted, "connections were aborted at shutdown");
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a listener failed"),
            }
        }
        self.engine_abort.abort();
        let failure = tokio::time::timeout(STOPPING_BOUND, self.ended()).await.ok().flatten();
        // A call that is under way has the store, and ends in its own time; if the process ended before, the next start
        // would find the store as after a crash.
        let closed = self.service.engine.store_closed();
        if tokio::time::timeout(STOPPING_BOUND, closed).await.is_err() {
            tracing::warn!("the state is still being written; it is not closed properly");
        }
        failure
    }
}
