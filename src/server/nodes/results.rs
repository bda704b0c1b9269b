//! The results that a node brings, taken beside what it says otherwise: their outputs have to reach the disk first, which
//! may be slow, while its heartbeats must not be late.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock::wall_ms;
use super::line::Line;
use crate::server::outputs::{self, Brought};
use crate::types::AttemptRef;

/// Batches of results that may wait; beyond, the node is read no further. A batch may have megabytes.
const QUEUE: usize = 8;
/// How long the results that a node left behind may delay the news of its end. What is not taken then the node, which has
/// no acknowledgement of it, sends again.
const REST: Duration = Duration::from_secs(1);

/// A result as it arrived.
pub(super) struct Arrived {
    pub(super) result: Brought,
    /// When it was sent, in milliseconds since 1970 by its node's clock; none if another node passed it on.
    pub(super) sent_ms: Option<i64>,
    pub(super) at: Instant,
}

/// Where the reading side puts the results of one batch of messages.
pub(super) type Sender = mpsc::Sender<Vec<Arrived>>;

/// A queue between the reading side and [`Line::take_results`].
pub(super) fn queue() -> (Sender, mpsc::Receiver<Vec<Arrived>>) {
    mpsc::channel(QUEUE)
}

/// The attempts whose results wait, each as often as they do: a node that repeats itself has several. Until they are
/// decided the node does not tell of them any more, and nobody may conclude that they are lost.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeMap<AttemptRef, usize>>);

impl Held {
    /// Takes note of one.
    pub(super) fn add(&self, attempt: &AttemptRef) {
        *self.lock().entry(attempt.clone()).or_default() += 1;
    }

    fn remove(&self, attempt: &AttemptRef) {
        let mut held = self.lock();
        if let Some(count) = held.get_mut(attempt) {
            *count -= 1;
            if *count == 0 {
                held.remove(attempt);
            }
        }
    }

    /// Adds them to what a node says that it runs.
    pub(super) fn complete(&self, told: &mut Vec<(AttemptRef, Duration)>) {
        let held = self.lock();
        let missing = held.keys().filter(|attempt| told.iter().all(|(known, _)| known != *attempt));
        let missing: Vec<_> = missing.map(|attempt| (attempt.clone(), Duration::ZERO)).collect();
        told.extend(missing);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptRef, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Has results decided in their order, until there will be no more. What waits together is made durable together.
    pub(super) async fn take_results(&self, mut brought: mpsc::Receiver<Vec<Arrived>>) {
        while let Some(mut arrived) = brought.recv().await {
            while let Ok(more) = brought.try_recv() {
                arrived.extend(more);
            }
            let attempts: Vec<_> = arrived.iter().map(|arrived| arrived.result.0.key.clone()).collect();
            let (mut results, mut sent) = (Vec::with_capacity(arrived.len()), Vec::new());
            for Arrived { result, sent_ms, at } in arrived {
                sent.extend(sent_ms.map(|sent_ms| (sent_ms, at)));
                results.push(result);
            }
            let inputs = outputs::ended(&self.service, results).await;
            // A stopped coordinator closes all sessions itself.
            if !inputs.is_empty() && self.service.engine.decide_all(inputs).await.is_err() {
                return;
            }
            attempts.iter().for_each(|attempt| self.held.remove(attempt));
            self.took(sent.into_iter());
        }
    }

    /// Counts how long messages took: sent at a moment of the node's clock, and arrived.
    pub(super) fn took(&self, sent: impl Iterator<Item = (i64, Instant)>) {
        let offset_ms = self.clock().offset_ms();
        let now_ms = wall_ms(self.service.engine.now()).saturating_add(offset_ms);
        for (sent_ms, arrived) in sent {
            let passed = Duration::from_millis(u64::try_from(now_ms.saturating_sub(sent_ms)).unwrap_or(0));
            // Clocks are compared to a few milliseconds; here it took this long at least.
            self.service.counts.traffic.took(passed.max(arrived.elapsed()));
        }
    }
}

/// Does both at once. When the first is done, which ends the second's queue, the rest of that has a moment.
pub(super) async fn beside<T>(carried: impl Future<Output = T>, taken: impl Future<Output = ()>) -> T {
    let (mut carried, mut taken) = (std::pin::pin!(carried), std::pin::pin!(taken));
    let ended = tokio::select! {
        ended = &mut carried => ended,
        // Only a coordinator that has stopped takes no more.
        () = &mut taken => return carried.await,
    };
    let _ = tokio::time::timeout(REST, taken).await;
    ended
}

#[cfg(test)]
mod tests;
