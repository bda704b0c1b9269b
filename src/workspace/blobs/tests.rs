use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::local::PARTIAL;
use super::*;

const ROOMY: BlobLimits = BlobLimits { max_blob_bytes: 1 << 20, max_total_bytes: 1 << 30 };

fn store(limits: BlobLimits) -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = BlobStore::open(&dir.path().join("blobs"), limits).expect("opened");
    (dir, store)
}

fn small(total: u64) -> BlobLimits {
    BlobLimits { max_blob_bytes: 10, max_total_bytes: total }
}

fn folder(store: &BlobStore) -> PathBuf {
    store.shared.objects.place().into()
}

fn path(store: &BlobStore, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    folder(store).join(&name[..2]).join(&name[2..])
}

fn partial_files(store: &BlobStore) -> usize {
    fs::read_dir(folder(store).join(PARTIAL)).expect("readable").count()
}

#[test]
fn what_was_put_is_there_and_survives_reopening() {
    let (dir, store) = store(ROOMY);
    let digest = store.put(b"abc").expect("stored");
    store.put(b"abc").expect("a second time changes nothing");
    assert_eq!(digest, Digest::of(b"abc"));
    assert_eq!((store.size(&digest), store.total_bytes()), (Some(3), 3));
    drop(store);
    let store = BlobStore::open(&dir.path().join("blobs"), ROOMY).expect("reopened");
    assert_eq!(store.get(&digest).expect("there"), b"abc");
    let other = Digest::of(b"other");
    assert_eq!(store.missing(&[other, digest, other]), [other]);
    assert!(matches!(store.get(&other), Err(BlobError::Missing(missing)) if missing == other));
}

#[test]
fn bytes_that_are_not_those_announced_are_refused_and_not_kept() {
    let (_dir, store) = store(ROOMY);
    let expected = Digest::of(b"abc");
    assert!(matches!(store.put_expected(expected, b"abd"), Err(BlobError::DigestMismatch { .. })));
    let mut writer = store.writer(Some(expected)).expect("started");
    writer.write(b"ab").expect("taken");
    writer.write(b"d").expect("taken");
    assert!(matches!(writer.finish(), Err(BlobError::DigestMismatch { .. })));
    assert!(!store.contains(&expected) && !store.contains(&Digest::of(b"abd")));
    assert_eq!((partial_files(&store), store.total_bytes()), (0, 0));
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let (_dir, store) = store(small(10));
    let mut writer = store.writer(None).expect("started");
    writer.write(b"12345678").expect("taken");
    assert_eq!((partial_files(&store), store.total_bytes()), (1, 8));
    drop(writer);
    assert_eq!((partial_files(&store), store.total_bytes()), (0, 0));
}

#[test]
fn a_blob_over_its_limit_is_refused_before_it_is_all_there() {
    let (_dir, store) = store(small(100));
    assert!(matches!(store.put(b"12345678901"), Err(BlobError::TooLarge { size: 11, limit: 10 })));
    let mut writer = store.writer(None).expect("started");
    writer.write(b"1234567890").expect("exactly the limit");
    assert!(matches!(writer.write(b"1"), Err(BlobError::TooLarge { .. })));
}

#[test]
fn a_damaged_blob_is_removed_and_missing() {
    let (_dir, store) = store(ROOMY);
    let digest = store.put(b"abc").expect("stored");
    let path = path(&store, &digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
    fs::write(&path, "abX").expect("damaged");
    assert!(matches!(store.get(&digest), Err(BlobError::Missing(_))));
    assert!(!store.contains(&digest) && !path.exists());
    store.put(b"abc").expect("stored again");
    assert_eq!(store.get(&digest).expect("there"), b"abc");
    fs::remove_file(&path).expect("taken away");
    assert!(matches!(store.get(&digest), Err(BlobError::Missing(_))));
    assert_eq!(store.total_bytes(), 0);
}

#[test]
fn whoever_finds_a_blob_damaged_late_does_not_remove_the_one_stored_since() {
    let (_dir, store) = store(ROOMY);
    let digest = store.put(b"abc").expect("stored");
    let path = path(&store, &digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
    fs::write(&path, "abX").expect("damaged");
    let mut late = store.reader(&digest).expect("there");
    assert!(matches!(store.get(&digest), Err(BlobError::Missing(_))));
    store.put(b"abc").expect("stored again");
    let found = late.read_to_end(&mut Vec::new()).expect_err("damaged");
    assert_eq!(found.kind(), io::ErrorKind::InvalidData);
    assert_eq!(store.get(&digest).expect("there"), b"abc");
}

#[test]
fn the_least_recently_used_blob_that_is_not_pinned_makes_room() {
    let (_dir, store) = store(small(9));
    let [a, b, c] = [b"aaa", b"bbb", b"ccc"].map(|bytes| store.put(bytes).expect("stored"));
    let pin = store.pin([a]);
    assert!(store.contains(&b), "and b is now used later than c");
    let d = store.put(b"ddd").expect("stored");
    assert_eq!(store.missing(&[a, b, c, d]), [c]);
    let rest = store.pin([b, d]);
    assert!(matches!(store.put(b"eee"), Err(BlobError::Full { needed: 3, limit: 9 })));
    assert_eq!(store.missing(&[a, b, d]), []);
    drop((pin, rest));
    store.put(b"eee").expect("there is room again");
    assert!(store.total_bytes() <= 9);
}

#[test]
fn a_pin_also_keeps_what_arrives_later_and_counts() {
    let (_dir, store) = store(small(3));
    let digest = Digest::of(b"aaa");
    let first = store.pin([digest]);
    let second = store.pin([digest, digest]);
    store.put(b"aaa").expect("stored");
    drop(second);
    assert!(matches!(store.put(b"bbb"), Err(BlobError::Full { .. })));
    drop(first);
    store.put(b"bbb").expect("room");
    assert!(!store.contains(&digest));
}

#[test]
fn opening_drops_partial_files_and_what_exceeds_a_lower_limit() {
    let (dir, store) = store(small(30));
    let digests = [b"aaa", b"bbb", b"ccc"].map(|bytes| store.put(bytes).expect("stored"));
    fs::write(folder(&store).join(PARTIAL).join("left"), "x").expect("written");
    let path = dir.path().join("blobs");
    assert!(matches!(BlobStore::open(&path, ROOMY), Err(BlobError::InUse { .. })));
    drop(store);
    let store = BlobStore::open(&path, small(6)).expect("reopened");
    assert_eq!((partial_files(&store), store.total_bytes()), (0, 6));
    assert_eq!(store.missing(&digests).len(), 1);
}

#[test]
fn what_is_pinned_when_the_limit_got_lower_is_not_dropped_at_a_start() {
    let (dir, store) = store(small(30));
    let [a, b, c] = [b"aaa", b"bbb", b"ccc"].map(|bytes| store.put(bytes).expect("stored"));
    drop(store);
    let objects = LocalObjects::open(&dir.path().join("blobs")).expect("opened");
    let store = BlobStore::load(objects, small(2)).expect("loaded");
    let _pin = store.pin([a, c]);
    store.trim();
    assert_eq!((store.missing(&[a, b, c]), store.total_bytes()), (vec![b], 6), "over the limit, but needed");
    assert!(matches!(store.put(b"d"), Err(BlobError::Full { .. })));
    assert_eq!(store.missing(&[a, c]), []);
}

#[test]
fn what_many_threads_store_and_drop_at_once_is_there_if_the_store_says_so() {
    let (_dir, store) = store(small(12));
    let blobs: Vec<[u8; 3]> = (0..8).map(|n| [n; 3]).collect();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (store, blobs) = (store.clone(), &blobs);
            scope.spawn(move || {
                for turn in 0..200 {
                    let bytes = &blobs[(first * 3 + turn) % blobs.len()];
                    let pin = store.pin([Digest::of(bytes)]);
                    let digest = match store.put(bytes) {
                        Ok(digest) => digest,
                        // All the others hold one, and have reserved room for another.
                        Err(BlobError::Full { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    assert_eq!(store.get(&digest).expect("pinned"), bytes);
                    drop(pin);
                }
            });
        }
    });
    let listed: Vec<_> = store.shared.objects.list().expect("readable");
    assert_eq!(listed.iter().map(|stored| stored.size).sum::<u64>(), store.total_bytes());
    assert!(listed.iter().all(|stored| store.contains(&stored.name)) && store.total_bytes() <= 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_total_is_what_is_stored_and_never_over_the_limit(
        blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..10), 0..20),
    ) {
        let (_dir, store) = store(small(25));
        for bytes in &blobs {
            let digest = store.put(bytes).expect("room can always be made");
            prop_assert_eq!(&store.get(&digest).expect("just stored"), bytes);
            prop_assert!(store.total_bytes() <= 25);
        }
        let listed = store.shared.objects.list().expect("readable");
        let on_disk: u64 = listed.iter().map(|stored| stored.size).sum();
        prop_assert_eq!(on_disk, store.total_bytes());
    }
}

#[test]
fn who_must_leave_room_is_refused_first_and_others_may_use_it() {
    let (_dir, store) = store(small(32));
    let inputs = store.within(28);
    let old = store.put(b"0123456789").expect("stored");
    let tree = [b"a123456789", b"b123456789"].map(|bytes| inputs.put(bytes).expect("there is room"));
    assert!(!store.contains(&old), "nobody needs it");
    let _pin = store.pin(tree);
    assert!(matches!(inputs.put(b"c12345678"), Err(BlobError::Full { needed: 9, limit: 28 })));
    let small = inputs.put(b"c1234567").expect("exactly the limit");
    let _other = store.pin([small]);
    let made = store.put(b"made").expect("room was left for it");
    assert!(store.contains(&made) && store.total_bytes() == 32);
    assert!(matches!(store.within(u64::MAX).put(b"more than there is"), Err(BlobError::TooLarge { .. })));
    let _made = store.pin([made]);
    assert!(matches!(store.within(u64::MAX).put(b"more"), Err(BlobError::Full { limit: 32, .. })));
}

#[test]
fn a_full_disk_is_noticed_wherever_it_is_found() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (objects, faults) = super::testing::Faulty::open(dir.path());
    let store = BlobStore::load(objects, ROOMY).expect("loaded");
    let shortages = store.shortages();
    store.put(b"abc").expect("stored");
    assert!(!shortages.has_changed().expect("the store is there"));
    faults.fill(true);
    assert!(matches!(store.within(5).put(b"def"), Err(BlobError::DiskFull { .. })));
    assert!(shortages.has_changed().expect("the store is there") && *shortages.borrow() == 1);
}
