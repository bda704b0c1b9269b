use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use proptest::prelude::*;

use super::*;
use crate::workspace::blobs::BlobLimits;

const LIMITS: TreeLimits = TreeLimits { max_files: 10, max_file_bytes: 100, max_total_bytes: 200 };

struct Blobs(BTreeMap<Digest, Vec<u8>>);

impl BlobSource for Blobs {
    fn bytes(&self, digest: &Digest) -> Result<Vec<u8>, BlobError> {
        self.0.get(digest).cloned().ok_or(BlobError::Missing(*digest))
    }
}

fn file(path: &str, text: &str) -> InlineFile {
    InlineFile { path: path.into(), bytes: text.into() }
}

fn tree(files: &[(&str, &str)]) -> (Manifest, Blobs) {
    let files = files.iter().map(|(path, text)| file(path, text)).collect();
    let (manifest, contents) = inline(files, &LIMITS).expect("a good tree");
    (manifest, Blobs(contents.into_iter().collect()))
}

#[test]
fn files_are_readable_only_and_where_the_manifest_says() {
    let (manifest, blobs) = tree(&[("a.py", "A"), ("p/q/b.py", "B"), ("p/c d\n.py", "B"), ("setup.cfg", "")]);
    assert_eq!(manifest.targets().count(), 3);
    assert_eq!(blobs.0.len(), 3, "equal contents are one blob");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let to = dir.path().join("tree");
    materialise(&manifest, &blobs, &to, &CancellationToken::new()).expect("written");
    assert_eq!(fs::read_to_string(to.join("p/q/b.py")).expect("there"), "B");
    assert_eq!(fs::read_to_string(to.join("p/c d\n.py")).expect("there"), "B");
    let mode = fs::metadata(to.join("a.py")).expect("there").permissions().mode();
    assert_eq!(mode & 0o222, 0, "{mode:o}");
}

#[test]
fn a_folder_that_holds_something_is_refused_and_left_alone() {
    let (manifest, blobs) = tree(&[("p/a.py", "A")]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let outside = dir.path().join("outside");
    let to = dir.path().join("tree");
    fs::create_dir_all(&outside).expect("created");
    fs::create_dir_all(&to).expect("created");
    symlink(&outside, to.join("p")).expect("linked");
    let result = materialise(&manifest, &blobs, &to, &CancellationToken::new());
    assert!(matches!(result, Err(MaterialiseError::NotEmpty(_))), "{result:?}");
    assert!(to.join("p").exists() && fs::read_dir(&outside).expect("there").next().is_none());
}

#[test]
fn a_failure_or_a_cancellation_leaves_nothing() {
    let (manifest, mut blobs) = tree(&[("a.py", "A"), ("b.py", "B")]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let to = dir.path().join("tree");
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let result = materialise(&manifest, &blobs, &to, &cancelled);
    assert!(matches!(result, Err(MaterialiseError::Cancelled)) && !to.exists(), "{result:?}");
    blobs.0.remove(&Digest::of(b"B"));
    let result = materialise(&manifest, &blobs, &to, &CancellationToken::new());
    let missing = Digest::of(b"B");
    assert!(
        matches!(&result, Err(MaterialiseError::Blob { path, source: BlobError::Missing(digest) })
            if path.as_str() == "b.py" && *digest == missing),
        "{result:?}"
    );
    assert!(!to.exists());
}

#[test]
fn a_manifest_that_lies_about_a_size_is_refused() {
    let (manifest, blobs) = tree(&[("a.py", "A")]);
    let mut entries = manifest.files().to_vec();
    entries[0].size = 2;
    let manifest = Manifest::new(entries).expect("valid");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let result = materialise(&manifest, &blobs, &dir.path().join("tree"), &CancellationToken::new());
    assert!(matches!(result, Err(MaterialiseError::Size { listed: 2, actual: 1, .. })), "{result:?}");
}

#[test]
fn every_bad_inline_file_is_named_with_its_field() {
    let long = "x".repeat(101);
    let files = vec![
        file("/etc/passwd.py", ""),
        file("../up.py", ""),
        file("a.py", ""),
        file("a.py", ""),
        file("a.py/b.py", ""),
        file("n\0l.py", ""),
        file("", ""),
        file("big.py", &long),
    ];
    let problems = inline(files, &LIMITS).expect_err("seven bad files");
    let all: Vec<_> = problems.iter().map(|p| (p.field.as_str(), p.description.as_str())).collect();
    for (field, part) in [
        ("workspace.inline.files[0].path", "absolute"),
        ("workspace.inline.files[1].path", "`..`"),
        ("workspace.inline.files[3].path", "listed twice (also files[2])"),
        ("workspace.inline.files[4].path", "lies beneath `a.py`"),
        ("workspace.inline.files[5].path", "NUL"),
        ("workspace.inline.files[6].path", "empty"),
        ("workspace.inline.files[7]", "at most 100"),
    ] {
        assert!(all.iter().any(|(f, d)| *f == field && d.contains(part)), "{field}: {part} in {all:?}");
    }
    assert_eq!(all.len(), 7, "{all:?}");
}

#[test]
fn too_many_files_and_too_many_bytes_are_refused_with_the_limit() {
    let many = (0..11).map(|n| file(&format!("{n}.py"), &"x".repeat(20))).collect();
    let problems = inline(many, &LIMITS).expect_err("11 files, 220 bytes");
    let text = problems.iter().map(|p| p.description.clone()).collect::<Vec<_>>().join("\n");
    assert!(
        text.contains("11 files; at most 10") && text.contains("220 bytes") && text.contains("200"),
        "{text}"
    );
    let (manifest, _) = tree(&[("a.py", "123")]);
    assert_eq!(beyond_limits(&manifest, &LIMITS), []);
    let tight = TreeLimits { max_file_bytes: 2, ..LIMITS };
    assert_eq!(beyond_limits(&manifest, &tight).len(), 1);
}

/// Trees with up to three levels, names that need no quoting and names that do.
fn any_tree() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let part = prop_oneof!["[a-c]", "[ -~&&[^/]]{1,6}[a-z]", "\\PC{1,4}x"];
    let path = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    prop::collection::btree_map(path, prop::collection::vec(any::<u8>(), 0..50), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_tree_is_the_same_after_a_trip_through_blobs(files in any_tree()) {
        let roomy = TreeLimits { max_files: 100, max_file_bytes: 100, max_total_bytes: 10_000 };
        let given = files.iter().map(|(path, bytes)| InlineFile { path: path.clone(), bytes: bytes.clone() });
        let Ok((manifest, contents)) = inline(given.collect(), &roomy) else {
            // Only a path beneath a file, or a part such as `/`, is a reason.
            let good: Vec<_> = files.keys().filter_map(|path| TreePath::new(path).ok()).collect();
            prop_assert!(good.len() < files.len() || !clashes(good.iter().enumerate()).is_empty());
            return Ok(());
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let limits = BlobLimits { max_blob_bytes: 100, max_total_bytes: 10_000 };
        let store = BlobStore::open(&dir.path().join("blobs"), limits).expect("opened");
        for (digest, bytes) in &contents {
            store.put_expected(*digest, bytes).expect("stored");
        }
        let to = dir.path().join("tree");
        materialise(&manifest, &store, &to, &CancellationToken::new()).expect("written");
        prop_assert_eq!(manifest.files().len(), files.len());
        for (path, bytes) in &files {
            prop_assert_eq!(&fs::read(to.join(path)).expect("there"), bytes);
        }
    }
}
