//! What goes wrong below, as errors of the store.

use std::any::Any;
use std::fmt;
use std::io::{self, ErrorKind};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use super::layout::{FORMAT, Part, Unreadable};
use crate::store::StoreError;

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file system, by way of redb or not.
    Io(io::Error),
    /// Another has the file.
    InUse,
    /// redb found damage, or stumbled over it.
    Damaged(String),
    /// The head is none of ours.
    Head(Unreadable),
    /// A record is none of ours.
    Record(Part, u64, Unreadable),
    /// A redb file without our tables.
    NotOurs(String),
}

impl Failure {
    /// Of an attempt to open or read.
    pub(super) fn on_opening(self, path: &Path) -> StoreError {
        let place = path.display().to_string();
        let damaged = |position: String, reason: String| StoreError::Damaged {
            place: path.display().to_string(),
            position,
            reason,
        };
        match self {
            failure if failure.is_full() => StoreError::Full { place },
            Failure::Io(source) => match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    StoreError::Denied { action: "write", path: path.to_owned(), source }
                }
                // A file that ends before what it says it has.
                ErrorKind::UnexpectedEof | ErrorKind::InvalidData => {
                    damaged("its end".to_owned(), source.to_string())
                }
                _ => StoreError::Io { path: path.to_owned(), source },
            },
            Failure::InUse => StoreError::InUse { path: path.to_owned() },
            Failure::Damaged(reason) => damaged("a page of the file".to_owned(), reason),
            Failure::Head(Unreadable::NewerFormat(found)) => {
                StoreError::NewerFormat { place, found: found.into(), known: FORMAT.into() }
            }
            Failure::Head(unreadable) => damaged("the head".to_owned(), unreadable.to_string()),
            Failure::Record(part, position, unreadable) => {
                damaged(format!("record {position} of the {}", part.name()), unreadable.to_string())
            }
            Failure::NotOurs(reason) => StoreError::Foreign { path: path.to_owned(), reason },
        }
    }

    /// Of a change that was given up before it was committed: nothing was changed.
    pub(super) fn before_commit(self, path: &Path) -> StoreError {
        match self {
            Failure::Io(source) if !is_full(&source) => {
                StoreError::Unavailable { reason: format!("{}: {source}", path.display()) }
            }
            other => other.on_opening(path),
        }
    }

    /// Whether there is no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Failure::Io(source) if is_full(source))
    }
}

fn is_full(source: &io::Error) -> bool {
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io(source) => write!(to, "{source}"),
            Failure::InUse => to.write_str("it is in use by another process"),
            Failure::Damaged(reason) | Failure::NotOurs(reason) => to.write_str(reason),
            Failure::Head(unreadable) => write!(to, "the head: {unreadable}"),
            Failure::Record(part, position, unreadable) => {
                write!(to, "record {position} of the {}: {unreadable}", part.name())
            }
        }
    }
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(source) => Failure::Io(source),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Failure::InUse,
            redb::Error::TableDoesNotExist(_) => {
                Failure::NotOurs("it is a redb database with other tables".to_owned())
            }
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => Failure::Io(io::Error::other(error)),
            other => Failure::Damaged(other.to_string()),
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Failure {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_redb!(CommitError, DatabaseError, StorageError, TableError, TransactionError);

/// Runs what redb does. On a damaged file redb can panic (in debug builds it asserts, and not every number that it reads
/// is checked before it is used); that must not take the process along, and says the same as an error: it is damaged.
pub(super) fn contained<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Failure::Damaged(format!("reading it failed: {}", message(&*panic)))))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for an unknown reason")
}
