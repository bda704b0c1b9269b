//! Objects in a folder of this machine, by `object_store`.
//!
//! An object is written to a file of its own beside the others and then moved to its name, so that a reader sees all of
//! it or nothing: pieces of any number pass without being gathered in memory, and a crash leaves only files that are
//! removed at the next start. `object_store` moves, opens, lists and deletes.

mod calls;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::{GetResultPayload, ObjectStore as _, ObjectStoreExt as _};
use tempfile::{NamedTempFile, TempPath};
use tokio_stream::StreamExt as _;

use super::BlobError;
use super::objects::{ObjectError, Objects, Staged, Stored};
use crate::types::Digest;
use calls::Calls;

/// Files being written; emptied when the folder is opened.
pub(super) const PARTIAL: &str = "partial";
/// Beyond so many objects one sync of the whole file system costs less than one of each file and its folder.
const SYNCED_ONE_BY_ONE: usize = 8;

/// A folder of objects that this process alone uses.
pub struct LocalObjects {
    shared: Arc<Shared>,
    /// Holds the lock on the folder for as long as this lives.
    _lock: File,
}

struct Shared {
    dir: PathBuf,
    files: LocalFileSystem,
    calls: Calls,
}

impl LocalObjects {
    /// Opens the folder, which is made if needed. One process at a time.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        // Source code is nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => BlobError::InUse { dir: dir.to_owned() },
            fs::TryLockError::Error(source) => from_io(&lock_path, source).into(),
        })?;
        let partial = dir.join(PARTIAL);
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&partial)(error).into()),
            _ => fs::create_dir(&partial).map_err(at(&partial))?,
        }
        let files = LocalFileSystem::new_with_prefix(dir).map_err(|error| from_store(dir, error))?;
        let calls = Calls::start().map_err(at(dir))?;
        let shared = Shared { dir: dir.to_owned(), files, calls };
        Ok(Self { shared: Arc::new(shared), _lock: lock })
    }
}

impl Shared {
    fn path(&self, name: &Digest) -> PathBuf {
        self.dir.join(location(name).as_ref())
    }

    /// Has the library do something, wherever the caller is.
    fn call<T, F>(&self, work: impl FnOnce(LocalFileSystem) -> F + Send + 'static) -> object_store::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = object_store::Result<T>> + Send,
    {
        let files = self.files.clone();
        self.calls.run(move || work(files)).unwrap_or_else(|| {
            let source = "a thread that does file work has ended".into();
            Err(object_store::Error::Generic { store: "LocalFileSystem", source })
        })
    }

    /// Whether something else than an own file has the name: links are not followed out of the folder.
    fn is_foreign(&self, name: &Digest) -> bool {
        let path = self.path(name);
        let is = |path: &Path, wanted: fn(&fs::FileType) -> bool| {
            fs::symlink_metadata(path).is_ok_and(|found| wanted(&found.file_type()))
        };
        !is(&path, fs::FileType::is_file) || !path.parent().is_some_and(|dir| is(dir, fs::FileType::is_dir))
    }
}

impl Objects for LocalObjects {
    fn stage(&self) -> Result<Box<dyn Staged>, ObjectError> {
        let partial = self.shared.dir.join(PARTIAL);
        let (file, path) = NamedTempFile::new_in(&partial).map_err(at(&partial))?.into_parts();
        Ok(Box::new(LocalStaged { shared: self.shared.clone(), file, path }))
    }

    fn open(&self, name: &Digest) -> Result<Option<Box<dyn Read + Send>>, ObjectError> {
        if self.shared.is_foreign(name) {
            return Ok(None);
        }
        let at = location(name);
        match self.shared.call(|files| async move { files.get(&at).await }) {
            Ok(found) => match found.payload {
                GetResultPayload::File(file, _) => Ok(Some(Box::new(file))),
                GetResultPayload::Stream(_) => {
                    let source = io::Error::other("the file came as a stream");
                    Err(ObjectError::Failed { place: self.shared.path(name).display().to_string(), source })
                }
            },
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(from_store(&self.shared.path(name), error)),
        }
    }

    fn delete(&self, name: &Digest) -> Result<(), ObjectError> {
        let at = location(name);
        match self.shared.call(|files| async move { files.delete(&at).await }) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_store(&self.shared.path(name), error)),
        }
    }

    fn list(&self) -> Result<Vec<Stored>, ObjectError> {
        let found = self.shared.call(|files| async move {
            let mut all = Vec::new();
            let mut listed = files.list(None);
            while let Some(found) = listed.next().await {
                all.push(found?);
            }
            Ok(all)
        });
        let found = found.map_err(|error| from_store(&self.shared.dir, error))?;
        let own = found.into_iter().filter_map(|object| {
            let name = object.location.as_ref().replacen('/', "", 1).parse::<Digest>().ok()?;
            let is_own = object.location == location(&name) && !self.shared.is_foreign(&name);
            is_own.then(|| Stored { name, size: object.size, modified: object.last_modified.into() })
        });
        Ok(own.collect())
    }

    fn make_durable(&self, names: &[Digest]) -> Result<(), ObjectError> {
        let dir = &self.shared.dir;
        if names.len() > SYNCED_ONE_BY_ONE {
            let folder = File::open(dir).map_err(at(dir))?;
            return nix::unistd::syncfs(&folder).map_err(|error| from_io(dir, error.into()));
        }
        let mut folders = BTreeSet::from([dir.clone()]);
        for name in names {
            let path = self.shared.path(name);
            sync(&path)?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        // Names are kept in folders, and a new folder's name in the one above.
        folders.iter().try_for_each(|folder| sync(folder))
    }

    fn place(&self) -> String {
        self.shared.dir.display().to_string()
    }
}

/// A file in [`PARTIAL`].
struct LocalStaged {
    shared: Arc<Shared>,
    file: File,
    path: TempPath,
}

impl Staged for LocalStaged {
    fn write(&mut self, piece: &[u8]) -> Result<(), ObjectError> {
        self.file.write_all(piece).map_err(at(&self.path))
    }

    fn publish(self: Box<Self>, name: &Digest) -> Result<(), ObjectError> {
        let Self { shared, file, path } = *self;
        file.set_permissions(Permissions::from_mode(0o400)).map_err(at(&path))?;
        drop(file);
        let staged = path.file_name().map(|file| Location::from_iter([PARTIAL, &file.to_string_lossy()]));
        let from = staged.ok_or_else(|| from_io(&path, io::ErrorKind::InvalidFilename.into()))?;
        let to = location(name);
        shared
            .call(|files| async move { files.rename(&from, &to).await })
            .map_err(|error| from_store(&shared.path(name), error))?;
        // It has another name now.
        let _ = path.keep();
        Ok(())
    }
}

/// Two levels, so that no folder gets too many entries.
fn location(name: &Digest) -> Location {
    let name = name.to_string();
    let (folder, rest) = name.split_at(2);
    Location::from_iter([folder, rest])
}

fn sync(path: &Path) -> Result<(), ObjectError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ObjectError + use<> {
    let path = path.to_owned();
    move |source| from_io(&path, source)
}

fn from_io(path: &Path, source: io::Error) -> ObjectError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ObjectError::Full { place: path.parent().unwrap_or(path).display().to_string() }
        }
        _ => ObjectError::Failed { place: path.display().to_string(), source },
    }
}

/// The library wraps what the system said.
fn from_store(path: &Path, error: object_store::Error) -> ObjectError {
    let mut inner: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut kind = io::ErrorKind::Other;
    while let Some(cause) = inner {
        if let Some(by_system) = cause.downcast_ref::<io::Error>() {
            kind = by_system.kind();
        }
        inner = cause.source();
    }
    from_io(path, io::Error::new(kind, error))
}

#[cfg(test)]
mod tests;
