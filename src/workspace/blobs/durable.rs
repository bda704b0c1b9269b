//! Blobs that survive a power cut, before somebody relies on them.

use std::io;

use super::index::{Due, Durability};
use super::{BlobError, BlobStore};
use crate::types::Digest;

impl BlobStore {
    /// When it has returned well, all these blobs survive a power cut. Those of which that is known cost nothing.
    ///
    /// A blob that an earlier process left is read first, since a power cut may have come between: if it is damaged it is
    /// removed and is [`BlobError::Missing`].
    pub fn make_durable(&self, digests: &[Digest]) -> Result<(), BlobError> {
        for due in self.due(digests)? {
            match due.durability {
                Durability::Found => self.verify(&due.digest)?,
                Durability::Doubtful => self.write_again(&due.digest)?,
                Durability::Written | Durability::Durable => {}
            }
        }
        // Looked up anew: what was written again is another object.
        let due = self.due(digests)?;
        if due.is_empty() {
            return Ok(());
        }
        let names: Vec<Digest> = due.iter().map(|due| due.digest).collect();
        let made = self.shared.objects.make_durable(&names);
        let durability = if made.is_ok() { Durability::Durable } else { Durability::Doubtful };
        self.index().settle(&due, durability);
        self.noticed(made)
    }

    fn due(&self, digests: &[Digest]) -> Result<Vec<Due>, BlobError> {
        self.index().due(digests).map_err(BlobError::Missing)
    }

    /// Reads a blob to its end.
    fn verify(&self, digest: &Digest) -> Result<(), BlobError> {
        let mut reader = self.reader(digest)?;
        io::copy(&mut reader, &mut io::sink()).map_err(|error| self.unreadable(digest, error))?;
        Ok(())
    }

    /// Writes a blob as if it had just come: only what is written after a failed sync is surely seen by the next.
    fn write_again(&self, digest: &Digest) -> Result<(), BlobError> {
        let bytes = self.get(digest)?;
        let mut writer = self.writer(None)?;
        writer.write_unhashed(&bytes)?;
        writer.replace(*digest)
    }
}

#[cfg(test)]
mod tests;
