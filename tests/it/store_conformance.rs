//! Every store keeps what it was given, in order, whole, and for its owner only.
//!
//! The same tests for each implementation. What they hold it to is what [`Store`] promises; none knows where it is.

use lintmesh::store::{Loaded, MemoryLog, Record, Store, StoreError};
use lintmesh::types::Epoch;

use crate::support::stores::{Folder, Place, record, records};

/// A store that was just opened for a new coordinator.
fn begin<P: Place>(place: &P) -> (P::Store, Epoch) {
    let mut store = place.open().expect("opens");
    let epoch = store.open_epoch().expect("opens an epoch");
    (store, epoch)
}

/// What the next coordinator finds.
fn found(place: &impl Place) -> Loaded {
    begin(place).0.load().expect("loads")
}

fn whole(snapshot: Vec<Record>, log: Vec<Record>, position: u64) -> Loaded {
    Loaded { snapshot, log, position }
}

fn a_new_place_is_empty<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    assert_eq!(epoch, Epoch(1));
    assert_eq!(store.load().expect("loads"), Loaded::default());
    assert_eq!(store.position(epoch).expect("answers"), 0);
}

fn records_are_kept_in_order_and_counted<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    let mut end = 0;
    for size in [1, 2, 1, 5, 100] {
        store.append(epoch, end, &records(end..end + size)).expect("appends");
        end += size;
        assert_eq!(store.position(epoch).expect("answers"), end);
    }
    assert_eq!(store.load().expect("loads"), whole(vec![], records(0..end), end), "what was just written");
    drop(store);
    assert_eq!(found(&place), whole(vec![], records(0..end), end));
    assert_eq!(found(&place), whole(vec![], records(0..end), end), "and once more");
}

fn what_is_appended_elsewhere_than_at_the_end_is_refused_whole<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    store.append(epoch, 0, &records(0..3)).expect("appends");
    for wrong in [0, 2, 4, u64::MAX] {
        for batch in [records(0..1), records(7..9), vec![]] {
            match store.append(epoch, wrong, &batch) {
                Err(StoreError::Gap { expected, actual }) => assert_eq!((expected, actual), (wrong, 3)),
                other => panic!("{other:?}"),
            }
        }
        match store.snapshot(epoch, wrong, &records(7..9)) {
            Err(StoreError::Gap { expected, actual }) => assert_eq!((expected, actual), (wrong, 3)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.position(epoch).expect("answers"), 3);
    store.append(epoch, 3, &[record(3)]).expect("goes on");
    drop(store);
    assert_eq!(found(&place), whole(vec![], records(0..4), 4));
}

fn an_empty_batch_changes_nothing<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    store.append(epoch, 0, &[]).expect("appends nothing");
    store.append(epoch, 0, &[record(0)]).expect("appends");
    store.append(epoch, 1, &[]).expect("appends nothing");
    assert_eq!(store.position(epoch).expect("answers"), 1);
    drop(store);
    assert_eq!(found(&place), whole(vec![], records(0..1), 1));
}

fn the_epoch_rises_with_every_start<P: Place>() {
    let place = P::new();
    let mut last = Epoch(0);
    for start in 0..5 {
        let (mut store, epoch) = begin(&place);
        assert!(epoch > last, "{epoch:?} after {last:?}");
        last = epoch;
        if start % 2 == 0 {
            let position = store.position(epoch).expect("answers");
            store.append(epoch, position, &[record(position)]).expect("appends");
        }
        if start == 3 {
            store.snapshot(epoch, 2, &[]).expect("takes a snapshot");
        }
    }
    let (mut store, first) = begin(&place);
    let second = store.open_epoch().expect("opens another epoch");
    assert!(second > first && first > last, "also without being opened anew");
    assert!(matches!(store.append(first, 3, &[]), Err(StoreError::Fenced { .. })));
}

fn only_the_newest_epoch_can_do_anything<P: Place>() {
    let place = P::new();
    let (mut old, old_epoch) = begin(&place);
    old.append(old_epoch, 0, &records(0..2)).expect("appends");
    let second = place.open();
    let (mut old, mut new, new_epoch) = if P::IS_SHARED {
        let mut new = second.expect("opens");
        assert_eq!(old.position(old_epoch).expect("still its own"), 2, "to open takes nothing from anybody");
        let new_epoch = new.open_epoch().expect("opens an epoch");
        (Some(old), new, new_epoch)
    } else {
        assert!(matches!(second, Err(StoreError::InUse { .. })), "another owner");
        old.append(old_epoch, 2, &[]).expect("the first does not notice");
        drop(old);
        let (new, new_epoch) = begin(&place);
        (None, new, new_epoch)
    };
    assert!(new_epoch > old_epoch);
    let fenced = |done: Result<u64, StoreError>| match done {
        Err(StoreError::Fenced { own, current }) => assert_eq!((own, current), (old_epoch, new_epoch)),
        other => panic!("{other:?}"),
    };
    let attempts = |store: &mut P::Store| {
        fenced(store.append(old_epoch, 2, &[record(7)]).map(|()| 0));
        fenced(store.append(old_epoch, 2, &[]).map(|()| 0));
        fenced(store.append(old_epoch, 9, &[record(7)]).map(|()| 0));
        fenced(store.snapshot(old_epoch, 2, &[record(7)]).map(|()| 0));
        fenced(store.position(old_epoch));
    };
    if let Some(old) = &mut old {
        attempts(old);
    }
    attempts(&mut new);
    let later = Epoch(new_epoch.0 + 1);
    assert!(matches!(new.append(later, 2, &[record(7)]), Err(StoreError::Fenced { .. })), "nobody's yet");
    new.append(new_epoch, 2, &[record(2)]).expect("appends");
    drop((old, new));
    assert_eq!(found(&place), whole(vec![], records(0..3), 3));
}

fn a_snapshot_stands_for_what_was_before<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    store.append(epoch, 0, &records(0..10)).expect("appends");
    store.snapshot(epoch, 10, &records(100..103)).expect("takes a snapshot");
    assert_eq!(store.position(epoch).expect("answers"), 10, "positions go on");
    assert_eq!(store.load().expect("loads"), whole(records(100..103), vec![], 10));
    store.append(epoch, 10, &records(10..12)).expect("appends");
    drop(store);
    assert_eq!(found(&place), whole(records(100..103), records(10..12), 12));
    let (mut store, epoch) = begin(&place);
    store.snapshot(epoch, 12, &records(200..201)).expect("takes another");
    store.snapshot(epoch, 12, &records(300..305)).expect("and another of the same");
    store.append(epoch, 12, &records(12..13)).expect("appends");
    drop(store);
    assert_eq!(found(&place), whole(records(300..305), records(12..13), 13));
    let (mut store, epoch) = begin(&place);
    store.snapshot(epoch, 13, &[]).expect("takes one of nothing");
    drop(store);
    assert_eq!(found(&place), whole(vec![], vec![], 13));
}

fn a_snapshot_of_an_empty_log_is_kept<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    store.snapshot(epoch, 0, &records(0..2)).expect("takes a snapshot");
    drop(store);
    assert_eq!(found(&place), whole(records(0..2), vec![], 0));
}

fn bytes_and_versions_are_not_looked_at<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    let versions = [0, 1, 255, 256, u16::MAX];
    let contents = [vec![], vec![0], vec![0xff; 3], (0..=255).collect(), b"{\"not\": json".to_vec()];
    let every: Vec<Record> = versions
        .into_iter()
        .flat_map(|version| contents.clone().map(|bytes| Record { version, bytes }))
        .collect();
    store.append(epoch, 0, &every).expect("appends");
    drop(store);
    let end = every.len() as u64;
    assert_eq!(found(&place), whole(vec![], every.clone(), end));
    let (mut store, epoch) = begin(&place);
    store.snapshot(epoch, end, &every).expect("takes a snapshot");
    drop(store);
    assert_eq!(found(&place), whole(every, vec![], end));
}

fn large_records_are_kept<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    let large = |seed: usize, size: usize| Record {
        version: 1,
        bytes: (0..size).map(|at| ((at * 31 + seed) % 251) as u8).collect(),
    };
    let batch = [large(1, 1 << 20), record(1), large(2, (4 << 20) + 1), large(3, 4096)];
    store.append(epoch, 0, &batch).expect("appends");
    store.append(epoch, 4, &[record(4)]).expect("goes on");
    drop(store);
    let mut all = batch.to_vec();
    all.push(record(4));
    assert_eq!(found(&place), whole(vec![], all.clone(), 5));
    let (mut store, epoch) = begin(&place);
    store.snapshot(epoch, 5, &all).expect("takes a snapshot");
    drop(store);
    assert_eq!(found(&place), whole(all, vec![], 5));
}

fn many_records_are_kept<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    let (batch, all) = (250, 5_000);
    for first in (0..all).step_by(batch) {
        let end = first + batch as u64;
        store.append(epoch, first, &records(first..end)).expect("appends");
    }
    drop(store);
    assert_eq!(found(&place), whole(vec![], records(0..all), all));
    let (mut store, epoch) = begin(&place);
    store.snapshot(epoch, all, &records(0..all)).expect("takes a snapshot");
    drop(store);
    assert_eq!(found(&place), whole(records(0..all), vec![], all));
}

fn to_open_and_close_changes_nothing<P: Place>() {
    let place = P::new();
    let (mut store, epoch) = begin(&place);
    store.append(epoch, 0, &records(0..2)).expect("appends");
    drop(store);
    drop(place.open().expect("opens"));
    let mut store = place.open().expect("opens");
    assert_eq!(store.position(epoch).expect("no new epoch was opened"), 2);
    store.append(epoch, 2, &records(2..3)).expect("it is still the owner");
    drop(store);
    assert_eq!(found(&place), whole(vec![], records(0..3), 3));
}

macro_rules! conformance {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[test] fn $promise() { super::$promise::<MemoryLog>(); })*
        }
        mod embedded {
            use super::*;
            $(#[test] fn $promise() { super::$promise::<Folder>(); })*
        }
    };
}

conformance! {
    a_new_place_is_empty,
    records_are_kept_in_order_and_counted,
    what_is_appended_elsewhere_than_at_the_end_is_refused_whole,
    an_empty_batch_changes_nothing,
    the_epoch_rises_with_every_start,
    only_the_newest_epoch_can_do_anything,
    a_snapshot_stands_for_what_was_before,
    a_snapshot_of_an_empty_log_is_kept,
    bytes_and_versions_are_not_looked_at,
    large_records_are_kept,
    many_records_are_kept,
    to_open_and_close_changes_nothing,
}
