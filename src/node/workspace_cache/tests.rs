//! What is kept of trees, and for how long.

use std::fs;

use super::*;

fn slot(n: u8, bytes: u64) -> Arc<Slot> {
    Arc::new(Slot { manifest: Digest::of(&[n]), bytes, tree: OnceCell::new() })
}

fn kept(bytes: &[u64]) -> Vec<Kept> {
    let trees = (0..).zip(bytes);
    trees.map(|(n, bytes)| Kept { slot: slot(n, *bytes), used: Instant::now() }).collect()
}

fn names(slots: &[Arc<Slot>]) -> Vec<Digest> {
    slots.iter().map(|slot| slot.manifest).collect()
}

#[test]
fn trees_in_use_stay_and_the_oldest_others_go() {
    let mut trees = kept(&[1; 6]);
    let used = Arc::clone(&trees[0].slot);
    let dropped = drop_surplus(&mut trees, 4, 100);
    assert_eq!(names(&dropped), [Digest::of(&[1]), Digest::of(&[2])]);
    assert!(Arc::ptr_eq(&trees[0].slot, &used) && trees.len() == 4);
}

#[test]
fn large_trees_are_fewer() {
    let mut trees = kept(&[40, 40, 10, 40]);
    let used = Arc::clone(&trees[0].slot);
    assert!(drop_surplus(&mut trees, 4, 130).is_empty());
    assert_eq!(names(&drop_surplus(&mut trees, 4, 90)), [Digest::of(&[1])]);
    drop(used);
    assert_eq!(names(&drop_surplus(&mut trees, 4, 5)), [0, 2, 3].map(|n| Digest::of(&[n])));
}

#[tokio::test(start_paused = true)]
async fn a_tree_goes_when_nobody_has_read_it_for_a_while() {
    let mut trees = kept(&[1, 1]);
    let used = Arc::clone(&trees[1].slot);
    let mut unused_after = |seconds| {
        let now = trees[trees.len() - 1].used + Duration::from_secs(seconds);
        names(&drop_unused(&mut trees, now, KEPT_FOR))
    };
    assert!(unused_after(59).is_empty());
    assert_eq!(unused_after(1), [Digest::of(&[0])]);
    assert!(unused_after(3600).is_empty(), "it is read");
    drop(used);
    let mut unused_after = |seconds| {
        let now = trees[0].used + Duration::from_secs(seconds);
        names(&drop_unused(&mut trees, now, KEPT_FOR))
    };
    assert!(unused_after(59).is_empty(), "from its last use on");
    assert_eq!(unused_after(60), [Digest::of(&[1])]);
}

#[tokio::test]
async fn nothing_that_is_not_in_use_is_left_on_the_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let shared = Shared::new(dir.path()).expect("made");
    let [needed, other] = [b"needed", b"others"].map(|bytes| shared.store.put(bytes).expect("stored"));
    let pin = shared.store.pin([needed]);
    let trees = ["0", "1"].map(|name| {
        let tree = shared.dir.join(name);
        fs::create_dir_all(&tree).expect("made");
        let slot = shared.slot(Digest::of(name.as_bytes()), 1);
        slot.tree.set(tree.clone()).expect("new");
        (slot, tree)
    });
    let [(reading, read), (unused, idle)] = trees;
    drop(unused);
    shared.forget(KEPT_FOR).await;
    assert!(read.exists() && idle.exists() && shared.store.contains(&other), "not yet");
    shared.forget(Duration::ZERO).await;
    assert!(read.exists() && !idle.exists());
    assert!(shared.store.contains(&needed) && !shared.store.contains(&other));
    drop((reading, pin));
    shared.forget(Duration::ZERO).await;
    assert!(!read.exists() && shared.store.total_bytes() == 0);
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let io = |kind: io::ErrorKind| io::Error::from(kind);
    let written =
        |kind| TreeError::Materialise(MaterialiseError::Io { path: PathBuf::new(), source: io(kind) });
    let fetched = |error: BlobError| TreeError::Input(InputError::from(error));
    let failed = |kind| fetched(BlobError::Io { place: String::new(), source: io(kind) });
    for full in [
        written(io::ErrorKind::StorageFull),
        written(io::ErrorKind::QuotaExceeded),
        failed(io::ErrorKind::StorageFull),
        fetched(BlobError::DiskFull { place: String::new() }),
    ] {
        assert!(full.is_full(), "{full}");
    }
    let missing = fetched(BlobError::Missing(Digest::of(b"")));
    for other in [written(io::ErrorKind::ReadOnlyFilesystem), missing, TreeError::Ending] {
        assert!(!other.is_full(), "{other}");
    }
}
