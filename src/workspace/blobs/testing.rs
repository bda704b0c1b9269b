//! A folder of objects that fails when it is told to, and notes what is synced.

use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::LocalObjects;
use super::objects::{ObjectError, Objects, Staged, Stored};
use crate::types::Digest;

/// The folder.
pub(crate) struct Faulty {
    inner: LocalObjects,
    faults: Faults,
}

/// Tells it to fail.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Inner>);

#[derive(Default)]
struct Inner {
    full: AtomicBool,
    fails_syncs: AtomicBool,
    /// Held while nothing is synced.
    syncs: Mutex<()>,
    synced: Mutex<Vec<Vec<Digest>>>,
}

impl Faulty {
    pub(crate) fn open(dir: &Path) -> (Self, Faults) {
        let faults = Faults::default();
        (Self { inner: LocalObjects::open(dir).expect("opened"), faults: faults.clone() }, faults)
    }
}

impl Faults {
    /// Whether there is no room for another object.
    pub(crate) fn fill(&self, full: bool) {
        self.0.full.store(full, Ordering::SeqCst);
    }

    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.0.fails_syncs.store(fail, Ordering::SeqCst);
    }

    /// Nothing is synced until the guard is gone.
    pub(crate) fn hold_syncs(&self) -> MutexGuard<'_, ()> {
        self.0.syncs.lock().expect("not poisoned")
    }

    /// What was synced since it was last asked, call by call.
    pub(crate) fn synced(&self) -> Vec<Vec<Digest>> {
        std::mem::take(&mut *self.0.synced.lock().expect("not poisoned"))
    }
}

impl Objects for Faulty {
    fn stage(&self) -> Result<Box<dyn Staged>, ObjectError> {
        match self.faults.0.full.load(Ordering::SeqCst) {
            true => Err(ObjectError::Full { place: self.place() }),
            false => self.inner.stage(),
        }
    }

    fn open(&self, name: &Digest) -> Result<Option<Box<dyn Read + Send>>, ObjectError> {
        self.inner.open(name)
    }

    fn delete(&self, name: &Digest) -> Result<(), ObjectError> {
        self.inner.delete(name)
    }

    fn list(&self) -> Result<Vec<Stored>, ObjectError> {
        self.inner.list()
    }

    fn make_durable(&self, names: &[Digest]) -> Result<(), ObjectError> {
        drop(self.faults.hold_syncs());
        self.faults.0.synced.lock().expect("not poisoned").push(names.to_vec());
        match self.faults.0.fails_syncs.load(Ordering::SeqCst) {
            true => Err(ObjectError::Failed { place: self.place(), source: io::Error::other("as a test") }),
            false => self.inner.make_durable(names),
        }
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}
