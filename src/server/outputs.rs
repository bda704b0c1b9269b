//! What nodes make: taken into the blob store, and read just far enough for the core to go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::service::{Service, blocking};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::types::{
    AttemptRef, NodeId, Outcome, Plan, Stage, Summary, TaskOutput, ToolError, ToolName, ToolResult,
};
use crate::wire::peer;
use crate::workspace::blobs::BlobError;

/// Between attempts to store an output.
const PAUSE: Duration = Duration::from_secs(2);
/// Results that wait for that. Nodes send more of them again when they are back.
const MOST_UNSTORED: usize = 64;

/// The attempts whose results wait until their outputs can be stored.
#[derive(Default)]
pub struct Unstored(Mutex<BTreeSet<AttemptRef>>);

impl Unstored {
    /// Whether the attempt's result may wait; not if it does already, nor if too many do.
    fn admit(&self, attempt: &AttemptRef) -> bool {
        let mut waiting = self.lock();
        waiting.len() < MOST_UNSTORED && waiting.insert(attempt.clone())
    }

    fn leave(&self, attempt: &AttemptRef) {
        self.lock().remove(attempt);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<AttemptRef>> {
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

/// A result as the core hears of it, passed on by another node or not. What a node sends that cannot be used is that
/// attempt's failure. If its output cannot be stored now the core hears of it later: until then the result is not
/// acknowledged, and its node keeps it.
pub async fn ended(
    service: &Arc<Service>,
    result: peer::AttemptResult,
    via: Option<NodeId>,
) -> Option<Input> {
    match taken(service, &result, via.as_ref()).await {
        Ok(input) => Some(input),
        Err(error) => {
            if service.unstored.admit(&result.key) {
                tracing::error!(attempt = %result.key, %error, "an output cannot be stored; its result waits");
                tokio::spawn(decide_later(service.clone(), result, via));
            }
            None
        }
    }
}

/// Tries again until the output is stored, or its run has ended, which it does in its time.
async fn decide_later(service: Arc<Service>, result: peer::AttemptResult, via: Option<NodeId>) {
    let stored = async {
        loop {
            tokio::time::sleep(PAUSE).await;
            if let Ok(input) = taken(&service, &result, via.as_ref()).await {
                return input;
            }
        }
    };
    let input = service.stopping.run_until_cancelled(stored).await;
    service.unstored.leave(&result.key);
    if let Some(input) = input {
        // A stopped coordinator decides nothing; its successor gets the result again.
        let _ = service.engine.decide(input).await;
    }
}

async fn taken(
    service: &Arc<Service>,
    result: &peer::AttemptResult,
    via: Option<&NodeId>,
) -> Result<Input, BlobError> {
    let ending = match &result.ending {
        peer::Ending::Failure(reason) => Ending::Failed(reason.chars().take(2000).collect()),
        peer::Ending::Output { output, data } => {
            match take(service, &result.key, *output, data.clone()).await {
                Ok(facts) => Ending::Made { output: *output, facts },
                Err(Untaken::Unusable(reason)) => Ending::Failed(reason),
                Err(Untaken::NotNow(error)) => return Err(error),
            }
        }
    };
    Ok(Input::TaskEnded {
        executor: result.executor.clone(),
        incarnation: result.incarnation,
        attempt: result.key.clone(),
        ending,
        measured: result.measured.clone(),
        via: via.cloned(),
    })
}

async fn take(
    service: &Arc<Service>,
    attempt: &AttemptRef,
    output: TaskOutput,
    data: Option<Vec<u8>>,
) -> Result<Facts, Untaken> {
    let unusable = |reason: &dyn std::fmt::Display| Untaken::Unusable(reason.to_string());
    let (run, task) = (attempt.run.clone(), attempt.task);
    let stage = service
        .engine
        .query(move |core, _| {
            let run = core.state().runs.get(&run).filter(|run| run.is_open())?;
            run.task(task).map(|task| task.task.stage)
        })
        .await
        .map_err(|error| unusable(&error))?
        // The core drops what nobody waits for; it only has to be acknowledged.
        .ok_or_else(|| unusable(&"its run has ended"))?;
    let (blobs, is_durable) = (service.blobs.clone(), service.is_durable);
    let pin = blobs.pin([output.digest]);
    let read = blocking(move || {
        let bytes = match data {
            Some(bytes) => {
                blobs.put_expected(output.digest, &bytes)?;
                bytes
            }
            None => blobs.get(&output.digest)?,
        };
        if is_durable {
            // The node forgets it once it is accepted.
            blobs.make_durable(&[output.digest])?;
        }
        Ok::<_, BlobError>(facts(stage, &bytes))
    })
    .await
    .map_err(|error| unusable(&error))??;
    let facts = read.map_err(|error| unusable(&format!("its output is not readable: {error}")))?;
    service.pins.keep_for(&attempt.run, [pin]);
    Ok(facts)
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
