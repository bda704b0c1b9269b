//! A store that fails at the calls it is told to, in each way a store can.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lintmesh::store::{Loaded, Record, Store, StoreError};
use lintmesh::types::Epoch;

use super::stores::Place;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused; nothing is done.
    Unreachable,
    /// It is refused; nothing is done.
    Full,
    /// It takes its time.
    Late,
    /// Nothing is done, and it does not say so.
    UnknownUndone,
    /// It is done, and it does not say so.
    UnknownDone,
    /// The process ends before it is done.
    CrashBefore,
    /// The process ends when it is done, before anybody hears of it.
    CrashAfter,
}

impl Fault {
    pub(crate) const ALL: [Fault; 7] = [
        Fault::Unreachable,
        Fault::Full,
        Fault::Late,
        Fault::UnknownUndone,
        Fault::UnknownDone,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ];
}

/// Which calls fail, and how many there were, of all stores that share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Vec<&'static str>,
    planned: Vec<(usize, Fault)>,
    full: bool,
}

impl Faults {
    /// These calls fail, counted from 0.
    pub(crate) fn at(planned: &[(usize, Fault)]) -> Self {
        let inner = Inner { planned: planned.to_vec(), ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.inner.lock().expect("no panic").calls.clone()
    }

    /// Whether there is no room for anything from now on.
    pub(crate) fn fill(&self, full: bool) {
        self.inner.lock().expect("no panic").full = full;
    }

    fn next(&self, call: &'static str) -> Option<Fault> {
        let mut inner = self.inner.lock().expect("no panic");
        let at = inner.calls.len();
        inner.calls.push(call);
        let planned = inner.planned.iter().find(|(planned, _)| *planned == at).map(|(_, fault)| *fault);
        planned.or_else(|| (inner.full && call == "append").then_some(Fault::Full))
    }
}

/// A store that fails as planned.
pub(crate) struct FaultyStore<S> {
    /// None after a crash.
    inner: Option<S>,
    faults: Faults,
}

impl<S: Store> FaultyStore<S> {
    pub(crate) fn open<P: Place<Store = S>>(place: &P, faults: &Faults) -> Result<Self, StoreError> {
        Ok(Self { inner: Some(place.open()?), faults: faults.clone() })
    }

    fn call<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut S) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let crashed = || Err(StoreError::Io { path: PathBuf::new(), source: io::Error::other("crashed") });
        let Some(inner) = &mut self.inner else { return crashed() };
        let reason = || "as planned".to_owned();
        match self.faults.next(name) {
            None => call(inner),
            Some(Fault::Unreachable) => Err(StoreError::Unavailable { reason: reason() }),
            Some(Fault::Full) => Err(StoreError::Full { place: reason() }),
            Some(Fault::Late) => {
                // Any time at all: the caller must not depend on it.
                thread::sleep(Duration::from_millis(3));
                call(inner)
            }
            Some(Fault::UnknownUndone) => Err(StoreError::Unknown { reason: reason() }),
            Some(Fault::UnknownDone) => {
                call(inner)?;
                Err(StoreError::Unknown { reason: reason() })
            }
            Some(Fault::CrashBefore) => {
                self.inner = None;
                crashed()
            }
            Some(Fault::CrashAfter) => {
                call(inner)?;
                self.inner = None;
                crashed()
            }
        }
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn open_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.call("open_epoch", S::open_epoch)
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.call("load", S::load)
    }

    fn append(&mut self, epoch: Epoch, expected: u64, batch: &[Record]) -> Result<(), StoreError> {
        self.call("append", |store| store.append(epoch, expected, batch))
    }

    fn snapshot(&mut self, epoch: Epoch, position: u64, records: &[Record]) -> Result<(), StoreError> {
        self.call("snapshot", |store| store.snapshot(epoch, position, records))
    }

    fn position(&mut self, epoch: Epoch) -> Result<u64, StoreError> {
        self.call("position", |store| store.position(epoch))
    }

    fn is_durable(&self) -> bool {
        self.inner.as_ref().is_some_and(S::is_durable)
    }

    fn blocks(&self) -> bool {
        self.inner.as_ref().is_some_and(S::blocks)
    }
}
