//! What nodes make: taken into the blob store, and read just far enough for the core to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::service::{Service, blob_error, blocking};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::types::{
    NodeId, Outcome, Plan, RunId, Stage, Summary, TaskId, ToolError, ToolName, ToolResult,
};
use crate::wire::peer;

/// Outputs up to this size are read where they arrive: to go to another thread for one takes longer.
const SMALL: usize = 4 << 10;

/// A result, and the node that passed it on if its executor did not bring it itself.
pub type Brought = (peer::AttemptResult, Option<NodeId>);

/// What came of an attempt, and of which run and stage it was; why it is of none otherwise.
type Made = (RunId, Result<Stage, String>, peer::Ending);

/// Results that came together as the core hears of them, in their order. What a node sends that cannot be used is that
/// attempt's failure.
pub async fn ended(service: &Arc<Service>, results: Vec<Brought>) -> Vec<Input> {
    let stages = stages(service, &results).await;
    let (mut inputs, mut made) = (Vec::with_capacity(results.len()), Vec::with_capacity(results.len()));
    for ((result, via), stage) in results.into_iter().zip(stages) {
        made.push((result.key.run.clone(), stage, result.ending));
        inputs.push((result.executor, result.incarnation, result.key, result.measured, via));
    }
    let endings = take_all(service, made).await;
    inputs
        .into_iter()
        .zip(endings)
        .map(|((executor, incarnation, attempt, measured, via), ending)| Input::TaskEnded {
            executor,
            incarnation,
            attempt,
            ending,
            measured,
            via,
        })
        .collect()
}

/// The stages of the tasks that results are of: asked for all at once, since the answer comes with a batch.
async fn stages(service: &Service, results: &[Brought]) -> Vec<Result<Stage, String>> {
    let tasks: Vec<_> = results.iter().map(|(result, _)| (result.key.run.clone(), result.key.task)).collect();
    let count = tasks.len();
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
        Err(error) => vec![Err(error.to_string()); count],
    }
}

async fn take_all(service: &Arc<Service>, made: Vec<Made>) -> Vec<Ending> {
    let (shared, count) = (service.clone(), made.len());
    // Of many shards there is nothing new: clean files give the same few bytes again and again, which are there.
    let is_at_hand = made.iter().all(|(_, _, ending)| match ending {
        peer::Ending::Output { output, data: Some(bytes) } => {
            bytes.len() <= SMALL && service.blobs.contains(&output.digest)
        }
        peer::Ending::Output { .. } => false,
        peer::Ending::Failure(_) => true,
    });
    let work = move || made.into_iter().map(|made| take(&shared, made)).collect::<Vec<_>>();
    if is_at_hand {
        return work();
    }
    blocking(work).await.unwrap_or_else(|error| vec![Ending::Failed(error.to_string()); count])
}

/// Takes what was made into the blob store. Blocks on its files.
fn take(service: &Service, (run, stage, ending): Made) -> Ending {
    let (output, data) = match ending {
        peer::Ending::Failure(reason) => return Ending::Failed(reason.chars().take(2000).collect()),
        peer::Ending::Output { output, data } => (output, data),
    };
    let stage = match stage {
        Ok(stage) => stage,
        Err(reason) => return Ending::Failed(reason),
    };
    let pin = service.blobs.pin([output.digest]);
    let bytes = match data {
        Some(bytes) => service.blobs.put_expected(output.digest, &bytes).map(|()| bytes),
        None => service.blobs.get(&output.digest),
    };
    let read = bytes.map_err(|error| blob_error(error).to_string()).and_then(|bytes| {
        facts(stage, &bytes).map_err(|error| format!("its output is not readable: {error}"))
    });
    match read {
        Ok(facts) => {
            service.keep_for(&run, [pin]);
            Ending::Made { output, facts }
        }
        Err(reason) => Ending::Failed(reason),
    }
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
