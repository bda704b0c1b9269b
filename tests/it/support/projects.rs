//! Real projects, as their source archives on the package index: pinned by version and SHA-256.

use std::path::{Path, PathBuf};
use std::process::Command;

use lintmesh::types::Digest;

use super::cache::made_once;

struct Archive {
    name: &'static str,
    version: &'static str,
    sha256: &'static str,
}

const ARCHIVES: [Archive; 2] = [
    Archive {
        name: "flask",
        version: "3.1.3",
        sha256: "0ef0e52b8a9cd932855379197dd8f94047b359ca0a78695144304cb45f87c9eb",
    },
    Archive {
        name: "requests",
        version: "2.32.5",
        sha256: "dbba0bac56e100853db0ea71b82b4dfd5fe2bf6d3754a8893c3af500cec7d7cf",
    },
];

/// The unpacked source archive of `flask` or `requests`. Callers must not change it.
pub(crate) fn project(name: &str) -> PathBuf {
    let archive = ARCHIVES.iter().find(|archive| archive.name == name).expect("a known project");
    let stem = format!("{}-{}", archive.name, archive.version);
    made_once(&stem, |folder| download(archive, folder)).join(&stem)
}

/// pip knows the machine's index, proxy and certificates. It asks the project's build backend for metadata, which it
/// fetches as a wheel; the archive's digest is checked before it is unpacked here.
fn download(archive: &Archive, folder: &Path) {
    let requirement = format!("{}=={}", archive.name, archive.version);
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", archive.name, "--dest"])
        .arg(folder)
        .arg(requirement));
    let file = folder.join(format!("{}-{}.tar.gz", archive.name, archive.version));
    let bytes = std::fs::read(&file).expect("pip downloaded it");
    assert_eq!(Digest::of(&bytes).to_string(), archive.sha256, "{} is another archive", archive.name);
    run(Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(folder));
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
