//! Keeps records in one file of this machine, by way of redb.
//!
//! One call that changes something is one transaction, synced before it returns. redb locks the file, so that one process
//! at a time owns it; that the file is still the one at its path is asked before each change. After an error the file is
//! closed, and opened anew by the next call: what is there then is what happened.
//!
//! A commit is synced once, with a checksum over all of it, so that after a crash the last one counts only if it is whole.
//! Thus damage to the pages of the last commit before a crash, and to no others, looks like a commit that was cut short;
//! all other damage is found when the file is opened.

mod aside;
mod contain;
mod creation;
mod layout;
mod medium;
mod reader;
mod salvage;

use std::cell::Cell;
use std::path::Path;

use redb::{Builder, Database, StorageBackend, WriteTransaction};

use super::{Loaded, Record, Store, StoreError};
use crate::types::Epoch;
use contain::{Failure, contained};
use layout::{HEAD, HEAD_KEY, Head, LOG, Part, SNAPSHOT};
pub use medium::{FileMedium, Medium};
use medium::{Header, Shape};

/// Memory for pages: enough for the newest part of the log and for a commit. Old records are read once, at a start.
const CACHE_BYTES: usize = 32 << 20;

/// How to open a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmbeddedOptions {
    /// If the file is damaged: keep it under another name, and go on with what can be read. [`Record::lost`] stands for
    /// each record of the log that cannot.
    pub salvage: bool,
}

/// A store in one file.
pub struct EmbeddedStore<M: Medium = FileMedium> {
    medium: M,
    /// None after an error, until the next call.
    opened: Option<Opened>,
    /// Whether it ever was: how an earlier process left the file is told once.
    was_opened: bool,
    /// Whether what was there when it was opened is kept under another name.
    has_copy: bool,
}

struct Opened {
    database: Database,
    head: Head,
}

impl EmbeddedStore {
    /// Opens the file, or makes it, and its folder with it. No other process can open it until this is dropped.
    ///
    /// # Errors
    /// [`InUse`](StoreError::InUse), [`Denied`](StoreError::Denied), [`Full`](StoreError::Full),
    /// [`Foreign`](StoreError::Foreign), [`NewerFormat`](StoreError::NewerFormat), [`Io`](StoreError::Io), and without
    /// `salvage` [`Damaged`](StoreError::Damaged); with it only if nothing can be read at all.
    pub fn open(path: &Path, options: EmbeddedOptions) -> Result<Self, StoreError> {
        creation::create(path)?;
        let opened = if options.salvage { Self::open_or_salvage(path) } else { Self::open_whole(path) };
        if opened.is_ok() {
            creation::sweep(path);
        }
        opened
    }

    fn open_whole(path: &Path) -> Result<Self, StoreError> {
        Self::over(FileMedium::new(path)).map_err(|error| salvage::located(error, path))
    }

    fn open_or_salvage(path: &Path) -> Result<Self, StoreError> {
        let open = || Self::over(FileMedium::new(path));
        match open().and_then(|mut store| store.load().map(|_| store)) {
            Err(StoreError::Damaged { position, reason, .. }) => {
                tracing::warn!(file = %path.display(), position, reason, "the state is damaged; salvaging it");
                salvage::salvage(path)?;
                let mut store = open()?;
                store.has_copy = true;
                Ok(store)
            }
            other => other,
        }
    }
}

impl<M: Medium> EmbeddedStore<M> {
    /// Opens what a medium holds; an empty one is begun.
    ///
    /// # Errors
    /// As [`open`](EmbeddedStore::open).
    pub fn over(medium: M) -> Result<Self, StoreError> {
        let mut store = Self { medium, opened: None, was_opened: false, has_copy: false };
        store.reopen()?;
        Ok(store)
    }

    fn reopen(&mut self) -> Result<&mut Opened, StoreError> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => open(&mut self.medium, !self.was_opened)?,
        };
        self.was_opened = true;
        Ok(self.opened.insert(opened))
    }

    /// What is open, if that epoch owns it.
    fn owned(&mut self, epoch: Epoch) -> Result<&mut Opened, StoreError> {
        if !self.medium.is_in_place() {
            tracing::error!(
                file = %self.medium.path().display(),
                "the state was moved, replaced or removed while it was in use; it belongs to another coordinator now"
            );
            return Err(StoreError::Fenced { own: epoch, current: Epoch(epoch.0 + 1) });
        }
        let opened = self.reopen()?;
        let current = opened.head.epoch;
        if current != epoch {
            return Err(StoreError::Fenced { own: epoch, current });
        }
        Ok(opened)
    }

    /// What is open, if that epoch owns it and the log ends where it is expected to.
    fn at(&mut self, epoch: Epoch, expected: u64) -> Result<&mut Opened, StoreError> {
        let opened = self.owned(epoch)?;
        let actual = opened.head.position;
        if actual != expected {
            return Err(StoreError::Gap { expected, actual });
        }
        Ok(opened)
    }

    /// One transaction, after which the head is this one.
    fn commit(
        &mut self,
        head: Head,
        change: impl FnOnce(&WriteTransaction) -> Result<(), Failure>,
    ) -> Result<(), StoreError> {
        let opened = self.reopen()?;
        let before = opened.head;
        let is_committing = Cell::new(false);
        let done = contained(|| {
            let transaction = opened.database.begin_write()?;
            change(&transaction)?;
            transaction.open_table(HEAD)?.insert(HEAD_KEY, head.encode().as_slice())?;
            is_committing.set(true);
            Ok(transaction.commit()?)
        });
        let Err(failure) = done else {
            opened.head = head;
            return Ok(());
        };
        // redb takes nothing more after an error of its file.
        self.close();
        if !is_committing.get() {
            return Err(failure.before_commit(self.medium.path()));
        }
        if failure.is_full() && self.reopen().is_ok_and(|opened| opened.head == before) {
            return Err(failure.before_commit(self.medium.path()));
        }
        Err(StoreError::Unknown { reason: failure.to_string() })
    }

    fn close(&mut self) {
        if let Some(Opened { database, .. }) = self.opened.take()
            && let Err(failure) = contained(|| Ok(database.close()?))
        {
            tracing::debug!(file = %self.medium.path().display(), %failure, "the state was not closed properly");
        }
    }
}

impl<M: Medium> Drop for EmbeddedStore<M> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<M: Medium> Store for EmbeddedStore<M> {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        let mut head = self.reopen()?.head;
        head.epoch = Epoch(head.epoch.0 + 1);
        self.commit(head, |_| Ok(()))?;
        Ok(head.epoch)
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        let Opened { database, head } = self.reopen()?;
        let head = *head;
        let loaded = contained(|| reader::load(database, head));
        loaded.map_err(|failure| {
            self.close();
            failure.on_opening(self.medium.path())
        })
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        let mut head = self.at(epoch, expected)?.head;
        if batch.is_empty() {
            return Ok(());
        }
        head.position += batch.len() as u64;
        self.commit(head, |transaction| layout::fill(transaction, Part::Log, expected, batch))
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        let mut head = self.at(epoch, position)?.head;
        head.base = position;
        head.snapshot = records.len() as u64;
        self.commit(head, |transaction| {
            transaction.delete_table(LOG)?;
            transaction.delete_table(SNAPSHOT)?;
            transaction.open_table(LOG)?;
            layout::fill(transaction, Part::Snapshot, 0, records)
        })
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        Ok(self.owned(epoch)?.head.position)
    }

    fn keep_copy(&mut self) -> Result<(), StoreError> {
        if self.has_copy {
            return Ok(());
        }
        // Open, it is locked: nobody else writes while it is copied, and between commits it is whole.
        self.reopen()?;
        if let Some(copy) = self.medium.keep_copy()? {
            tracing::warn!(copy = %copy.display(), "the state is kept as it was, under another name");
        }
        self.has_copy = true;
        Ok(())
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// Opens what a medium holds, for the first time or again after an error.
fn open<M: Medium>(medium: &mut M, is_first: bool) -> Result<Opened, StoreError> {
    let backend = medium.open()?;
    let path = medium.path();
    let shape = Header::read(&backend).map_err(|failure| failure.on_opening(path))?;
    let header = match shape {
        Shape::Empty => {
            let head = Head::default();
            let database = contained(|| begin(backend, head)).map_err(|failure| failure.on_opening(path))?;
            return Ok(Opened { database, head });
        }
        Shape::Other(reason) => {
            return Err(StoreError::Foreign { path: path.to_owned(), reason: reason.to_owned() });
        }
        Shape::Redb(header) => header,
    };
    header.check(path)?;
    let opened = contained(|| {
        let database = builder().create_with_backend(backend)?;
        let head = reader::head(&database)?;
        Ok(Opened { database, head })
    });
    let opened = opened.map_err(|failure| failure.on_opening(path))?;
    // After an error it always was, by this process.
    if header.was_left_open && is_first {
        tracing::warn!(
            file = %path.display(),
            position = opened.head.position,
            "the state was not closed properly; it was cut to its last whole commit"
        );
    }
    Ok(opened)
}

/// Begins a database in an empty place.
fn begin(backend: impl StorageBackend, head: Head) -> Result<Database, Failure> {
    let database = builder().create_with_backend(backend)?;
    let transaction = database.begin_write()?;
    transaction.open_table(LOG)?;
    transaction.open_table(SNAPSHOT)?;
    transaction.open_table(HEAD)?.insert(HEAD_KEY, head.encode().as_slice())?;
    transaction.commit()?;
    Ok(database)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // Without its check of every page redb trusts a file that was closed properly, and may panic on a damaged one.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}
