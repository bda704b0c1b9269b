//! One blob on its way out of a store, checked as it goes.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::BlobStore;
use crate::types::Digest;

/// Gives the bytes of a blob; at their end it fails with `InvalidData` unless they are those of the digest.
///
/// It reads to the end even if the blob is dropped from the store meanwhile.
pub struct BlobReader {
    store: BlobStore,
    digest: Digest,
    hasher: Sha256,
    object: Box<dyn Read + Send>,
}

impl BlobReader {
    pub(super) fn new(store: BlobStore, digest: Digest, object: Box<dyn Read + Send>) -> Self {
        Self { store, digest, hasher: Sha256::new(), object }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.object.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() {
            let actual = Digest::from_bytes(self.hasher.clone().finalize().into());
            if actual != self.digest {
                self.store.discard_damaged(&self.digest);
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("blob {} was damaged", self.digest),
                ));
            }
        }
        Ok(count)
    }
}
