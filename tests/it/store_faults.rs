//! Whatever a store's call comes to, and whichever call: a caller that follows the remedies loses nothing and stores
//! nothing twice, and so does the engine.

use lintmesh::store::{Loaded, MemoryLog, Record, Remedy, Store, StoreError};
use lintmesh::types::Epoch;

use crate::support::decisions::{Script, play};
use crate::support::faulty_store::{Fault, Faults, FaultyStore};
use crate::support::stores::{Folder, Place, records};

/// A caller that follows the remedies.
struct Caller<P: Place> {
    place: P,
    faults: Faults,
    store: FaultyStore<P::Store>,
    epoch: Epoch,
    /// What it knows to be stored.
    held: Loaded,
}

impl<P: Place> Caller<P> {
    fn new(place: P, faults: Faults) -> Self {
        let store = FaultyStore::open(&place, &faults).expect("opens");
        let mut caller = Self { place, faults, store, epoch: Epoch(0), held: Loaded::default() };
        caller.start(&[]);
        caller
    }

    /// Starts as a coordinator does: as often as it takes. What is found is what is known, or one of these.
    fn start(&mut self, or: &[Loaded]) {
        for _ in 0..5 {
            let opened = self.store.open_epoch().and_then(|epoch| Ok((epoch, self.store.load()?)));
            match opened {
                Ok((epoch, loaded)) => {
                    assert!(epoch > self.epoch, "{epoch:?} after {:?}", self.epoch);
                    assert!(loaded == self.held || or.contains(&loaded), "{loaded:?}");
                    (self.epoch, self.held) = (epoch, loaded);
                    return;
                }
                Err(error) if error.remedy() == Remedy::Stop => self.reopen(),
                Err(_) => {}
            }
        }
        panic!("it does not start");
    }

    /// What a new process does. The store of the old one is gone first.
    fn reopen(&mut self) {
        let (place, faults) = (self.place.clone(), self.faults.clone());
        let nowhere = FaultyStore::open(&P::new(), &Faults::default()).expect("opens");
        drop(std::mem::replace(&mut self.store, nowhere));
        self.store = FaultyStore::open(&place, &faults).expect("opens");
    }

    /// Makes a change, once.
    fn make(
        &mut self,
        change: impl Fn(&mut FaultyStore<P::Store>, Epoch, u64) -> Result<(), StoreError>,
        after: Loaded,
    ) {
        let before = self.held.position;
        let mut is_asking = false;
        for _ in 0..8 {
            let done = if is_asking {
                self.store.position(self.epoch).map(|position| (position == after.position).then_some(()))
            } else {
                change(&mut self.store, self.epoch, before).map(Some)
            };
            match done {
                Ok(Some(())) => {
                    self.held = after;
                    return;
                }
                Ok(None) => is_asking = false,
                Err(error) => match error.remedy() {
                    Remedy::Retry => {}
                    Remedy::Ask => is_asking = true,
                    Remedy::Stop => {
                        self.reopen();
                        self.start(std::slice::from_ref(&after));
                        if self.held == after {
                            return;
                        }
                        is_asking = false;
                    }
                },
            }
        }
        panic!("it is never done");
    }

    fn append(&mut self, batch: Vec<Record>) {
        let mut after = self.held.clone();
        after.position += batch.len() as u64;
        after.log.extend_from_slice(&batch);
        self.make(move |store, epoch, position| store.append(epoch, position, &batch), after);
    }

    /// A snapshot that was taken or not leaves an equal state, so nobody asks; it is simply repeated.
    fn snapshot(&mut self, snapshot: Vec<Record>) {
        let after = Loaded { snapshot: snapshot.clone(), log: vec![], position: self.held.position };
        let (held, is_taken) = (self.held.clone(), |loaded: &Loaded| *loaded == after);
        for _ in 0..5 {
            let done = self.store.snapshot(self.epoch, held.position, &snapshot);
            match done.map_err(|error| error.remedy()) {
                Ok(()) => {
                    self.held = after;
                    return;
                }
                Err(Remedy::Stop) => {
                    self.reopen();
                    self.start(std::slice::from_ref(&after));
                    if is_taken(&self.held) {
                        return;
                    }
                }
                Err(Remedy::Retry | Remedy::Ask) => {}
            }
        }
        panic!("it is never taken");
    }
}

/// Some life of a store; the calls it took.
fn live<P: Place>(faults: &Faults) -> Vec<&'static str> {
    let place = P::new();
    let mut caller = Caller::new(place.clone(), faults.clone());
    caller.append(records(0..3));
    caller.append(records(3..4));
    caller.snapshot(records(10..12));
    caller.append(records(4..6));
    caller.reopen();
    caller.start(&[]);
    caller.append(records(6..7));
    let calls = faults.calls();
    assert_eq!(caller.held, Loaded { snapshot: records(10..12), log: records(4..7), position: 7 });
    drop(caller.store);
    let mut store = place.open().expect("opens");
    assert_eq!(store.load().expect("loads"), caller.held);
    calls
}

/// Each fault at each call, and after each call whose outcome is unknown each fault at the question for it.
fn plans(calls: usize, with_second: bool) -> Vec<Vec<(usize, Fault)>> {
    let mut plans = Vec::new();
    for at in 0..calls {
        for fault in Fault::ALL {
            plans.push(vec![(at, fault)]);
            if with_second && matches!(fault, Fault::UnknownDone | Fault::UnknownUndone) {
                plans.extend(Fault::ALL.map(|second| vec![(at, fault), (at + 1, second)]));
            }
        }
    }
    plans
}

fn a_caller_loses_nothing<P: Place>(with_second: bool) {
    let calls = live::<P>(&Faults::default());
    for call in ["open_epoch", "load", "append", "snapshot"] {
        assert!(calls.contains(&call), "{call} is among {calls:?}");
    }
    for plan in plans(calls.len(), with_second) {
        let faults = Faults::at(&plan);
        live::<P>(&faults);
        assert!(faults.calls().len() > plan[0].0, "{plan:?} came to be");
    }
}

#[test]
fn a_caller_that_follows_the_remedies_loses_nothing_in_memory() {
    a_caller_loses_nothing::<MemoryLog>(true);
}

#[test]
fn a_caller_that_follows_the_remedies_loses_nothing_in_a_file() {
    a_caller_loses_nothing::<Folder>(false);
}

async fn the_engine_loses_nothing<P: Place>(with_second: bool) {
    let undisturbed = Script::<P>::new(&Faults::default());
    let calls = play(undisturbed).await;
    for call in ["open_epoch", "load", "append", "snapshot"] {
        assert!(calls.contains(&call), "{call} is among {calls:?}");
    }
    for plan in plans(calls.len(), with_second) {
        let seen = play(Script::<P>::new(&Faults::at(&plan))).await;
        assert!(seen.len() > plan[0].0, "{plan:?} came to be");
        if matches!(plan[..], [(at, Fault::UnknownDone | Fault::UnknownUndone)] if calls[at] == "append") {
            assert!(seen.contains(&"position"), "{plan:?}: the engine asks");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_engine_stores_each_decision_it_answered_once_in_memory() {
    the_engine_loses_nothing::<MemoryLog>(true).await;
}

#[tokio::test(start_paused = true)]
async fn the_engine_stores_each_decision_it_answered_once_in_a_file() {
    the_engine_loses_nothing::<Folder>(false).await;
}
