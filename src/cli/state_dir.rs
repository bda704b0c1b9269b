//! The folder in which `lintmesh serve` keeps what must outlive it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::error::UsageError;
use crate::store::StoreError;

/// What is nobody's business but the owner's: the source code of others is in there.
const PRIVATE: u32 = 0o700;
const STORE: &str = "state.redb";

/// A folder that exists. One coordinator at a time may use it, which its store sees to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateDir(PathBuf);

impl StateDir {
    /// The folder of the settings, else the user's; made if it is not there.
    pub(super) fn open(setting: Option<&Path>) -> anyhow::Result<Self> {
        let path = Self::named_by(setting)?;
        let denied = |source| StoreError::Denied { action: "make", path: path.clone(), source };
        if path.is_file() {
            return Err(denied(io::ErrorKind::NotADirectory.into()).into());
        }
        DirBuilder::new().recursive(true).mode(PRIVATE).create(&path).map_err(denied)?;
        make_private(&path);
        Ok(Self(path))
    }

    /// Where it is or would be, as an absolute path: nodes work in other folders than this process.
    pub(super) fn named_by(setting: Option<&Path>) -> Result<PathBuf, UsageError> {
        let path = match setting {
            Some(path) => path.to_owned(),
            None => default_dir(|name| std::env::var_os(name).map(PathBuf::from))?,
        };
        Ok(std::path::absolute(&path).unwrap_or(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The store's file.
    pub(super) fn store(&self) -> PathBuf {
        self.0.join(STORE)
    }

    /// Where blobs are kept unless the settings say otherwise.
    pub(super) fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Holds a folder for each node that is launched.
    pub(super) fn nodes(&self) -> PathBuf {
        self.0.join("nodes")
    }

    /// Which nodes were launched.
    pub(super) fn launched(&self) -> PathBuf {
        self.0.join("launched.json")
    }
}

/// As the XDG Base Directory Specification has it: relative paths do not count.
fn default_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, UsageError> {
    let set = |name| variable(name).filter(|path| path.is_absolute());
    let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    base.map(|base| base.join("lintmesh")).ok_or_else(|| {
        UsageError(
            "there is no folder for the state: neither XDG_STATE_HOME nor HOME is an absolute path; set state.dir, \
             or state.store = \"memory\" to keep nothing"
                .to_owned(),
        )
    })
}

/// Takes the folder from others, if it is for nothing but the state: somebody may have named one that is shared.
fn make_private(path: &Path) {
    let open_to_others = fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0);
    if !open_to_others {
        return;
    }
    let is_ours =
        path.join(STORE).exists() || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let changed = match is_ours {
        true => fs::set_permissions(path, Permissions::from_mode(PRIVATE)),
        false => Err(io::Error::other("it holds other files too")),
    };
    if let Err(error) = changed {
        tracing::warn!(dir = %path.display(), %error, "others may read the folder with the state");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o777
    }

    #[test]
    fn the_user_s_folder_is_where_the_specification_says() {
        let with = |set: &[(&str, &str)]| {
            default_dir(|name| Some(set.iter().find(|(key, _)| *key == name)?.1.into()))
        };
        let found = |set| with(set).map(|path| path.display().to_string());
        assert_eq!(found(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]).as_deref(), Ok("/s/lintmesh"));
        assert_eq!(
            found(&[("XDG_STATE_HOME", "s"), ("HOME", "/h")]).as_deref(),
            Ok("/h/.local/state/lintmesh")
        );
        assert_eq!(
            found(&[("XDG_STATE_HOME", "")]).map_err(|error| error.to_string().contains("state.dir")),
            Err(true)
        );
    }

    #[test]
    fn it_is_made_private_unless_it_is_shared() {
        let dir = tempfile::tempdir().expect("a folder");
        let new = dir.path().join("a/b");
        StateDir::open(Some(&new)).expect("made");
        assert_eq!((mode(&new), mode(&dir.path().join("a"))), (PRIVATE, PRIVATE));
        let wide = || fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("changed");
        wide();
        StateDir::open(Some(&new)).expect("there");
        assert_eq!(mode(&new), PRIVATE, "an empty one");
        wide();
        fs::write(new.join("letter"), "").expect("written");
        StateDir::open(Some(&new)).expect("there");
        assert_eq!(mode(&new), 0o755, "somebody else's");
        fs::write(new.join(STORE), "").expect("written");
        StateDir::open(Some(&new)).expect("there");
        assert_eq!(mode(&new), PRIVATE, "it holds the state");
    }

    #[test]
    fn where_no_folder_can_be_the_error_names_it_and_a_remedy() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for path in [file.path().join("below"), "/proc/lintmesh".into()] {
            let error = StateDir::open(Some(&path)).expect_err("no folder").to_string();
            let start = format!("cannot make the state in {}: ", path.display());
            assert!(error.starts_with(&start) && error.contains("choose another state.dir"), "{error}");
        }
    }
}
