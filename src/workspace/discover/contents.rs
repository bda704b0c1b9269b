//! Reads the files of a tree once, several at a time, for their digests. No content is kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::DiscoverOptions;
use super::walk::Found;
use crate::types::{Digest, ManifestEntry, TreePath, Unreadable};

/// The manifest's entries, and the files that could not be read.
pub(super) fn read(
    files: BTreeMap<TreePath, Found>,
    options: &DiscoverOptions,
) -> (Vec<ManifestEntry>, Vec<Unreadable>) {
    let files: Vec<_> = files.into_iter().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        while let Some((path, found)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let path = path.clone();
            match digest(&found.full, options.limits.max_file_bytes) {
                Ok((digest, size)) => entries.push(ManifestEntry { path, digest, size, lint: found.lint }),
                Err(reason) => unreadable.push(Unreadable { path, reason }),
            }
        }
        (entries, unreadable)
    };
    // A thread for a handful of files costs more than it gains.
    let helpers = options.threads.clamp(1, 1 + files.len() / 16) - 1;
    thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let (mut entries, mut unreadable) = work();
        for helper in helpers {
            match helper.join() {
                Ok((more, unread)) => {
                    entries.extend(more);
                    unreadable.extend(unread);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (entries, unreadable)
    })
}

/// The digest and length of a file, or why it cannot be had, in words that do not depend on the machine.
fn digest(path: &Path, max_bytes: u64) -> Result<(Digest, u64), String> {
    let failed = |error: io::Error| format!("cannot be read: {}", error.kind());
    // One more byte than allowed, since the file may have grown after it was measured.
    let mut file = File::open(path).map_err(failed)?.take(max_bytes.saturating_add(1));
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0_u64;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    if size > max_bytes {
        return Err(format!("has more than {max_bytes} bytes, the most a file may have"));
    }
    Ok((Digest::from_bytes(hasher.finalize().into()), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_has_a_reason_without_its_place() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(digest(&dir.path().join("gone.py"), 10), Err("cannot be read: entity not found".into()));
        assert_eq!(digest(dir.path(), 10), Err("cannot be read: is a directory".into()));
    }

    #[test]
    fn the_limit_is_the_last_size_allowed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.py");
        std::fs::write(&path, "0123456789").expect("written");
        assert_eq!(digest(&path, 10), Ok((Digest::of(b"0123456789"), 10)));
        assert!(digest(&path, 9).is_err());
    }
}
