//! Which folder is the tree, when a user names some paths.

use std::path::{Component, Path, PathBuf};

use super::selection::CONFIGURATION;

/// What else marks the root of a project.
const MARKERS: [&str; 2] = [".git", "lintmesh.toml"];

/// The folder that holds the tree which the paths belong to. Linters run there.
///
/// 1. The nearest folder, from the paths' common folder upwards, that holds `.git`, `lintmesh.toml` or the
///    configuration of a linter: there the tools find the configuration that the project's authors mean.
/// 2. Else `cwd` if all paths are beneath it: imports and reported paths are as for a tool started there.
/// 3. Else the paths' common folder.
///
/// `cwd` is absolute; paths are absolute or relative to it; none means `cwd` itself. A path that does not exist
/// counts as a file.
pub fn project_root(cwd: &Path, paths: &[PathBuf]) -> PathBuf {
    let cwd = cwd.canonicalize().unwrap_or_else(|_| lexical(cwd));
    let folders: Vec<PathBuf> = paths.iter().map(|path| folder_of(&cwd.join(path))).collect();
    let common = folders.into_iter().reduce(|a, b| common_folder(&a, &b)).unwrap_or_else(|| cwd.clone());
    let marked = common.ancestors().find(|folder| {
        CONFIGURATION.iter().chain(&MARKERS).any(|marker| folder.join(marker).symlink_metadata().is_ok())
    });
    match marked {
        Some(folder) => folder.to_owned(),
        None if common.starts_with(&cwd) => cwd,
        None => common,
    }
}

fn folder_of(path: &Path) -> PathBuf {
    let full = path.canonicalize().unwrap_or_else(|_| lexical(path));
    if full.is_dir() { full } else { full.parent().map(Path::to_owned).unwrap_or(full) }
}

/// Without `.` and `..`, for a path that cannot be asked from the file system.
fn lexical(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

fn common_folder(a: &Path, b: &Path) -> PathBuf {
    a.components().zip(b.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().canonicalize().expect("it exists");
        for sub in ["proj/pkg/deep", "other"] {
            fs::create_dir_all(path.join(sub)).expect("created");
        }
        fs::write(path.join("proj/pkg/deep/a.py"), "").expect("written");
        (dir, path)
    }

    #[test]
    fn the_nearest_marked_folder_above_the_paths_is_the_root() {
        let (_dir, path) = folder();
        fs::write(path.join("proj/pyproject.toml"), "").expect("written");
        let paths = [PathBuf::from("proj/pkg/deep/a.py"), PathBuf::from("proj/pkg")];
        assert_eq!(project_root(&path, &paths), path.join("proj"));
        fs::create_dir(path.join("proj/pkg/.git")).expect("created");
        assert_eq!(project_root(&path, &paths), path.join("proj/pkg"));
    }

    #[test]
    fn without_a_marker_it_is_the_working_directory_or_the_common_folder() {
        let (_dir, path) = folder();
        assert_eq!(project_root(&path, &["proj/pkg/deep/a.py".into()]), path);
        assert_eq!(project_root(&path, &[]), path);
        let other = path.join("other");
        assert_eq!(project_root(&other, &["../proj/pkg/deep/a.py".into()]), path.join("proj/pkg/deep"));
        assert_eq!(
            project_root(&other, &["../proj/pkg".into(), "../proj/none.py".into()]),
            path.join("proj")
        );
    }
}
