//! What a snapshot holds, and when one is due.

use std::sync::Arc;

use super::codec::{self, CodecError, Kept};
use super::watch::RunLogs;
use crate::coordinator::state::State;
use crate::store::Record;

/// Records that a start can read in no time: fewer are never worth a snapshot.
const FEW: u64 = 20_000;

/// How many records since the last snapshot make the next one due: more than it would hold, so that each record is
/// written about twice, however long the coordinator lives.
pub(super) fn due(state: &State, logs: &RunLogs) -> u64 {
    let held = state.members.len() + state.runs.len() + state.faults.len();
    FEW.max(held as u64 + logs.events())
}

/// The state and the events that are kept, as records.
pub(super) fn records(state: &State, logs: &RunLogs) -> Result<Arc<[Record]>, CodecError> {
    let mut records = Vec::new();
    for part in state.parts() {
        records.push(codec::encode_kept(&Kept::State(part))?);
    }
    for (run, events) in logs.all() {
        for logged in events {
            records.push(codec::encode_kept(&Kept::Event {
                run: run.clone(),
                sequence: logged.sequence,
                at: logged.at,
                event: logged.event.clone(),
            })?);
        }
    }
    Ok(records.into())
}
