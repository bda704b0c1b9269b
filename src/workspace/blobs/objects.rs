//! Where the bytes of blobs are: a small trait, behind which a folder is now and an object store may be later.
//!
//! Nothing above it assumes that the bytes are on this machine. What belongs to blobs is not here: which of them are in
//! use, how many may be kept, and whether bytes are those of their digest.

use std::io::{self, Read};
use std::time::SystemTime;

use crate::types::Digest;

/// Why an object could not be written, read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no room. Free some, then retry.
    #[error("no space left for blobs in {place}")]
    Full {
        /// Where blobs are kept.
        place: String,
    },
    /// It failed otherwise.
    #[error("{place}: {source}")]
    Failed {
        /// What was being written or read.
        place: String,
        /// The reason.
        source: io::Error,
    },
}

/// An object that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written.
    pub modified: SystemTime,
}

/// Keeps objects by name, each of them whole or not at all. All calls block.
///
/// Calls about one name are made one after the other; calls about others may come meanwhile, from any thread.
pub trait Objects: Send + Sync + 'static {
    /// Begins an object. Until it is published nobody sees any of it.
    fn stage(&self) -> Result<Box<dyn Staged>, ObjectError>;

    /// Opens an object for reading; nothing if there is none. It can be read to its end even if it is deleted meanwhile.
    fn open(&self, name: &Digest) -> Result<Option<Box<dyn Read + Send>>, ObjectError>;

    /// Deletes an object. That there is none is no error.
    fn delete(&self, name: &Digest) -> Result<(), ObjectError>;

    /// All objects, in any order.
    fn list(&self) -> Result<Vec<Stored>, ObjectError>;

    /// When it has returned well, these objects, which are all there, survive a power cut.
    fn make_durable(&self, names: &[Digest]) -> Result<(), ObjectError>;

    /// Where they are, for people.
    fn place(&self) -> String;
}

/// An object on its way. Dropped before it is published, it leaves nothing behind.
pub trait Staged: Send {
    /// Adds the next piece.
    fn write(&mut self, piece: &[u8]) -> Result<(), ObjectError>;

    /// Makes all of it readable under the name at once, in place of the object that may be there.
    fn publish(self: Box<Self>, name: &Digest) -> Result<(), ObjectError>;
}
