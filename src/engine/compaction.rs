//! What a snapshot holds, and when one is due.

use std::sync::Arc;

use super::codec::{self, CodecError, Kept};
use super::watch::RunLogs;
use crate::coordinator::state::State;
use crate::store::Record;

/// Records that a start can read in no time: fewer are never worth a snapshot.
const FEW: u64 = 20_000;

/// How many times more may be written before a snapshot that waits for a quiet moment comes all the same. Nothing is
/// decided while it is taken: with work going on without a break, that is so for a smaller share of the time the fewer
/// there are, and a start takes the longer.
const AT_WORK: u64 = 2;

/// Whether a snapshot is due, so many records after the last: as soon as there are more than it would hold, so that each
/// record is written about twice, however long the coordinator lives; but not while runs are open, if it can wait.
pub(super) fn is_due(loose: u64, state: &State, logs: &RunLogs) -> bool {
    let held = state.members.len() + state.runs.len() + state.faults.len();
    let due = FEW.max(held as u64 + logs.events());
    loose >= if state.open.is_empty() { due } else { due.saturating_mul(AT_WORK) }
}

/// The state and the events that are kept, as records.
///
/// # Errors
/// What cannot be encoded.
pub fn records(state: &State, logs: &RunLogs) -> Result<Arc<[Record]>, CodecError> {
    let mut records = Vec::new();
    for part in state.parts() {
        records.push(codec::encode_kept(&Kept::State(part))?);
    }
    for (run, events) in logs.all() {
        for logged in events {
            records.push(codec::encode_kept_event(&run, logged.sequence, logged.at, &logged.event)?);
        }
    }
    Ok(records.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, RunId};

    #[test]
    fn a_snapshot_waits_for_a_quiet_moment_but_not_for_ever() {
        let (mut state, logs) = (State::new(Epoch(1)), RunLogs::default());
        assert!(!is_due(FEW - 1, &state, &logs) && is_due(FEW, &state, &logs));
        state.open.push(RunId::new("run-1").expect("valid"));
        assert!(!is_due(FEW * AT_WORK - 1, &state, &logs) && is_due(FEW * AT_WORK, &state, &logs));
        assert!(is_due(u64::MAX, &state, &logs), "what was left out must go at once");
    }
}
