//! From what is stored to the state, and to the logs of its runs.

use std::collections::BTreeSet;
use std::thread;

use super::codec::{self, CodecError, Kept};
use super::watch::RunLogs;
use crate::coordinator::event::Event;
use crate::coordinator::state::State;
use crate::store::{Loaded, Record};
use crate::types::{Epoch, RunId};

/// Records that are worth a thread.
const A_THREADS_WORTH: usize = 4096;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A later release wrote it. Nothing is wrong with it, so it is never left out.
    #[error("record {position} of the {part}: {source}")]
    LaterRelease {
        /// `snapshot` or `log`.
        part: &'static str,
        /// As in [`RestoreError::Record`].
        position: u64,
        /// What it says of itself.
        source: CodecError,
    },
    /// A record cannot be read.
    #[error(
        "record {position} of the {part}: {source}; restore the state from a copy, or start once with --salvage to go on without it"
    )]
    Record {
        /// `snapshot` or `log`.
        part: &'static str,
        /// Counted from 0 within it; of the log from the first record ever.
        position: u64,
        /// What is wrong with it.
        source: CodecError,
    },
    /// Records are missing.
    #[error(
        "event {sequence} of run `{run}` is missing; restore the state from a copy, or start once with --salvage to go on without the run"
    )]
    Missing {
        /// The run.
        run: RunId,
        /// The first event that is not there.
        sequence: u64,
    },
    /// Events are there of a run that is not.
    #[error(
        "run `{run}` is missing, though events of it are there; restore the state from a copy, or start once with --salvage to go on without the run"
    )]
    NoRun {
        /// The run.
        run: RunId,
    },
}

/// What was restored.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) state: State,
    pub(super) logs: RunLogs,
    /// Runs that were given up, since records of them are missing or unreadable.
    pub(super) lost: BTreeSet<RunId>,
    /// Records that could not be read.
    pub(super) unreadable: u64,
    /// Runs that were open where a record could not be read, and of which nothing has come since: it may have been theirs.
    suspects: BTreeSet<RunId>,
}

/// Restores the state. With `salvage`, what is damaged is left out, and the runs it belongs to as a whole.
pub(super) fn restore(loaded: &Loaded, epoch: Epoch, salvage: bool) -> Result<Restored, RestoreError> {
    let mut restored = Restored {
        state: State::new(epoch),
        logs: RunLogs::default(),
        lost: BTreeSet::new(),
        unreadable: 0,
        suspects: BTreeSet::new(),
    };
    for (position, kept) in (0..).zip(decode_all(&loaded.snapshot, codec::decode_kept)) {
        match kept {
            Ok(kept) => restored.keep(kept),
            Err(source) => restored.leave_out("snapshot", position, source, salvage)?,
        }
    }
    let first = loaded.position - loaded.log.len() as u64;
    for (position, event) in (first..).zip(decode_all(&loaded.log, codec::decode)) {
        match event {
            Ok(event) => restored.follow(event, salvage)?,
            Err(source) => {
                restored.leave_out("log", position, source, salvage)?;
                restored.suspects.extend(restored.state.open.iter().cloned());
            }
        }
    }
    restored.lost.append(&mut restored.suspects);
    for run in restored.logs.runs() {
        if restored.state.runs.contains_key(&run) || restored.lost.contains(&run) {
            continue;
        }
        if !salvage {
            return Err(RestoreError::NoRun { run });
        }
        restored.lost.insert(run);
    }
    // The events of some may be gone; those who ask for them are told so.
    for (id, run) in &restored.state.runs {
        restored.logs.complete(id, run.sequence, run.ended_at);
    }
    for run in &restored.lost {
        restored.state.apply(&Event::RunForgotten(run.clone()));
        restored.logs.forget(run);
    }
    Ok(restored)
}

impl Restored {
    /// Goes on without a record, if that is allowed.
    fn leave_out(
        &mut self,
        part: &'static str,
        position: u64,
        source: CodecError,
        salvage: bool,
    ) -> Result<(), RestoreError> {
        match source {
            CodecError::UnknownVersion(_) => {
                return Err(RestoreError::LaterRelease { part, position, source });
            }
            source if !salvage => return Err(RestoreError::Record { part, position, source }),
            // The store has told of it.
            CodecError::Lost => {}
            CodecError::Damaged(error) => {
                tracing::warn!(part, position, %error, "a record was left out");
            }
        }
        self.unreadable += 1;
        Ok(())
    }

    fn keep(&mut self, kept: Kept) {
        match kept {
            Kept::State(part) => self.state.restore(part),
            Kept::Event { run, sequence, at, event } => self.logs.append(&run, sequence, at, event),
        }
    }

    fn follow(&mut self, event: Event, salvage: bool) -> Result<(), RestoreError> {
        if let Event::Run { run, sequence, .. } = &event {
            let expected = self.state.runs.get(run).map_or(1, |run| run.sequence + 1);
            if self.lost.contains(run) {
                return Ok(());
            }
            if *sequence != expected {
                if salvage {
                    self.lost.insert(run.clone());
                    return Ok(());
                }
                return Err(RestoreError::Missing { run: run.clone(), sequence: expected });
            }
            // Nothing of it was in between.
            self.suspects.remove(run);
        }
        self.state.apply(&event);
        match event {
            Event::Run { run, sequence, at, event } => self.logs.append(&run, sequence, at, event),
            Event::RunForgotten(run) => {
                self.logs.forget(&run);
                self.suspects.remove(&run);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Decodes records on all cores, in their order.
fn decode_all<T: Send>(
    records: &[Record],
    decode: fn(&Record) -> Result<T, CodecError>,
) -> Vec<Result<T, CodecError>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    if records.len() < A_THREADS_WORTH || threads == 1 {
        return records.iter().map(decode).collect();
    }
    thread::scope(|scope| {
        let parts = records.chunks(records.len().div_ceil(threads));
        let parts: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(decode).collect::<Vec<_>>())).collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
