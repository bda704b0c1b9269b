//! Facts to records and back. A version's meaning never changes.

use crate::coordinator::event::Event;
use crate::store::Record;

/// The form written now: the event as JSON.
const VERSION: u16 = 1;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// It was written by a later release.
    #[error("record version {0} is not known to this release; run the release that wrote it")]
    UnknownVersion(u16),
    /// It is damaged.
    #[error("damaged record: {0}")]
    Damaged(#[from] serde_json::Error),
}

/// Encodes a fact.
pub fn encode(event: &Event) -> Result<Record, CodecError> {
    Ok(Record { version: VERSION, bytes: serde_json::to_vec(event)? })
}

/// Decodes a fact.
pub fn decode(record: &Record) -> Result<Event, CodecError> {
    match record.version {
        VERSION => Ok(serde_json::from_slice(&record.bytes)?),
        other => Err(CodecError::UnknownVersion(other)),
    }
}
