//! Reads what there is, and holds it to its checksums.

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

use super::contain::Failure;
use super::layout::{HEAD, HEAD_KEY, Head, Part, Unreadable};
use crate::store::{Loaded, Record};

/// The head.
pub(super) fn head(database: &impl ReadableDatabase) -> Result<Head, Failure> {
    let table = database.begin_read()?.open_table(HEAD)?;
    let bytes = table.get(HEAD_KEY)?.ok_or(Failure::Head(Unreadable::Missing))?;
    Head::decode(bytes.value()).map_err(Failure::Head)
}

/// All records.
pub(super) fn load(database: &Database, head: Head) -> Result<Loaded, Failure> {
    let transaction = database.begin_read()?;
    let Head { position, base, snapshot, .. } = head;
    Ok(Loaded {
        snapshot: records(&transaction, Part::Snapshot, 0, snapshot)?,
        log: records(&transaction, Part::Log, base, position)?,
        position,
    })
}

/// All records of a part, which must go from `first` up to `end` without a hole.
fn records(transaction: &ReadTransaction, part: Part, first: u64, end: u64) -> Result<Vec<Record>, Failure> {
    let table = transaction.open_table(part.table())?;
    let mut next = first;
    let mut records = Vec::new();
    for entry in table.iter()? {
        let (place, sealed) = entry?;
        let place = place.value();
        if place != next {
            return Err(Failure::Record(
                part,
                next.min(place),
                if place > next { Unreadable::Missing } else { Unreadable::Contradiction },
            ));
        }
        records.push(part.unseal(place, sealed.value()).map_err(|why| Failure::Record(part, place, why))?);
        next += 1;
    }
    if next != end {
        let why = if next < end { Unreadable::Missing } else { Unreadable::Contradiction };
        return Err(Failure::Record(part, next.min(end), why));
    }
    Ok(records)
}

/// One record.
pub(super) fn record(database: &impl ReadableDatabase, part: Part, place: u64) -> Result<Record, Failure> {
    let table = database.begin_read()?.open_table(part.table())?;
    let sealed = table.get(place)?.ok_or(Failure::Record(part, place, Unreadable::Missing))?;
    part.unseal(place, sealed.value()).map_err(|why| Failure::Record(part, place, why))
}
