//! A state file that cannot or must not be used is refused with the reason, and left as it is.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use lintmesh::store::{EmbeddedOptions, EmbeddedStore, Store, StoreError};
use lintmesh::types::Epoch;
use redb::TableDefinition;
use tempfile::TempDir;

use crate::support::disk::Disk;
use crate::support::stores::{Folder, Place, record, records};

fn open(path: &Path) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(path, EmbeddedOptions::default())
}

fn refusal(path: &Path) -> StoreError {
    match open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// A folder with a closed state file of three records.
fn made() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let mut store = folder.open().expect("opens");
    let epoch = store.open_epoch().expect("opens");
    store.append(epoch, 0, &records(0..3)).expect("appends");
    drop(store);
    let path = folder.path();
    (folder, path)
}

/// Does something without the privileges of root, to whom permissions mean nothing; they belong to a thread alone.
fn unprivileged<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let unprivileged = move || {
        if nix::unistd::geteuid().is_root() {
            let nobody = 65_534;
            nix::unistd::setfsgid(nobody.into());
            nix::unistd::setfsuid(nobody.into());
            assert_eq!(nix::unistd::setfsuid(nobody.into()).as_raw(), nobody, "it is another user now");
        }
        work()
    };
    thread::spawn(unprivileged).join().expect("no panic")
}

/// A folder that everybody may enter.
fn public() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("its own");
    folder
}

#[test]
fn the_file_and_its_folder_are_for_their_owner_only() {
    let (_folder, path) = made();
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().expect("a folder")), 0o700);
    let left: Vec<_> = fs::read_dir(path.parent().expect("a folder")).expect("is there").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_second_owner_is_refused_until_the_first_is_gone() {
    let (_folder, path) = made();
    let first = open(&path).expect("opens");
    let error = refusal(&path);
    assert!(matches!(&error, StoreError::InUse { path: told } if *told == path), "{error:?}");
    let link = path.with_file_name("link");
    std::os::unix::fs::symlink(&path, &link).expect("links");
    assert!(matches!(refusal(&link), StoreError::InUse { .. }), "by whatever name");
    drop(first);
    open(&path).expect("opens");
}

#[test]
fn of_many_who_make_it_at_once_one_owns_it() {
    let folder = Folder::new();
    let path = folder.path();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || open(&path))
        })
        .collect();
    // Kept until all have tried.
    let tried: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    assert_eq!(tried.iter().filter(|opened| opened.is_ok()).count(), 1);
    let refused = |tried: &Result<_, StoreError>| matches!(tried, Ok(_) | Err(StoreError::InUse { .. }));
    assert!(tried.iter().all(refused));
}

#[test]
fn a_file_that_may_not_be_written_is_refused() {
    let folder = public();
    let path = folder.path().join("state.redb");
    drop(open(&path).expect("opens"));
    fs::set_permissions(&path, Permissions::from_mode(0o444)).expect("its own");
    let error = unprivileged(move || refusal(&path));
    assert!(matches!(&error, StoreError::Denied { action: "write", .. }), "{error:?}");
    assert!(error.to_string().contains("see to its owner, permissions and mount"), "{error}");
}

#[test]
fn a_folder_that_may_not_be_written_or_entered_is_refused() {
    for mode in [0o555, 0o000] {
        let folder = public();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).expect("made");
        fs::set_permissions(&inner, Permissions::from_mode(mode)).expect("its own");
        for path in [inner.join("state.redb"), inner.join("deeper").join("state.redb")] {
            let error = unprivileged(move || refusal(&path));
            assert!(matches!(&error, StoreError::Denied { .. }), "{mode:o}: {error:?}");
        }
    }
}

#[test]
fn a_path_through_a_file_is_refused() {
    let folder = public();
    let file = folder.path().join("file");
    fs::write(&file, "text").expect("written");
    let error = refusal(&file.join("state.redb"));
    assert!(matches!(&error, StoreError::Denied { .. }), "{error:?}");
}

#[test]
fn a_read_only_disk_is_refused_and_told_so_later() {
    let disk = Disk::new(0);
    let mut store = EmbeddedStore::over(disk.clone()).expect("opens");
    let epoch = store.open_epoch().expect("opens");
    disk.fail_after(0, ErrorKind::ReadOnlyFilesystem);
    let error = store.append(epoch, 0, &[record(0)]).expect_err("nothing is written");
    // The commit may have been what failed: then only the next look at the disk says more.
    assert!(matches!(error, StoreError::Unknown { .. } | StoreError::Unavailable { .. }), "{error:?}");
    drop(store);
    disk.fail_after(0, ErrorKind::ReadOnlyFilesystem);
    let error = EmbeddedStore::over(disk.clone()).map(|_| ()).expect_err("it cannot be written");
    assert!(matches!(error, StoreError::Denied { action: "write", .. }), "{error:?}");
    disk.mend();
    let mut store = EmbeddedStore::over(disk).expect("opens");
    assert_eq!(store.position(epoch).expect("answers"), 0);
}

#[test]
fn what_is_no_state_file_is_refused_and_left_alone() {
    let folder = public();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("empty"), "").expect("written");
    fs::write(at("text"), "not a database").expect("written");
    fs::write(at("zeros"), vec![0; 100_000]).expect("written");
    fs::create_dir(at("folder")).expect("made");
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    let other = redb::Database::create(at("redb")).expect("made");
    let transaction = other.begin_write().expect("begins");
    transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).expect("made");
    transaction.commit().expect("commits");
    drop(other);
    for name in ["empty", "text", "zeros", "folder", "pipe", "redb"] {
        let path = at(name);
        // To read a pipe would wait; redb notes in its files that they are open.
        let read = || (!["pipe", "redb"].contains(&name)).then(|| fs::read(&path).ok());
        let before = read();
        for salvage in [false, true] {
            let error = EmbeddedStore::open(&path, EmbeddedOptions { salvage }).map(|_| ()).expect_err(name);
            assert!(
                matches!(&error, StoreError::Foreign { path: told, .. } if *told == path),
                "{name}: {error:?}"
            );
        }
        assert_eq!(before, read());
    }
}

#[test]
fn a_newer_format_is_refused_and_told() {
    let (_folder, path) = made();
    let head = TableDefinition::<&str, &[u8]>::new("lintmesh.head");
    let database = redb::Database::open(&path).expect("opens");
    let transaction = database.begin_write().expect("begins");
    transaction
        .open_table(head)
        .expect("is there")
        .insert("head", [2_u8, 0, 0, 0, 9, 9].as_slice())
        .expect("put");
    transaction.commit().expect("commits");
    drop(database);
    let error = refusal(&path);
    assert!(matches!(error, StoreError::NewerFormat { found: 2, known: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("run the release that wrote it"), "{error}");
}

#[test]
fn a_newer_format_of_the_database_below_is_told_too() {
    let (_folder, path) = made();
    let file = OpenOptions::new().write(true).open(&path).expect("opens");
    for slot in [64, 192] {
        file.write_all_at(&[4], slot).expect("writes");
    }
    let error = refusal(&path);
    assert!(matches!(error, StoreError::NewerFormat { found: 4, known: 3, .. }), "{error:?}");
}

#[test]
fn who_finds_another_file_in_place_of_its_own_is_fenced() {
    type Replace = fn(&Path);
    let replaced: [(&str, Replace); 3] = [
        ("removed", |path| fs::remove_file(path).expect("removed")),
        ("moved", |path| fs::rename(path, path.with_file_name("elsewhere")).expect("moved")),
        ("replaced", |path| {
            let copy = path.with_file_name("copy");
            fs::copy(path, &copy).expect("copied");
            fs::rename(copy, path).expect("moved");
        }),
    ];
    for (how, replace) in replaced {
        let (_folder, path) = made();
        let mut store = open(&path).expect("opens");
        let epoch = store.open_epoch().expect("opens");
        assert_eq!(epoch, Epoch(2));
        let file = File::open(&path).expect("opens");
        replace(&path);
        let length = file.metadata().expect("is there").len();
        assert!(matches!(store.append(epoch, 3, &[record(3)]), Err(StoreError::Fenced { .. })), "{how}");
        assert!(matches!(store.snapshot(epoch, 3, &[]), Err(StoreError::Fenced { .. })), "{how}");
        assert!(matches!(store.position(epoch), Err(StoreError::Fenced { .. })), "{how}");
        assert_eq!(file.metadata().expect("is there").len(), length);
        if how == "replaced" {
            let mut other = open(&path).expect("the new one is free");
            assert_eq!(other.load().expect("loads").log, records(0..3));
        }
    }
}
