use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::node::testing::{key, node_id, result};
use crate::types::{Digest, TaskOutput};
use crate::wire::peer::{AttemptResult, Ending};

const MANY: usize = 64;
const MUCH: u64 = 1 << 30;

struct Folder {
    state: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { state: tempfile::tempdir().expect("a folder") }
    }

    fn open(&self) -> Spool {
        Spool::open(self.state.path(), &node_id()).expect("opens")
    }

    /// The files of results, and what is left of others.
    fn files(&self) -> Vec<PathBuf> {
        let folder = self.state.path().join(node_id().as_str()).join("outbox");
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> = entries.filter(|path| !path.ends_with(LOCK)).collect();
        files.sort();
        files
    }
}

fn kept(number: u64) -> Unacknowledged {
    Unacknowledged { result: result(number), unsent: None }
}

fn large(number: u64, size: usize) -> Unacknowledged {
    let bytes = vec![7; size];
    let output = TaskOutput { digest: Digest::of(&bytes), size: size as u64 };
    let ending = Ending::Output { output, data: None };
    Unacknowledged { result: AttemptResult { ending, ..result(number) }, unsent: Some(bytes.into()) }
}

#[test]
fn what_one_process_wrote_the_next_reads_in_the_order_of_the_attempts() {
    let folder = Folder::new();
    let all = [kept(2), large(10, 300_000), kept(100)];
    {
        let spool = folder.open();
        for kept in all.iter().rev() {
            spool.write(kept).expect("written");
        }
        spool.write(&all[0]).expect("written again");
        spool.sync().expect("durable");
    }
    let spool = folder.open();
    assert_eq!(spool.read(&node_id(), MANY, MUCH).expect("readable"), all);
    for file in folder.files() {
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    for number in [2, 10, 100, 100] {
        spool.remove(&key(number)).expect("removed, or was never there");
    }
    assert_eq!(folder.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_second_process_of_the_node_does_not_get_it_and_another_node_does() {
    let folder = Folder::new();
    let first = folder.open();
    let second = Spool::open(folder.state.path(), &node_id());
    assert!(matches!(second, Err(SpoolError::InUse(_))), "{second:?}");
    Spool::open(folder.state.path(), &NodeId::new("api-docs").expect("valid")).expect("its own");
    drop(first);
    folder.open();
}

#[test]
fn it_waits_for_a_process_that_is_just_ending() {
    let folder = Folder::new();
    let first = folder.open();
    let (state, node) = (folder.state.path().to_owned(), node_id());
    let second = std::thread::spawn(move || Spool::open(&state, &node).map(|_| ()));
    drop(first);
    second.join().expect("no panic").expect("opens");
}

#[test]
fn what_is_damaged_or_foreign_is_dropped_and_the_rest_is_read() {
    let folder = Folder::new();
    let spool = folder.open();
    let strange = {
        let mut strange = kept(3);
        strange.result.executor = NodeId::new("api-docs").expect("valid");
        strange
    };
    for kept in [&kept(1), &large(2, 5_000), &strange, &kept(4)] {
        spool.write(kept).expect("written");
    }
    let cut = spool.path(&key(2));
    let bytes = fs::read(&cut).expect("readable");
    fs::write(&cut, &bytes[..bytes.len() - 1]).expect("cut");
    fs::write(spool.path(&key(5)), b"").expect("empty");
    fs::write(spool.path(&key(6)).with_extension(PART), b"half").expect("half");
    assert_eq!(spool.read(&node_id(), MANY, MUCH).expect("readable"), [kept(1), kept(4)]);
    assert_eq!(folder.files(), [spool.path(&key(1)), spool.path(&key(4))]);
}

#[test]
fn what_cannot_be_read_now_or_by_this_release_stays() {
    let folder = Folder::new();
    let spool = folder.open();
    spool.write(&kept(1)).expect("written");
    // Whoever runs the test: a folder gives an error when it is read as a file, as a failing disk does.
    fs::create_dir(spool.path(&key(2))).expect("made");
    fs::write(spool.path(&key(3)), b"lintmesh-result 2\nof a later release").expect("written");
    assert_eq!(spool.read(&node_id(), MANY, MUCH).expect("readable"), [kept(1)]);
    assert_eq!(folder.files(), [1, 2, 3].map(|number| spool.path(&key(number))));
}

#[test]
fn no_more_is_taken_over_than_there_is_room_for() {
    let folder = Folder::new();
    let spool = folder.open();
    for number in 0..5 {
        spool.write(&large(number, 10_000)).expect("written");
    }
    assert_eq!(spool.read(&node_id(), 3, MUCH).expect("readable").len(), 3);
    assert_eq!(spool.read(&node_id(), MANY, 25_000).expect("readable").len(), 2);
    assert_eq!(folder.files().len(), 5, "the others wait");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = Spool::open(file.path(), &node_id()).expect_err("a file is no folder");
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}
