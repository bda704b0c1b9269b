//! The last file written into a managed toolchain: it says that the installation was completed, and of what.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::probe::is_executable;
use super::{TOOLS, lock};
use crate::types::Digest;

const FILE: &str = "lintmesh.json";

/// What was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    /// The toolchain's id, which is also its folder's name.
    pub(super) id: Digest,
    /// Where the packages are, relative to the folder.
    packages: PathBuf,
    /// The version of each tool.
    pub(super) versions: BTreeMap<String, String>,
}

impl Marker {
    /// Looks at what an installer left; none if something is missing.
    pub(super) fn of(folder: &Path, id: Digest) -> Option<Self> {
        let libraries = fs::read_dir(folder.join("lib")).ok()?.flatten();
        let packages = libraries
            .map(|library| Path::new("lib").join(library.file_name()).join("site-packages"))
            .find(|packages| folder.join(packages).is_dir())?;
        let pins = lock::pins(lock::LOCK);
        let versions = TOOLS
            .iter()
            .map(|tool| Some(((*tool).to_owned(), (*pins.get(tool)?).to_owned())))
            .collect::<Option<_>>()?;
        let marker = Self { id, packages, versions };
        marker.holds_in(folder).then_some(marker)
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let unfinished = folder.join(format!("{FILE}.new"));
        fs::write(&unfinished, serde_json::to_vec(self)?)?;
        fs::rename(unfinished, folder.join(FILE))
    }

    /// Reads it, if it is that of `id` and what it promises is still there.
    pub(super) fn read(folder: &Path, id: Digest) -> Option<Self> {
        let marker: Self = serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()?;
        (marker.id == id && marker.holds_in(folder)).then_some(marker)
    }

    /// Looks at a dozen files only. `bin/python` is a link that breaks when the system's Python is removed.
    fn holds_in(&self, folder: &Path) -> bool {
        is_executable(&folder.join("bin/python"))
            && self.versions.iter().all(|(tool, version)| {
                let metadata = self.packages.join(format!("{tool}-{version}.dist-info/METADATA"));
                is_executable(&folder.join("bin").join(tool)) && folder.join(metadata).is_file()
            })
    }
}
