//! What nodes make: taken into the blob store, and read just far enough for the core to go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::service::{Service, blocking};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::status::ApiError;
use crate::types::{
    AttemptRef, Digest, NodeId, Outcome, Plan, RunId, Stage, Summary, TaskId, TaskOutput, ToolError,
    ToolName, ToolResult,
};
use crate::wire::peer;
use crate::workspace::blobs::{BlobError, Pin};

/// Between attempts to store an output.
const PAUSE: Duration = Duration::from_secs(2);
/// Results that wait for that, in memory. Their nodes keep more of them, and bring them again when fewer wait.
const MOST_UNSTORED: usize = 64;
/// So few.
const FEW_UNSTORED: usize = MOST_UNSTORED / 2;

/// Characters that are kept of why an attempt failed.
const MOST_WORDS: usize = 2000;

/// The results that wait until their outputs can be stored.
#[derive(Default)]
pub struct Unstored(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    attempts: BTreeSet<AttemptRef>,
    /// Who brought results for which there was no place.
    turned_away: BTreeSet<NodeId>,
}

impl Unstored {
    /// Whether the attempt's result, which this node brought, may wait; not if it does already, nor if too many do.
    fn admit(&self, attempt: &AttemptRef, bringer: &NodeId) -> bool {
        let mut waiting = self.lock();
        if waiting.attempts.contains(attempt) {
            return false;
        }
        if waiting.attempts.len() >= MOST_UNSTORED {
            waiting.turned_away.insert(bringer.clone());
            return false;
        }
        waiting.attempts.insert(attempt.clone())
    }

    /// The wait of a result is over. Answers who may come again, once there is some room for what they have.
    fn leave(&self, attempt: &AttemptRef) -> BTreeSet<NodeId> {
        let mut waiting = self.lock();
        waiting.attempts.remove(attempt);
        // Not for each place: whoever finds none again would be called again and again.
        if waiting.attempts.len() > FEW_UNSTORED {
            return BTreeSet::new();
        }
        std::mem::take(&mut waiting.turned_away)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an output was not taken.
enum Untaken {
    /// It cannot be used: the attempt has failed.
    Unusable(String),
    /// It cannot be stored now, which is not the node's fault.
    NotNow(BlobError),
}

impl From<BlobError> for Untaken {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing(_) | BlobError::DigestMismatch { .. } | BlobError::TooLarge { .. } => {
                Self::Unusable(error.to_string())
            }
            BlobError::Full { .. }
            | BlobError::DiskFull { .. }
            | BlobError::InUse { .. }
            | BlobError::Io { .. } => Self::NotNow(error),
        }
    }
}

/// Outputs up to this size are read where they arrive: to go to another thread for one takes longer.
const SMALL: usize = 4 << 10;

/// A result, and the node that passed it on if its executor did not bring it itself.
pub type Brought = (peer::AttemptResult, Option<NodeId>);

/// An output in the store.
struct Stored {
    output: TaskOutput,
    facts: Facts,
    pin: Pin,
}

/// Results that came together as the core hears of them, in their order. What a node sends that cannot be used is that
/// attempt's failure. Of a result whose output cannot be stored now the core hears that it waits: until it is stored it is
/// not acknowledged, and its node keeps it.
pub async fn ended(service: &Arc<Service>, results: Vec<Brought>) -> Vec<Input> {
    if results.is_empty() {
        return Vec::new();
    }
    let results: Arc<[Brought]> = results.into();
    let endings = taken(service, &results).await;
    let heard = results.iter().zip(endings).map(|(brought, ending)| match ending {
        Ok(ending) => input(brought, ending),
        Err(error) => {
            let (result, via) = brought;
            let (attempt, bringer) = (&result.key, via.as_ref().unwrap_or(&result.executor));
            if service.unstored.admit(attempt, bringer) {
                tracing::error!(%attempt, %error, "an output cannot be stored; its result waits");
                tokio::spawn(decide_later(service.clone(), brought.clone()));
            }
            Input::ResultWaits {
                executor: result.executor.clone(),
                incarnation: result.incarnation,
                attempt: attempt.clone(),
            }
        }
    });
    heard.collect()
}

fn input((result, via): &Brought, ending: Ending) -> Input {
    Input::TaskEnded {
        executor: result.executor.clone(),
        incarnation: result.incarnation,
        attempt: result.key.clone(),
        ending,
        measured: result.measured.clone(),
        via: via.clone(),
    }
}

/// Tries again until the output is stored, or its run has ended, which it does in its time.
async fn decide_later(service: Arc<Service>, brought: Brought) {
    let results: Arc<[Brought]> = vec![brought].into();
    let stored = async {
        loop {
            tokio::time::sleep(PAUSE).await;
            if let Some(Ok(ending)) = taken(&service, &results).await.pop() {
                return ending;
            }
        }
    };
    // A stopped coordinator decides nothing; its successor gets the result again.
    let Some(ending) = service.stopping.run_until_cancelled(stored).await else { return };
    let _ = service.engine.decide(input(&results[0], ending)).await;
    end_wait(&service, &results[0].0.key).await;
}

/// A result waits no more. Nodes bring what was not acknowledged with each new connection, and only then: those whose
/// results found no place get one.
async fn end_wait(service: &Service, attempt: &AttemptRef) {
    let nodes = service.unstored.leave(attempt);
    if nodes.is_empty() {
        return;
    }
    let open = service.engine.query(move |core, _| {
        let session = |node: &NodeId| core.presences().get(node)?.session;
        nodes.iter().filter_map(session).collect::<Vec<_>>()
    });
    for session in open.await.unwrap_or_default() {
        tracing::info!(
            session = session.0,
            "closing a connection, so that its node brings its results again"
        );
        service.engine.sessions().close(session);
    }
}

/// What came of attempts, once their outputs are stored.
async fn taken(service: &Arc<Service>, results: &Arc<[Brought]>) -> Vec<Result<Ending, BlobError>> {
    let stages = stages(service, results).await;
    let (shared, brought) = (service.clone(), results.clone());
    let work = move || store(&shared, &brought, stages);
    // Of many shards there is nothing new: clean files give the same few bytes again and again, which are there.
    let is_at_hand = |(result, _): &Brought| match &result.ending {
        peer::Ending::Output { output, data: Some(bytes) } => {
            bytes.len() <= SMALL && service.blobs.contains(&output.digest)
        }
        peer::Ending::Output { data: None, .. } => false,
        peer::Ending::Failure(_) => true,
    };
    if !service.is_durable && results.iter().all(is_at_hand) {
        return work();
    }
    let failed = |error: ApiError| results.iter().map(|_| Ok(Ending::Failed(error.to_string()))).collect();
    blocking(work).await.unwrap_or_else(failed)
}

/// The stages of the tasks that results are of: asked for all at once, since the answer comes with a batch.
async fn stages(service: &Service, results: &[Brought]) -> Vec<Result<Stage, String>> {
    let tasks: Vec<_> = results.iter().map(|(result, _)| (result.key.run.clone(), result.key.task)).collect();
    let found = service
        .engine
        .query(move |core, _| {
            let stage = |(run, task): (RunId, TaskId)| {
                let run = core.state().runs.get(&run).filter(|run| run.is_open())?;
                run.task(task).map(|task| task.task.stage)
            };
            tasks.into_iter().map(stage).collect::<Vec<_>>()
        })
        .await;
    match found {
        // The core drops what nobody waits for; it only has to be acknowledged.
        Ok(found) => {
            found.into_iter().map(|stage| stage.ok_or_else(|| "its run has ended".to_owned())).collect()
        }
        Err(error) => vec![Err(error.to_string()); results.len()],
    }
}

/// Stores outputs; those that came together are made durable together. Blocks on their files.
fn store(
    service: &Service,
    results: &[Brought],
    stages: Vec<Result<Stage, String>>,
) -> Vec<Result<Ending, BlobError>> {
    let mut all: Vec<Result<Stored, Untaken>> =
        results.iter().zip(stages).map(|((result, _), stage)| put(service, result, stage)).collect();
    if service.is_durable {
        // Their nodes forget them once they are accepted.
        let made: Vec<Digest> = all.iter().flatten().map(|stored| stored.output.digest).collect();
        if service.blobs.make_durable(&made).is_err() {
            // One of them, perhaps; the others need not wait for it.
            for one in &mut all {
                if let Ok(stored) = one
                    && let Err(error) = service.blobs.make_durable(&[stored.output.digest])
                {
                    *one = Err(error.into());
                }
            }
        }
    }
    let ending = |(one, (result, _)): (Result<Stored, Untaken>, &Brought)| match one {
        Ok(Stored { output, facts, pin }) => {
            service.pins.keep_for(&result.key.run, [pin]);
            Ok(Ending::Made { output, facts })
        }
        Err(Untaken::Unusable(reason)) => Ok(Ending::Failed(reason)),
        Err(Untaken::NotNow(error)) => Err(error),
    };
    all.into_iter().zip(results).map(ending).collect()
}

fn put(
    service: &Service,
    result: &peer::AttemptResult,
    stage: Result<Stage, String>,
) -> Result<Stored, Untaken> {
    let (output, data) = match &result.ending {
        peer::Ending::Failure(reason) => {
            return Err(Untaken::Unusable(reason.chars().take(MOST_WORDS).collect()));
        }
        peer::Ending::Output { output, data } => (*output, data),
    };
    let stage = stage.map_err(Untaken::Unusable)?;
    let pin = service.blobs.pin([output.digest]);
    let facts = match data {
        Some(bytes) => {
            service.blobs.put_expected(output.digest, bytes)?;
            facts(stage, bytes)
        }
        None => facts(stage, &service.blobs.get(&output.digest)?),
    };
    let facts = facts.map_err(|error| Untaken::Unusable(format!("its output is not readable: {error}")))?;
    Ok(Stored { output, facts, pin })
}

/// Reads an output for what the core must know; diagnostics are passed over without being kept.
fn facts(stage: Stage, bytes: &[u8]) -> serde_json::Result<Facts> {
    #[derive(Deserialize)]
    struct LintHead {
        #[serde(default)]
        error: Option<ToolError>,
        #[serde(rename = "diagnostics")]
        _diagnostics: IgnoredAny,
    }
    #[derive(Deserialize)]
    struct ResultHead {
        outcome: Outcome,
        tools: BTreeMap<ToolName, ToolResult>,
        summary: Summary,
        #[serde(rename = "diagnostics")]
        _diagnostics: IgnoredAny,
    }
    Ok(match stage {
        Stage::Plan => Facts::Plan(serde_json::from_slice::<Plan>(bytes)?),
        Stage::Lint => Facts::Lint { error: serde_json::from_slice::<LintHead>(bytes)?.error },
        Stage::Classify => {
            serde_json::from_slice::<LintHead>(bytes)?;
            Facts::Classify
        }
        Stage::Aggregate => {
            let head: ResultHead = serde_json::from_slice(bytes)?;
            let failed =
                head.tools.into_iter().filter_map(|(tool, result)| Some((tool, result.error?.message)));
            Facts::Aggregate { outcome: head.outcome, summary: head.summary, tool_errors: failed.collect() }
        }
    })
}

#[cfg(test)]
mod tests;
