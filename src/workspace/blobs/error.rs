//! Why a blob could not be stored or read.

use std::io;
use std::path::PathBuf;

use super::objects::ObjectError;
use crate::types::Digest;

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not in the store, or was found damaged and removed. Send or make it again.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// The bytes are not those the digest stands for. The sender must fix it.
    #[error("the bytes have digest {actual}, not {expected} as announced")]
    DigestMismatch {
        /// The digest they were announced with.
        expected: Digest,
        /// Their real digest.
        actual: Digest,
    },
    /// The blob is longer than one blob may be. The sender must split or leave it out.
    #[error("a blob of {size} bytes is larger than the limit of {limit} bytes (workspace.max_blob_bytes)")]
    TooLarge {
        /// Its length so far, in bytes.
        size: u64,
        /// [`BlobLimits::max_blob_bytes`](super::BlobLimits::max_blob_bytes).
        limit: u64,
    },
    /// The store is full of blobs that are in use. Retry when runs have ended, or raise the limit.
    #[error(
        "the blob store is full: {needed} more bytes do not fit beside what is in use within {limit} bytes (workspace.max_store_bytes)"
    )]
    Full {
        /// How many bytes were asked for.
        needed: u64,
        /// [`BlobLimits::max_total_bytes`](super::BlobLimits::max_total_bytes), or less for who must leave room for others.
        limit: u64,
    },
    /// There is no room where blobs are kept. Free some space, then retry.
    #[error("no space left for blobs in {place}")]
    DiskFull {
        /// Where blobs are kept.
        place: String,
    },
    /// Another process uses the folder. Choose another one.
    #[error("the blob folder {} is in use by another process; choose another workspace.blob_dir", dir.display())]
    InUse {
        /// The store's folder.
        dir: PathBuf,
    },
    /// Reading or writing failed otherwise.
    #[error("blob store {place}: {source}")]
    Io {
        /// What was being read or written.
        place: String,
        /// The reason.
        source: io::Error,
    },
}

impl From<ObjectError> for BlobError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Full { place } => Self::DiskFull { place },
            ObjectError::Failed { place, source } => Self::Io { place, source },
        }
    }
}
