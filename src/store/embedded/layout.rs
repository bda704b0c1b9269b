//! How heads and records lie in the tables. Each has a checksum of its own, over its place too: redb checks its pages when
//! it opens a file, not when it reads them.

use redb::{TableDefinition, WriteTransaction};
use sha2::{Digest, Sha256};

use super::contain::Failure;
use crate::store::Record;
use crate::types::Epoch;

/// The form of everything here, written into the head. A form never changes its meaning.
pub(super) const FORMAT: u32 = 1;

pub(super) const HEAD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lintmesh.head");
pub(super) const HEAD_KEY: &str = "head";
/// By index, from 0.
pub(super) const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lintmesh.snapshot");
/// By position.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lintmesh.log");

/// A SHA-256 cut to 64 bits: against accidents, not attackers.
const SUM: usize = 8;
const VERSION: usize = size_of::<u16>();
const FIELDS: usize = 4 * size_of::<u64>();

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The newest.
    pub(super) epoch: Epoch,
    /// Where the log ends.
    pub(super) position: u64,
    /// Where it begins: what was before is in the snapshot.
    pub(super) base: u64,
    /// Records of the snapshot.
    pub(super) snapshot: u64,
}

/// Why stored bytes are none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is too short")]
    Short,
    #[error("its checksum is wrong")]
    Sum,
    #[error("it is missing")]
    Missing,
    #[error("it has format {0}")]
    NewerFormat(u32),
    #[error("its positions contradict each other")]
    Contradiction,
}

impl Head {
    /// Format, fields, checksum; integers little-endian.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = FORMAT.to_le_bytes().to_vec();
        for field in [self.epoch.0, self.position, self.base, self.snapshot] {
            bytes.extend(field.to_le_bytes());
        }
        let sum = sum(&[b"head", &bytes]);
        bytes.extend(sum);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        // The format says what follows, so it is read first.
        let (format, rest) = bytes.split_first_chunk().ok_or(Unreadable::Short)?;
        let format = u32::from_le_bytes(*format);
        if format > FORMAT {
            return Err(Unreadable::NewerFormat(format));
        }
        let (fields, stored) = rest.split_at_checked(FIELDS).ok_or(Unreadable::Short)?;
        if stored != sum(&[b"head", &bytes[..bytes.len() - stored.len()]]) {
            return Err(Unreadable::Sum);
        }
        let mut fields = fields.as_chunks().0.iter().map(|field| u64::from_le_bytes(*field));
        let mut field = || fields.next().ok_or(Unreadable::Short);
        let head = Self { epoch: Epoch(field()?), position: field()?, base: field()?, snapshot: field()? };
        if head.base > head.position {
            return Err(Unreadable::Contradiction);
        }
        Ok(head)
    }
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Snapshot,
    Log,
}

impl Part {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Part::Snapshot => "snapshot",
            Part::Log => "log",
        }
    }

    pub(super) const fn table(self) -> TableDefinition<'static, u64, &'static [u8]> {
        match self {
            Part::Snapshot => SNAPSHOT,
            Part::Log => LOG,
        }
    }

    /// Checksum, version, bytes.
    pub(super) fn seal(self, place: u64, record: &Record) -> Vec<u8> {
        let version = record.version.to_le_bytes();
        let mut sealed = Vec::with_capacity(SUM + VERSION + record.bytes.len());
        sealed.extend(self.sum(place, version, &record.bytes));
        sealed.extend(version);
        sealed.extend_from_slice(&record.bytes);
        sealed
    }

    pub(super) fn unseal(self, place: u64, sealed: &[u8]) -> Result<Record, Unreadable> {
        let (stored, rest) = sealed.split_first_chunk::<SUM>().ok_or(Unreadable::Short)?;
        let (version, bytes) = rest.split_first_chunk::<VERSION>().ok_or(Unreadable::Short)?;
        if *stored != self.sum(place, *version, bytes) {
            return Err(Unreadable::Sum);
        }
        Ok(Record { version: u16::from_le_bytes(*version), bytes: bytes.to_vec() })
    }

    fn sum(self, place: u64, version: [u8; VERSION], bytes: &[u8]) -> [u8; SUM] {
        sum(&[self.name().as_bytes(), &place.to_le_bytes(), &version, bytes])
    }
}

/// Puts records into a part, from a place on where there are none yet.
pub(super) fn fill(
    transaction: &WriteTransaction,
    part: Part,
    first: u64,
    records: &[Record],
) -> Result<(), Failure> {
    let mut table = transaction.open_table(part.table())?;
    for (place, record) in (first..).zip(records) {
        table.insert(place, part.seal(place, record).as_slice())?;
    }
    Ok(())
}

fn sum(parts: &[&[u8]]) -> [u8; SUM] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let whole = hash.finalize();
    let mut cut = [0; SUM];
    cut.copy_from_slice(&whole[..SUM]);
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Record> {
        (any::<u16>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(version, bytes)| Record { version, bytes })
    }

    proptest! {
        #[test]
        fn a_record_is_read_only_where_it_was_written_and_as_it_was(
            record in records(), place: u64, other: u64, at: prop::sample::Index, bit in 0..8_u8
        ) {
            let mut sealed = Part::Log.seal(place, &record);
            prop_assert_eq!(Part::Log.unseal(place, &sealed), Ok(record));
            prop_assert_eq!(Part::Snapshot.unseal(place, &sealed), Err(Unreadable::Sum));
            if other != place {
                prop_assert_eq!(Part::Log.unseal(other, &sealed), Err(Unreadable::Sum));
            }
            let at = at.index(sealed.len());
            prop_assert!(Part::Log.unseal(place, &sealed[..at]).is_err());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(Part::Log.unseal(place, &sealed), Err(Unreadable::Sum));
        }

        #[test]
        fn a_head_is_read_as_it_was_written(
            epoch: u64, base: u64, more: u64, snapshot: u64, at: prop::sample::Index, bit in 0..8_u8
        ) {
            let head = Head { epoch: Epoch(epoch), position: base.saturating_add(more), base, snapshot };
            let mut bytes = head.encode();
            prop_assert_eq!(Head::decode(&bytes), Ok(head));
            let at = at.index(bytes.len());
            prop_assert!(Head::decode(&bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(Head::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = Head::default().encode();
        bytes[..4].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        assert_eq!(Head::decode(&bytes), Err(Unreadable::NewerFormat(FORMAT + 1)));
        assert_eq!(Head::decode(&bytes[..4]), Err(Unreadable::NewerFormat(FORMAT + 1)), "whatever follows");
    }

    #[test]
    fn the_form_of_format_1_does_not_change() {
        let record = Record { version: 1, bytes: b"fact".to_vec() };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let head = Head { epoch: Epoch(3), position: 9, base: 5, snapshot: 2 };
        assert_eq!(
            &hex(&head.encode())[..72],
            concat!(
                "01000000",
                "0300000000000000",
                "0900000000000000",
                "0500000000000000",
                "0200000000000000"
            )
        );
        assert_eq!(&hex(&Part::Log.seal(7, &record))[16..], "010066616374");
    }
}
