use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::super::objects::{ObjectError, Objects, Staged, Stored};
use super::super::{BlobLimits, LocalObjects};
use super::*;

const ROOMY: BlobLimits = BlobLimits { max_blob_bytes: 1 << 20, max_total_bytes: 1 << 30 };

/// A folder that notes what is synced, and fails to if it is told to.
struct Noted {
    inner: LocalObjects,
    synced: Arc<Mutex<Vec<Vec<Digest>>>>,
    fails: Arc<Mutex<bool>>,
}

impl Objects for Noted {
    fn stage(&self) -> Result<Box<dyn Staged>, ObjectError> {
        self.inner.stage()
    }

    fn open(&self, name: &Digest) -> Result<Option<Box<dyn io::Read + Send>>, ObjectError> {
        self.inner.open(name)
    }

    fn delete(&self, name: &Digest) -> Result<(), ObjectError> {
        self.inner.delete(name)
    }

    fn list(&self) -> Result<Vec<Stored>, ObjectError> {
        self.inner.list()
    }

    fn make_durable(&self, names: &[Digest]) -> Result<(), ObjectError> {
        self.synced.lock().expect("not poisoned").push(names.to_vec());
        match *self.fails.lock().expect("not poisoned") {
            true => Err(ObjectError::Failed { place: "here".into(), source: io::Error::other("as a test") }),
            false => self.inner.make_durable(names),
        }
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

struct Rig {
    store: BlobStore,
    synced: Arc<Mutex<Vec<Vec<Digest>>>>,
    fails: Arc<Mutex<bool>>,
}

impl Rig {
    fn in_folder(dir: &Path) -> Self {
        let inner = LocalObjects::open(dir).expect("opened");
        let (synced, fails) = (Arc::default(), Arc::default());
        let noted = Noted { inner, synced: Arc::clone(&synced), fails: Arc::clone(&fails) };
        Self { store: BlobStore::load(noted, ROOMY).expect("loaded"), synced, fails }
    }

    /// What was synced since it was last asked, call by call.
    fn synced(&self) -> Vec<Vec<Digest>> {
        std::mem::take(&mut *self.synced.lock().expect("not poisoned"))
    }
}

#[test]
fn what_is_known_to_be_durable_is_not_synced_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let rig = Rig::in_folder(dir.path());
    let [a, b] = [b"a", b"b"].map(|bytes| rig.store.put(bytes).expect("stored"));
    assert_eq!(rig.synced(), Vec::<Vec<Digest>>::new(), "writing alone syncs nothing");
    rig.store.make_durable(&[a, a]).expect("made durable");
    assert_eq!(rig.synced(), [vec![a]]);
    rig.store.put(b"a").expect("there already");
    rig.store.make_durable(&[a, b]).expect("made durable");
    assert_eq!(rig.synced(), [vec![b]]);
    rig.store.make_durable(&[a, b]).expect("they are");
    assert_eq!(rig.synced(), Vec::<Vec<Digest>>::new());
    let missing = Digest::of(b"missing");
    let refused = rig.store.make_durable(&[missing, a]).expect_err("not there");
    assert!(matches!(refused, BlobError::Missing(digest) if digest == missing), "{refused}");
}

#[test]
fn what_an_earlier_process_left_is_read_and_synced_before_it_is_relied_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = Rig::in_folder(dir.path());
    let [whole, cut] = [&b"whole"[..], b"cut short by a power cut"].map(|bytes| first.store.put(bytes));
    let (whole, cut) = (whole.expect("stored"), cut.expect("stored"));
    first.store.make_durable(&[whole]).expect("made durable");
    drop(first);
    let name = cut.to_string();
    let path = dir.path().join(&name[..2]).join(&name[2..]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("allowed");
    fs::write(&path, "").expect("emptied");

    let second = Rig::in_folder(dir.path());
    assert!(second.store.contains(&cut), "nothing is read at a start");
    let refused = second.store.make_durable(&[whole, cut]).expect_err("it is damaged");
    assert!(matches!(refused, BlobError::Missing(digest) if digest == cut), "{refused}");
    assert_eq!(second.store.missing(&[whole, cut]), [cut], "so that it is sent again");
    second.store.put(b"cut short by a power cut").expect("stored again");
    second.store.make_durable(&[whole, cut]).expect("made durable");
    assert_eq!(second.synced(), [vec![whole, cut]], "who knows what the earlier process synced");
}

#[test]
fn after_a_failed_sync_a_blob_is_written_again_before_it_is_believed() {
    let dir = tempfile::tempdir().expect("a folder");
    let rig = Rig::in_folder(dir.path());
    let digest = rig.store.put(b"abc").expect("stored");
    let name = digest.to_string();
    let inode = || {
        let path = dir.path().join(&name[..2]).join(&name[2..]);
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("there"))
    };
    // Held open, so that its number is not given to the next file.
    let _old = rig.store.reader(&digest).expect("there");
    let before = inode();
    *rig.fails.lock().expect("not poisoned") = true;
    assert!(matches!(rig.store.make_durable(&[digest]), Err(BlobError::Io { .. })));
    assert_eq!(inode(), before);
    *rig.fails.lock().expect("not poisoned") = false;
    rig.store.make_durable(&[digest]).expect("made durable");
    assert_ne!(inode(), before, "another file, which the failed sync does not concern");
    assert_eq!(
        (rig.store.get(&digest).expect("there").as_slice(), rig.store.total_bytes()),
        (&b"abc"[..], 3)
    );
}
