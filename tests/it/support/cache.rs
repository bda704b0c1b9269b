//! A folder made once, however many test threads and processes ask for it at the same time.

use std::fs::File;
use std::path::{Path, PathBuf};

/// `target/NAME`. The first caller lets `make` fill a folder beside it, which is then moved into place, so that a
/// folder that is there is whole; all others wait for a lock on a file.
pub(super) fn made_once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("made-once");
    std::fs::create_dir_all(&base).expect("target is writable");
    let folder = base.join(name);
    let lock = File::create(base.join(format!("{name}.lock"))).expect("target is writable");
    lock.lock().expect("the file system has locks");
    if !folder.exists() {
        let unfinished = base.join(format!("{name}.unfinished"));
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).expect("left by an interrupted run");
        }
        std::fs::create_dir(&unfinished).expect("target is writable");
        make(&unfinished);
        std::fs::rename(&unfinished, &folder).expect("same file system");
    }
    folder
}
