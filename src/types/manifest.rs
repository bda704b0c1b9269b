//! The list of a tree's files: what a snapshot digest stands for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, TreePath};

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEntry {
    /// Where it is.
    pub path: TreePath,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is linted. Other files are there because linters read them: their configuration, and
    /// modules that linted files import.
    #[serde(default = "lint_by_default", skip_serializing_if = "is_true")]
    pub lint: bool,
}

const fn lint_by_default() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_true(value: &bool) -> bool {
    *value
}

/// The files of a tree, sorted by path; each path once.
///
/// Its canonical bytes are JSON without white space:
/// `{"version":1,"files":[{"path":"a.py","digest":"<64 hex digits>","size":10}, ...]}`, with `"lint":false` last in
/// the entries of files that are not linted, and `"unreadable":[{"path":"b.py","reason":"..."}]` last if the tree has
/// files that could not be read. The digest of those bytes names the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    version: u32,
    files: Vec<ManifestEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Unreadable>,
}

/// A file that is in the tree but cannot be given to a linter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unreadable {
    /// Its path, with what is not UTF-8 replaced.
    pub path: TreePath,
    /// Why, in words for the report.
    pub reason: String,
}

/// One thing wrong with a list of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestProblem {
    /// The field it is in, for example `files[3].path`.
    pub field: String,
    /// What is wrong, with the value and the remedy.
    pub description: String,
}

/// Everything wrong with a list of files, at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid list of files: {}", .0.iter().map(|p| format!("{}: {}", p.field, p.description)).collect::<Vec<_>>().join("; "))]
pub struct ManifestError(pub Vec<ManifestProblem>);

/// The entry as it arrives, before its path is checked, so that all bad paths are reported at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedEntry {
    path: String,
    digest: Digest,
    size: u64,
    #[serde(default = "lint_by_default")]
    lint: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedManifest {
    version: u32,
    files: Vec<UncheckedEntry>,
    #[serde(default)]
    unreadable: Vec<Unreadable>,
}

impl Manifest {
    /// Sorts the entries and checks that no path is listed twice or lies beneath a file.
    pub fn new(mut files: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        let problems = clashes(files.iter().map(|file| &file.path).enumerate());
        if !problems.is_empty() {
            return Err(ManifestError(problems));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { version: 1, files, unreadable: Vec::new() })
    }

    /// Reads a manifest from JSON, canonical or not.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let one = |field: &str, description: String| {
            ManifestError(vec![ManifestProblem { field: field.into(), description }])
        };
        let unchecked: UncheckedManifest = serde_json::from_slice(bytes)
            .map_err(|error| one("manifest", format!("is not the expected JSON: {error}")))?;
        if unchecked.version != 1 {
            return Err(one("version", format!("is {}; only 1 is known", unchecked.version)));
        }
        let mut problems = Vec::new();
        let mut files = Vec::with_capacity(unchecked.files.len());
        let mut indices = Vec::with_capacity(unchecked.files.len());
        for (index, entry) in unchecked.files.into_iter().enumerate() {
            match TreePath::new(&entry.path) {
                Ok(path) => {
                    indices.push(index);
                    files.push(ManifestEntry {
                        path,
                        digest: entry.digest,
                        size: entry.size,
                        lint: entry.lint,
                    });
                }
                Err(error) => problems.push(ManifestProblem {
                    field: format!("files[{index}].path"),
                    description: error.to_string(),
                }),
            }
        }
        problems.extend(clashes(indices.into_iter().zip(files.iter().map(|file| &file.path))));
        if !problems.is_empty() {
            return Err(ManifestError(problems));
        }
        Ok(Self::new(files)?.with_unreadable(unchecked.unreadable))
    }

    /// The bytes whose digest names the snapshot.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| unreachable!("plain data serialises: {error}"))
    }

    /// The snapshot digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical_bytes())
    }

    /// The same list, with files of the tree that could not be read.
    pub fn with_unreadable(mut self, mut unreadable: Vec<Unreadable>) -> Self {
        unreadable.sort();
        self.unreadable = unreadable;
        self
    }

    /// Files of the tree that could not be read, sorted; each becomes a diagnostic of the report.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// All files, sorted by path.
    pub fn files(&self) -> &[ManifestEntry] {
        &self.files
    }

    /// The files to lint, sorted by path.
    pub fn targets(&self) -> impl Iterator<Item = &ManifestEntry> {
        self.files.iter().filter(|file| file.lint)
    }

    /// The entry of a path.
    pub fn get(&self, path: &str) -> Option<&ManifestEntry> {
        let found = self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok()?;
        self.files.get(found)
    }
}

/// Paths listed twice, and paths beneath another path of the list; each path with its index in the list it came in.
pub(crate) fn clashes<'a>(paths: impl Iterator<Item = (usize, &'a TreePath)>) -> Vec<ManifestProblem> {
    let mut first_seen = BTreeMap::new();
    let mut problems = Vec::new();
    let paths: Vec<_> = paths.collect();
    for (index, path) in &paths {
        if let Some(first) = first_seen.get(path.as_str()) {
            problems.push(ManifestProblem {
                field: format!("files[{index}].path"),
                description: format!("path `{path}` is listed twice (also files[{first}])"),
            });
        } else {
            first_seen.insert(path.as_str(), index);
        }
    }
    for (index, path) in &paths {
        if let Some(file) = path.ancestors().find(|above| first_seen.contains_key(above)) {
            problems.push(ManifestProblem {
                field: format!("files[{index}].path"),
                description: format!("path `{path}` lies beneath `{file}`, which is a file"),
            });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> ManifestEntry {
        ManifestEntry {
            path: TreePath::new(path).expect("valid"),
            digest: Digest::of(path.as_bytes()),
            size: 3,
            lint: !path.ends_with(".toml"),
        }
    }

    #[test]
    fn canonical_bytes_do_not_depend_on_the_order_given() {
        let one = Manifest::new(vec![entry("b.py"), entry("a.py"), entry("pyproject.toml")]).expect("valid");
        let other =
            Manifest::new(vec![entry("pyproject.toml"), entry("a.py"), entry("b.py")]).expect("valid");
        assert_eq!(one.canonical_bytes(), other.canonical_bytes());
        assert_eq!(Manifest::parse(&one.canonical_bytes()), Ok(one.clone()));
        assert_eq!(one.targets().count(), 2);
        let text = String::from_utf8(one.canonical_bytes()).expect("UTF-8");
        assert!(text.starts_with("{\"version\":1,\"files\":[{\"path\":\"a.py\",\"digest\":\""), "{text}");
    }

    #[test]
    fn every_bad_path_is_named_at_once() {
        let digest = Digest::of(b"");
        let json = format!(
            r#"{{"version":1,"files":[{{"path":"/etc/a.py","digest":"{digest}","size":0}},
            {{"path":"../b.py","digest":"{digest}","size":0}},{{"path":"c.py","digest":"{digest}","size":0}},
            {{"path":"c.py","digest":"{digest}","size":0}},{{"path":"c.py/d.py","digest":"{digest}","size":0}}]}}"#
        );
        let error = Manifest::parse(json.as_bytes()).expect_err("four bad paths").to_string();
        for part in
            ["/etc/a.py", "../b.py", "files[3].path: path `c.py` is listed twice", "lies beneath `c.py`"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
