//! Whatever the disk does to what was not synced: what a store said is stored is there, what it was storing is there whole
//! or not at all, and nothing else is.

use std::io::ErrorKind;

use lintmesh::store::{EmbeddedStore, Loaded, Record, Remedy, Store, StoreError};
use lintmesh::types::Epoch;

use crate::support::captured_logs::logs_of;
use crate::support::disk::{Dice, Disk};
use crate::support::stores::records;

/// Each is a disk that loses power several times.
const SEEDS: u64 = 60;
const CUTS: u64 = 6;

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    epoch: Epoch,
    loaded: Loaded,
}

impl Held {
    fn of(store: &mut impl Store, among: &[&Held]) -> Self {
        // The store tells an owner only; so the epoch is the one that is the owner's.
        let owner = among.iter().find(|held| store.position(held.epoch).is_ok());
        let epoch = owner.unwrap_or_else(|| panic!("none of {among:?} owns it")).epoch;
        Self { epoch, loaded: store.load().expect("loads") }
    }
}

/// A change, and what the store holds after it.
enum Change {
    Epoch,
    Append(Vec<Record>),
    Snapshot(Vec<Record>),
}

impl Change {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(12) {
            0 => Change::Epoch,
            1 => Change::Snapshot(drawn(dice)),
            _ => Change::Append(drawn(dice)),
        }
    }

    fn after(&self, held: &Held) -> Held {
        let mut after = held.clone();
        match self {
            Change::Epoch => after.epoch.0 += 1,
            Change::Append(batch) => {
                after.loaded.position += batch.len() as u64;
                after.loaded.log.extend_from_slice(batch);
            }
            Change::Snapshot(records) => {
                after.loaded.snapshot.clone_from(records);
                after.loaded.log.clear();
            }
        }
        after
    }

    fn make(&self, store: &mut impl Store, held: &Held) -> Result<(), StoreError> {
        let (epoch, position) = (held.epoch, held.loaded.position);
        match self {
            Change::Epoch => store.open_epoch().map(|new| assert_eq!(new.0, epoch.0 + 1)),
            Change::Append(batch) => store.append(epoch, position, batch),
            Change::Snapshot(records) => store.snapshot(epoch, position, records),
        }
    }
}

/// Some records, mostly small.
fn drawn(dice: &mut Dice) -> Vec<Record> {
    let count = 1 + dice.below(20);
    (0..count)
        .map(|_| {
            let size = if dice.is(5) { dice.below(40_000) } else { dice.below(300) };
            let fill = dice.next() as u8;
            Record { version: dice.next() as u16, bytes: vec![fill; size as usize] }
        })
        .collect()
}

fn open(disk: &Disk, seed: u64) -> EmbeddedStore<Disk> {
    EmbeddedStore::over(disk.clone()).unwrap_or_else(|error| panic!("seed {seed}: {error}"))
}

#[test]
fn after_a_power_cut_the_store_is_at_its_last_whole_commit() {
    let (mut whole, mut absent) = (0, 0);
    for seed in 0..SEEDS {
        let (disk, mut dice) = (Disk::new(seed), Dice::new(seed ^ 0x5eed));
        let mut store = open(&disk, seed);
        let mut held = Held::default();
        for cut in 0..CUTS {
            disk.cut_power_after(dice.below(120));
            let (attempted, error) = loop {
                let change = Change::draw(&mut dice);
                match change.make(&mut store, &held) {
                    Ok(()) => held = change.after(&held),
                    Err(error) => break (change.after(&held), error),
                }
            };
            drop(store);
            disk.restore_power();
            store = open(&disk, seed);
            let found = Held::of(&mut store, &[&held, &attempted]);
            let may_be_there = error.remedy() == Remedy::Ask;
            if found == held {
                absent += 1;
            } else {
                assert!(may_be_there && found == attempted, "seed {seed}, cut {cut}, after {error}");
                whole += 1;
                held = attempted;
            }
        }
    }
    assert!(whole > 5 && absent > 5, "both must be seen to happen: {whole} whole, {absent} absent");
}

#[test]
fn an_error_of_the_disk_is_survived_by_opening_the_file_anew() {
    let (mut told, mut done) = (0, 0);
    for seed in 0..40 {
        let (disk, mut dice) = (Disk::new(seed), Dice::new(seed ^ 0xbad));
        let mut store = open(&disk, seed);
        let mut held = Held { epoch: store.open_epoch().expect("opens"), ..Held::default() };
        for step in 0..25 {
            let change = Change::draw(&mut dice);
            let attempted = change.after(&held);
            disk.fail_after(dice.below(12), ErrorKind::Other);
            let outcome = change.make(&mut store, &held);
            let has_failed = disk.mend();
            match outcome {
                Ok(()) => held = attempted,
                Err(error) => {
                    assert!(has_failed, "seed {seed}, step {step}: {error}");
                    told += 1;
                    let found = Held::of(&mut store, &[&held, &attempted]);
                    if found != held {
                        assert!(error.remedy() == Remedy::Ask && found == attempted, "seed {seed}: {error}");
                        done += 1;
                        held = attempted;
                    }
                }
            }
            if dice.is(20) {
                // What was settled must be as good as what was said.
                drop(store);
                disk.cut_power_after(0);
                disk.restore_power();
                store = open(&disk, seed);
                assert_eq!(Held::of(&mut store, &[&held]), held, "seed {seed}, step {step}");
            }
        }
    }
    assert!(told > 100 && done > 0, "{told} errors, {done} of them of something that was done");
}

#[test]
fn a_full_disk_takes_nothing_and_goes_on_when_there_is_room() {
    for room in 0..60 {
        let disk = Disk::new(room);
        let mut store = open(&disk, room);
        let epoch = store.open_epoch().expect("opens");
        store.append(epoch, 0, &records(0..50)).expect("appends");
        disk.limit(Some(room as usize));
        let large = vec![Record { version: 1, bytes: vec![7; 60_000] }; 5];
        let told = logs_of(|| {
            for _ in 0..3 {
                match store.append(epoch, 50, &large) {
                    Err(StoreError::Full { place }) => assert_eq!(place, "disk"),
                    other => panic!("room for {room} blocks: {other:?}"),
                }
                assert_eq!(store.position(epoch).expect("answers"), 50, "nothing was stored");
            }
        });
        assert_eq!(told, "", "no earlier process left it open");
        match store.snapshot(epoch, 50, &large) {
            Err(StoreError::Full { .. }) => {}
            other => panic!("room for {room} blocks: {other:?}"),
        }
        disk.limit(None);
        store.append(epoch, 50, &records(50..60)).expect("there is room");
        drop(store);
        disk.cut_power_after(0);
        disk.restore_power();
        let loaded = open(&disk, room).load().expect("loads");
        assert_eq!(loaded, Loaded { snapshot: vec![], log: records(0..60), position: 60 });
    }
}

#[test]
fn a_batch_is_one_commit_that_writes_about_what_it_holds() {
    let disk = Disk::new(0);
    let mut store = open(&disk, 0);
    let epoch = store.open_epoch().expect("opens");
    let batch: Vec<Record> = (0..256).map(|_| Record { version: 1, bytes: vec![b'x'; 200] }).collect();
    let held: usize = batch.iter().map(|record| record.bytes.len()).sum();
    let appends = 100;
    let before = disk.counts();
    for append in 0..appends {
        store.append(epoch, append * 256, &batch).expect("appends");
    }
    let after = disk.counts();
    let syncs = after.syncs - before.syncs;
    assert!(
        (appends..appends * 5 / 4).contains(&syncs),
        "one sync for each batch, and some when the file grows: {syncs}"
    );
    let bytes = (after.bytes - before.bytes) / appends;
    assert!(bytes < 3 * held as u64, "{bytes} bytes written for {held}");
}
