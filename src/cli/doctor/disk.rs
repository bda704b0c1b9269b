//! Room on the disks that lintmesh writes to.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::check::{Check, Section, Verdict};
use crate::cli::linters;
use crate::cli::state_dir::StateDir;
use crate::config::{Settings, StoreKind};

/// What the managed linters take, and some room to unpack them.
const TOOLCHAIN_BYTES: u64 = 1 << 30;

pub(super) fn disk(settings: &Settings) -> Section {
    let cache = match linters::cache_dir(settings) {
        Ok(folder) => room("cache folder", "toolchain.cache_dir", &folder, TOOLCHAIN_BYTES),
        Err(cause) => {
            Check::wrong("cache folder", Verdict::Failed, cause.to_string(), "set toolchain.cache_dir")
        }
    };
    let mut checks = vec![cache];
    let mut blobs = std::env::temp_dir();
    if settings.state.store == StoreKind::Embedded {
        match StateDir::named_by(settings.state.dir.as_deref()) {
            Ok(folder) => {
                checks.push(room("state folder", "state.dir", &folder, settings.state.min_free_bytes));
                blobs = folder;
            }
            Err(cause) => {
                let remedy = "set state.dir";
                checks.push(Check::wrong("state folder", Verdict::Failed, cause.to_string(), remedy));
            }
        }
    }
    let blobs = settings.workspace.blob_dir.as_deref().unwrap_or(&blobs);
    checks.push(room("blob folder", "workspace.blob_dir", blobs, settings.workspace.max_blob_bytes));
    Section::new("disk", checks)
}

/// Whether a folder, or what it would be made in, can be written and has so much room.
fn room(name: &str, setting: &str, folder: &Path, needed: u64) -> Check {
    let there = nearest(folder);
    let shown = folder.display();
    if access(&there, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let evidence = format!("{shown}: this user may not write to {}", there.display());
        return Check::wrong(name, Verdict::Failed, evidence, format!("grant it, or set {setting}"));
    }
    let free = match statvfs(&there) {
        // The types of the fields differ between machines.
        #[allow(clippy::useless_conversion)]
        Ok(room) => u64::from(room.blocks_available()).saturating_mul(u64::from(room.fragment_size())),
        Err(cause) => {
            let evidence = format!("{shown}: its room cannot be measured: {cause}");
            return Check::wrong(name, Verdict::Warning, evidence, format!("see the disk, or set {setting}"));
        }
    };
    let evidence = format!("{shown}: {} free", mebibytes(free));
    if free < needed {
        let remedy = format!("free some space there, or choose another folder with {setting}");
        let evidence = format!("{evidence}; {} may be needed", mebibytes(needed));
        return Check::wrong(name, Verdict::Warning, evidence, remedy);
    }
    Check::passed(name, evidence)
}

/// The folder itself, or the nearest above it that is there.
fn nearest(folder: &Path) -> PathBuf {
    let there = folder.ancestors().find(|ancestor| ancestor.is_dir());
    there.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")).to_owned()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_measured_where_a_folder_is_or_would_be_made() {
        let here = tempfile::tempdir().expect("a folder");
        let folder = here.path().join("not/yet");
        assert_eq!(nearest(&folder), here.path());
        assert_eq!(room("x", "y.z", &folder, 0).verdict, Verdict::Passed);
        let short = room("x", "y.z", &folder, u64::MAX);
        assert_eq!(short.verdict, Verdict::Warning);
        assert!(short.remedy.contains("y.z") && short.evidence.contains("MiB free"), "{short:?}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_fails() {
        // Not even the administrator writes here.
        let check = room("x", "y.z", Path::new("/proc/1/nothing"), 0);
        let is_refused = check.verdict == Verdict::Failed;
        assert!(is_refused || nix::unistd::Uid::effective().is_root(), "{check:?}");
    }
}
