//! A damaged state file is never taken for a whole one, never ends the process, and gives what is left of it when told to.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lintmesh::store::{EmbeddedOptions, EmbeddedStore, Loaded, Record, Store, StoreError};
use lintmesh::types::Epoch;
use redb::{Database, ReadableTable, TableDefinition};
use tempfile::TempDir;

use crate::support::captured_logs::logs_of;
use crate::support::disk::Dice;
use crate::support::stores::{Folder, Place, record, records};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lintmesh.log");

fn open(path: &Path, salvage: bool) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(path, EmbeddedOptions { salvage })
}

fn load(path: &Path, salvage: bool) -> Result<Loaded, StoreError> {
    open(path, salvage)?.load()
}

/// The bytes of a file, and what it holds; also what it held one commit before.
struct Original {
    bytes: Vec<u8>,
    loaded: Loaded,
    before: Loaded,
}

/// A file that was closed, and the same as a crash leaves it.
fn originals() -> [Original; 2] {
    let folder = Folder::new();
    let mut store = folder.open().expect("opens");
    let epoch = store.open_epoch().expect("opens");
    let wide = |number: u64| Record { version: 1, bytes: format!("{number:0>200}").into_bytes() };
    let wide = |numbers: std::ops::Range<u64>| numbers.map(wide).collect::<Vec<_>>();
    store.append(epoch, 0, &wide(0..100)).expect("appends");
    store.snapshot(epoch, 100, &wide(1000..1200)).expect("takes a snapshot");
    for first in (100..400).step_by(50) {
        store.append(epoch, first, &wide(first..first + 50)).expect("appends");
    }
    let before = store.load().expect("loads");
    store.append(epoch, 400, &wide(400..402)).expect("appends");
    let loaded = store.load().expect("loads");
    let left_open = fs::read(folder.path()).expect("reads");
    drop(store);
    let closed = fs::read(folder.path()).expect("reads");
    assert_ne!(left_open[9], closed[9], "redb notes that a file is open");
    // To close a file is a commit too.
    let closed = Original { bytes: closed, before: loaded.clone(), loaded: loaded.clone() };
    [closed, Original { bytes: left_open, loaded, before }]
}

/// Damages what is there.
fn damage(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    let length = damaged.len() as u64;
    match dice.below(5) {
        0 => damaged.truncate(dice.below(length) as usize),
        1 => {
            // A page that was never written, or belongs elsewhere.
            let (from, to) = (dice.below(length / 4096) * 4096, dice.below(length / 4096) * 4096);
            let page = if dice.is(50) { vec![0; 4096] } else { damaged[from as usize..][..4096].to_vec() };
            damaged[to as usize..][..4096].copy_from_slice(&page);
        }
        2 => {
            for _ in 0..=dice.below(3) {
                damaged[dice.below(400) as usize] = dice.next() as u8;
            }
        }
        _ => {
            for _ in 0..=dice.below(8) {
                damaged[dice.below(length) as usize] ^= 1 << dice.below(8);
            }
        }
    }
    damaged
}

/// Those that are more than a place where one was lost.
fn read(records: &[Record]) -> Vec<Record> {
    records.iter().filter(|record| record.version != Record::LOST).cloned().collect()
}

/// Whether `part` are some of the records of `whole`, in its order.
fn is_some_of(part: &[Record], whole: &[Record]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|record| rest.any(|other| other == record))
}

fn copies(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path.parent().expect("a folder")).expect("is there");
    entries.map(|entry| entry.expect("is there").path()).filter(|other| other != path).collect()
}

#[test]
fn damage_anywhere_is_refused_or_harmless_and_can_be_salvaged() {
    let (mut harmless, mut refused, mut salvaged_some, mut lost_all) = (0, 0, 0, 0);
    for original in originals() {
        for seed in 0..150 {
            let mut dice = Dice::new(seed);
            let damaged = damage(&original.bytes, &mut dice);
            let folder = TempDir::new().expect("a folder");
            let path = folder.path().join("state.redb");
            fs::write(&path, &damaged).expect("written");
            match load(&path, false) {
                Ok(loaded) => {
                    let is_whole = [&original.loaded, &original.before].contains(&&loaded);
                    assert!(is_whole, "seed {seed}: what is read is what was written");
                    harmless += 1;
                    continue;
                }
                Err(
                    StoreError::Damaged { .. } | StoreError::Foreign { .. } | StoreError::NewerFormat { .. },
                ) => {
                    refused += 1;
                }
                Err(error) => panic!("seed {seed}: {error:?}"),
            }
            // The attempt to open it may have noted in it that it is open.
            let damaged = fs::read(&path).expect("reads");
            match load(&path, true) {
                Ok(loaded) => {
                    let whole = &original.loaded;
                    assert!(is_some_of(&read(&loaded.log), &whole.log), "seed {seed}");
                    let first = loaded.position - loaded.log.len() as u64;
                    let at_their_places = (first..).zip(&loaded.log).all(|(position, record)| {
                        record.version == Record::LOST || *record == whole.log[(position - 100) as usize]
                    });
                    assert!(at_their_places, "seed {seed}: who reads them sees where some are missing");
                    assert!(is_some_of(&loaded.snapshot, &whole.snapshot), "seed {seed}");
                    // Of what a commit appended that cannot be read at all, one place is kept.
                    let unknown = loaded.log.last().is_some_and(|last| last.version == Record::LOST);
                    let ends = [whole.position, original.before.position];
                    let is_one = |end: &u64| *end == loaded.position || unknown && end + 1 == loaded.position;
                    assert!(ends.iter().any(is_one), "seed {seed}: {}", loaded.position);
                    assert_eq!(load(&path, false).expect("it is whole again"), loaded, "seed {seed}");
                    let copies = copies(&path);
                    let [copy] = copies.as_slice() else { panic!("seed {seed}: {copies:?}") };
                    assert!(copy.to_string_lossy().contains("state.redb.damaged-"), "{copy:?}");
                    assert_eq!(fs::read(copy).expect("reads"), damaged, "seed {seed}: it is kept as it was");
                    salvaged_some += u32::from(!read(&loaded.log).is_empty() || !loaded.snapshot.is_empty());
                }
                Err(
                    StoreError::Damaged { .. } | StoreError::Foreign { .. } | StoreError::NewerFormat { .. },
                ) => {
                    lost_all += 1;
                    let left = fs::read(&path).expect("reads");
                    // To try to open it once more may note that it is open, once more.
                    let changed = left.iter().zip(&damaged).filter(|(left, was)| left != was).count();
                    assert_eq!((left.len(), changed), (damaged.len(), 0), "seed {seed}: it is left alone");
                    let made = copies(&path);
                    assert!(made.is_empty(), "seed {seed}: it is still there itself: {made:?}");
                }
                Err(error) => panic!("seed {seed}: {error:?}"),
            }
        }
    }
    let seen = (harmless, refused, salvaged_some, lost_all);
    assert!(harmless > 10 && refused > 100 && salvaged_some > 50, "all must be seen: {seen:?}");
}

#[test]
fn a_damaged_record_is_named_and_can_be_left_out() {
    type Damage = fn(&Path);
    let changed: Damage = |path| {
        change(path, |table| {
            let mut sealed = table.get(4).expect("reads").expect("is there").value().to_vec();
            *sealed.last_mut().expect("not empty") ^= 1;
            table.insert(4, sealed.as_slice()).expect("put");
        });
    };
    let moved: Damage = |path| {
        change(path, |table| {
            let sealed = table.get(3).expect("reads").expect("is there").value().to_vec();
            table.insert(4, sealed.as_slice()).expect("put");
        });
    };
    let missing: Damage = |path| {
        change(path, |table| drop(table.remove(4).expect("removed")));
    };
    let cases =
        [(changed, "its checksum is wrong"), (moved, "its checksum is wrong"), (missing, "it is missing")];
    for (damage, why) in cases {
        let folder = Folder::new();
        let mut store = folder.open().expect("opens");
        let epoch = store.open_epoch().expect("opens");
        store.append(epoch, 0, &records(0..2)).expect("appends");
        store.snapshot(epoch, 2, &records(100..102)).expect("takes a snapshot");
        store.append(epoch, 2, &records(2..9)).expect("appends");
        drop(store);
        damage(&folder.path());
        match load(&folder.path(), false) {
            Err(StoreError::Damaged { position, reason, .. }) => {
                assert_eq!((position.as_str(), reason.as_str()), ("record 4 of the log", why));
            }
            other => panic!("{other:?}"),
        }
        let mut store = open(&folder.path(), true).expect("salvages");
        let mut left = records(2..9);
        left[2] = Record::lost();
        let whole = Loaded { snapshot: records(100..102), log: left.clone(), position: 9 };
        assert_eq!(store.load().expect("loads"), whole);
        assert_eq!(store.position(epoch).expect("its epoch is known"), 9);
        assert_eq!(store.open_epoch().expect("opens"), Epoch(epoch.0 + 1), "which rises");
        store.append(Epoch(epoch.0 + 1), 9, &[record(9)]).expect("goes on");
        drop(store);
        left.push(record(9));
        let loaded = load(&folder.path(), false).expect("nothing is damaged any more");
        assert_eq!(loaded, Loaded { log: left, position: 10, ..whole });
    }
}

#[test]
fn a_damaged_page_is_told_by_the_records_in_it() {
    let folder = Folder::new();
    let mut store = folder.open().expect("opens");
    let epoch = store.open_epoch().expect("opens");
    let wide = |number: u64| Record { version: 1, bytes: format!("{number:x>3000}").into_bytes() };
    store.append(epoch, 0, &(0..9).map(wide).collect::<Vec<_>>()).expect("appends");
    drop(store);
    let mut bytes = fs::read(folder.path()).expect("reads");
    let both = "records 2 to 3 of the log, record 7 of the log";
    for (damaged, told) in [(2, "record 2 of the log"), (3, "records 2 to 3 of the log"), (7, both)] {
        let text = wide(damaged).bytes;
        let at = bytes.windows(text.len()).position(|window| window == text).expect("is there");
        bytes[at] ^= 1;
        fs::write(folder.path(), &bytes).expect("writes");
        let Err(StoreError::Damaged { position, .. }) = load(&folder.path(), false) else {
            panic!("refused")
        };
        assert_eq!(position, told);
    }
    assert!(copies(&folder.path()).is_empty(), "nothing was changed");
}

fn change(path: &Path, change: impl FnOnce(&mut redb::Table<'_, u64, &[u8]>)) {
    let database = Database::open(path).expect("opens");
    let transaction = database.begin_write().expect("begins");
    change(&mut transaction.open_table(LOG).expect("is there"));
    transaction.commit().expect("commits");
}

#[test]
fn what_is_cut_or_left_out_is_told() {
    let folder = Folder::new();
    let mut store = folder.open().expect("opens");
    let epoch = store.open_epoch().expect("opens");
    store.append(epoch, 0, &records(0..9)).expect("appends");
    let copy = folder.path().with_file_name("copy");
    fs::copy(folder.path(), &copy).expect("copied");
    drop(store);
    let told = logs_of(|| drop(open(&copy, false).expect("opens")));
    assert!(told.contains("WARN") && told.contains("cut to its last whole commit"), "{told}");
    assert!(told.contains("position=9"), "{told}");
    let told = logs_of(|| drop(open(&copy, false).expect("opens")));
    assert_eq!(told, "", "this time it was closed");
    change(&folder.path(), |table| {
        for position in [2, 3, 7] {
            drop(table.remove(position).expect("removed"));
        }
    });
    let told = logs_of(|| drop(open(&folder.path(), true).expect("salvages")));
    assert!(told.contains("record 2 of the log"), "{told}");
    assert!(told.contains("first=2 last=3") && told.contains("first=7 last=7"), "{told}");
    assert!(told.contains("kept=6 left_out=3"), "{told}");
    assert!(told.contains("state.redb.damaged-"), "{told}");
}

#[test]
fn to_salvage_what_is_whole_changes_nothing() {
    let folder = Folder::new();
    let mut store = folder.open().expect("opens");
    let epoch = store.open_epoch().expect("opens");
    store.append(epoch, 0, &records(0..3)).expect("appends");
    assert!(matches!(open(&folder.path(), true), Err(StoreError::InUse { .. })), "not while it is in use");
    drop(store);
    let mut store = open(&folder.path(), true).expect("opens");
    assert_eq!(store.load().expect("loads"), Loaded { snapshot: vec![], log: records(0..3), position: 3 });
    assert_eq!(copies(&folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_file_in_use_is_not_salvaged_however_damaged() {
    let folder = Folder::new();
    let mut store = folder.open().expect("opens");
    let epoch = store.open_epoch().expect("opens");
    store.append(epoch, 0, &records(0..3)).expect("appends");
    let file = OpenOptions::new().write(true).open(folder.path()).expect("opens");
    file.write_all_at(&[0xff; 2000], 8192).expect("writes");
    assert!(matches!(open(&folder.path(), true), Err(StoreError::InUse { .. })));
    assert_eq!(copies(&folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn what_a_killed_process_was_making_is_swept_away_by_who_has_the_state() {
    let folder = Folder::new();
    drop(folder.open().expect("made"));
    let beside = |name: &str| folder.path().with_file_name(name);
    for name in ["state.redb.new-x1y2", "state.redb.damaged-1", "reserve"] {
        fs::write(beside(name), name).expect("written");
    }
    let store = folder.open().expect("opens");
    assert!(!beside("state.redb.new-x1y2").exists());
    assert!(beside("state.redb.damaged-1").exists() && beside("reserve").exists());
    fs::write(beside("state.redb.new-z"), "").expect("written");
    assert!(matches!(open(&folder.path(), false), Err(StoreError::InUse { .. })));
    assert!(beside("state.redb.new-z").exists(), "it may be another's");
    drop(store);
}

#[test]
fn a_copy_is_made_once_of_what_is_there_and_nobody_can_write_meanwhile() {
    let folder = Folder::new();
    let mut store = folder.open().expect("opens");
    let epoch = store.open_epoch().expect("opens");
    store.append(epoch, 0, &records(0..3)).expect("appends");
    for _ in 0..2 {
        store.keep_copy().expect("copied");
        let end = store.position(epoch).expect("owned");
        store.append(epoch, end, &[record(3)]).expect("goes on");
    }
    assert!(matches!(open(&folder.path(), false), Err(StoreError::InUse { .. })), "it is still locked");
    drop(store);
    let made = copies(&folder.path());
    let [copy] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!(load(copy, false).expect("loads").log, records(0..3));
}
