//! What nodes make: taken into the blob store, and read just far enough for the core to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::service::{Service, blob_error, blocking};
use crate::coordinator::input::{Ending, Facts, Input};
use crate::status::ApiError;
use crate::types::{
    AttemptRef, NodeId, Outcome, Plan, Stage, Summary, TaskOutput, ToolError, ToolName, ToolResult,
};
use crate::wire::peer;

/// A result as the core hears of it, passed on by another node or not. What a node sends that cannot be used is that
/// attempt's failure.
pub async fn ended(service: &Arc<Service>, result: peer::AttemptResult, via: Option<NodeId>) -> Input {
    let ending = match result.ending {
        peer::Ending::Failure(reason) => Ending::Failed(reason.chars().take(2000).collect()),
        peer::Ending::Output { output, data } => match take(service, &result.key, output, data).await {
            Ok(facts) => Ending::Made { output, facts },
            Err(reason) => Ending::Failed(reason),
        },
    };
    Input::TaskEnded {
        executor: result.executor,
        incarnation: result.incarnation,
        attempt: result.key,
        ending,
        measured: result.measured,
        via,
    }
}

async fn take(
    service: &Arc<Service>,
    attempt: &AttemptRef,
    output: TaskOutput,
    data: Option<Vec<u8>>,
) -> Result<Facts, String> {
    let (run, task) = (attempt.run.clone(), attempt.task);
    let stage = service
        .engine
        .query(move |core, _| {
            let run = core.state().runs.get(&run).filter(|run| run.is_open())?;
            run.task(task).map(|task| task.task.stage)
        })
        .await
        .map_err(|error| error.to_string())?
        // The core drops what nobody waits for; it only has to be acknowledged.
        .ok_or("its run has ended")?;
    let blobs = service.blobs.clone();
    let pin = blobs.pin([output.digest]);
    let read = blocking(move || {
        let bytes = match data {
            Some(bytes) => {
                blobs.put_expected(output.digest, &bytes).map_err(blob_error)?;
                bytes
            }
            None => blobs.get(&output.digest).map_err(blob_error)?,
        };
        Ok::<_, ApiError>(facts(stage, &bytes))
    })
    .await
    .and_then(|read| read)
    .map_err(|error| error.to_string())?;
    let facts = read.map_err(|error| format!("its output is not readable: {error}"))?;
    service.keep_for(&attempt.run, [pin]);
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
