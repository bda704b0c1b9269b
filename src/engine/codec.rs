//! Facts to records and back. A version's meaning never changes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::coordinator::event::{Event, RunEvent};
use crate::coordinator::snapshot::Part;
use crate::store::Record;
use crate::types::{RunId, UnixMillis};

/// The form written now: JSON.
const VERSION: u16 = 1;

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Kept {
    /// A part of the state. All of them come first.
    State(Part),
    /// An event of a run, for those who watch it; the state has what follows from it already.
    Event {
        /// The run.
        run: RunId,
        /// Its number in the run.
        sequence: u64,
        /// When, for display.
        at: UnixMillis,
        /// What.
        event: RunEvent,
    },
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// It was written by a later release.
    #[error("record version {0} is not known to this release; run the release that wrote it")]
    UnknownVersion(u16),
    /// It was lost to damage: only its place is known.
    #[error("it was lost to damage")]
    Lost,
    /// It is damaged.
    #[error("damaged record: {0}")]
    Damaged(#[from] serde_json::Error),
}

/// Encodes a fact of the log.
pub fn encode(event: &Event) -> Result<Record, CodecError> {
    write(event)
}

/// Decodes a fact of the log.
pub fn decode(record: &Record) -> Result<Event, CodecError> {
    read(record)
}

/// Encodes a record of a snapshot.
pub fn encode_kept(kept: &Kept) -> Result<Record, CodecError> {
    write(kept)
}

/// The same of an event that others hold: a snapshot has hundreds of thousands, too many to copy first.
pub fn encode_kept_event(
    run: &RunId,
    sequence: u64,
    at: UnixMillis,
    event: &RunEvent,
) -> Result<Record, CodecError> {
    #[derive(Serialize)]
    enum Held<'a> {
        Event { run: &'a RunId, sequence: u64, at: UnixMillis, event: &'a RunEvent },
    }
    write(&Held::Event { run, sequence, at, event })
}

/// Decodes a record of a snapshot.
pub fn decode_kept(record: &Record) -> Result<Kept, CodecError> {
    read(record)
}

fn write(fact: &impl Serialize) -> Result<Record, CodecError> {
    Ok(Record { version: VERSION, bytes: serde_json::to_vec(fact)? })
}

fn read<T: DeserializeOwned>(record: &Record) -> Result<T, CodecError> {
    match record.version {
        VERSION => Ok(serde_json::from_slice(&record.bytes)?),
        Record::LOST => Err(CodecError::Lost),
        other => Err(CodecError::UnknownVersion(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Outcome;

    #[test]
    fn an_event_is_written_alike_by_whoever_holds_it() {
        let run = RunId::new("run-1").expect("valid");
        let event =
            RunEvent::Finished { outcome: Outcome::Cancelled, result: None, detail: "by its client".into() };
        let (sequence, at) = (7, UnixMillis(9));
        let held = encode_kept_event(&run, sequence, at, &event).expect("written");
        let kept = Kept::Event { run, sequence, at, event };
        assert_eq!(held, encode_kept(&kept).expect("written"));
        assert_eq!(decode_kept(&held).expect("read"), kept);
    }
}
