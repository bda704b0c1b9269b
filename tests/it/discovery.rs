//! One explicit, sorted list of files per run, which depends on the tree and on nothing else.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lintmesh::types::Digest;
use lintmesh::workspace::discover::{DiscoverError, DiscoverOptions, Discovered, discover};
use lintmesh::workspace::snapshot::TreeLimits;

fn options() -> DiscoverOptions {
    DiscoverOptions {
        base: None,
        exclude: vec![],
        force_exclude: false,
        limits: TreeLimits { max_files: 1000, max_file_bytes: 100, max_total_bytes: 10_000 },
        max_entries: 1000,
        threads: 2,
    }
}

/// A tree with these files, each holding its own path.
fn tree(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().canonicalize().expect("it exists").join("root");
    fs::create_dir(&root).expect("created");
    for file in files {
        write(&root, file, file);
    }
    (dir, root)
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().expect("beneath the root")).expect("created");
    fs::write(path, text).expect("written");
}

fn find(root: &Path, paths: &[&str], options: &DiscoverOptions) -> Discovered {
    let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
    discover(root, &paths, options).expect("a list")
}

fn targets(found: &Discovered) -> Vec<&str> {
    found.manifest.targets().map(|file| file.path.as_str()).collect()
}

fn support(found: &Discovered) -> Vec<&str> {
    found.manifest.files().iter().filter(|file| !file.lint).map(|file| file.path.as_str()).collect()
}

#[test]
fn python_files_are_linted_and_what_linters_read_is_listed_beside_them() {
    let (_dir, root) = tree(&[
        "b.py",
        "a.py",
        "-x.py",
        ".hidden.py",
        "pkg/a b'\"\n.py",
        "pkg/ü.py",
        "pkg/stub.pyi",
        "pkg/py.typed",
        "setup.cfg",
        ".flake8",
        "conf/base.toml",
        "README.md",
        "data.json",
        "a.pyc",
    ]);
    let found = find(&root, &[], &options());
    assert_eq!(targets(&found), ["-x.py", ".hidden.py", "a.py", "b.py", "pkg/a b'\"\n.py", "pkg/ü.py"]);
    assert_eq!(support(&found), [".flake8", "conf/base.toml", "pkg/py.typed", "pkg/stub.pyi", "setup.cfg"]);
    let entry = found.manifest.get("a.py").expect("listed");
    assert_eq!((entry.digest, entry.size), (Digest::of(b"a.py"), 4));
    assert_eq!(found.manifest.unreadable(), []);
}

#[test]
fn folders_of_tools_environments_and_build_results_are_passed_over() {
    let (_dir, root) = tree(&[
        "a.py",
        ".git/hook.py",
        ".tox/x.py",
        "node_modules/x.py",
        "pkg/__pycache__/x.py",
        "env/pyvenv.cfg",
        "env/lib/x.py",
        "conda/conda-meta/x.py",
        "conda/y.py",
        "build/lib/x.py",
        "dist/x.py",
        "src/build/__init__.py",
    ]);
    assert_eq!(targets(&find(&root, &[], &options())), ["a.py", "src/build/__init__.py"]);
}

#[test]
fn git_ignore_files_count_without_a_repository_and_never_hide_configuration() {
    let files = ["a.py", "gen/x.py", "sub/gen.py", "sub/keep.py", ".flake8", "sub/ruff.toml"];
    let (dir, root) = tree(&files);
    write(&root, ".gitignore", "gen/\n.flake8\nruff.toml\n");
    write(&root, "sub/.gitignore", "gen.py\n");
    write(dir.path(), ".gitignore", "a.py\n");
    let plain = find(&root, &[], &options());
    assert_eq!(targets(&plain), ["a.py", "sub/keep.py"], "an ignore file above the root does not count");
    assert_eq!(support(&plain), [".flake8", "sub/ruff.toml"]);
    fs::create_dir(root.join(".git")).expect("created");
    write(&root, ".git/info/exclude", "keep.py\n");
    assert_eq!(find(&root, &[], &options()).manifest, plain.manifest, "a repository changes nothing");
}

#[test]
fn in_a_repository_its_upper_ignore_files_count() {
    let (_dir, top) = tree(&[".git/HEAD", "project/a.py", "project/b.py"]);
    write(&top, ".gitignore", "b.py\n");
    assert_eq!(targets(&find(&top.join("project"), &[], &options())), ["a.py"]);
}

#[test]
fn only_what_is_named_is_linted_but_all_is_listed_for_imports() {
    let (_dir, root) = tree(&["a.py", "lib/b.py", "lib/c.py", "mypy.ini"]);
    let found = find(&root, &["lib"], &options());
    assert_eq!((targets(&found), support(&found)), (vec!["lib/b.py", "lib/c.py"], vec!["a.py", "mypy.ini"]));
    let found = find(&root, &["lib/c.py", "a.py"], &options());
    assert_eq!((targets(&found), support(&found)), (vec!["a.py", "lib/c.py"], vec!["lib/b.py", "mypy.ini"]));
    let from_lib = DiscoverOptions { base: Some(root.join("lib")), ..options() };
    assert_eq!(targets(&find(&root, &["b.py", "../a.py"], &from_lib)), ["a.py", "lib/b.py"]);
}

#[test]
fn what_is_named_is_linted_even_if_ignored_hidden_or_excluded() {
    let (_dir, root) = tree(&["script", "gen/x.py", "gen/y.py", ".tools/z.py", "skip/w.py"]);
    write(&root, ".gitignore", "gen/\n");
    let options = DiscoverOptions { exclude: vec!["skip".into()], ..options() };
    let named = ["script", "gen/x.py", ".tools", "skip/w.py"];
    let found = find(&root, &named, &options);
    assert_eq!(targets(&found), [".tools/z.py", "gen/x.py", "script", "skip/w.py"]);
    assert!(found.left_out.is_empty());
    let forced = find(&root, &named, &DiscoverOptions { force_exclude: true, ..options.clone() });
    assert_eq!(targets(&forced), [".tools/z.py", "gen/x.py", "script"]);
    assert_eq!(forced.left_out, [root.join("skip/w.py")]);
    let none = find(&root, &["skip/w.py"], &DiscoverOptions { force_exclude: true, ..options });
    assert_eq!(targets(&none), [""; 0], "nothing is left, which is not the whole tree");
}

#[test]
fn excluded_files_are_not_linted_but_can_be_imported() {
    let (_dir, root) =
        tree(&["a.py", "m_pb2.py", "docs/conf.py", "docs/x/conf.py", "x/docs/b.py", "old/deep/c.py"]);
    let exclude = |patterns: &[&str]| DiscoverOptions {
        exclude: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..options()
    };
    let found = find(&root, &[], &exclude(&["*_pb2.py", "/docs", "old/"]));
    assert_eq!(targets(&found), ["a.py", "x/docs/b.py"]);
    assert_eq!(support(&found), ["docs/conf.py", "docs/x/conf.py", "m_pb2.py", "old/deep/c.py"]);
    let found = find(&root, &[], &exclude(&["docs/**/conf.py", "old/*"]));
    assert_eq!(targets(&found), ["a.py", "m_pb2.py", "x/docs/b.py"]);
    let error = discover(&root, &[], &exclude(&["a[.py"])).expect_err("an open bracket").to_string();
    assert!(error.contains("exclude pattern `a[.py`"), "{error}");
}

#[test]
fn links_are_not_followed_but_counted() {
    let (dir, root) = tree(&["a.py"]);
    write(dir.path(), "outside/b.py", "");
    symlink("a.py", root.join("link.py")).expect("linked");
    symlink("../outside", root.join("folder")).expect("linked");
    symlink("..", root.join("loop")).expect("linked");
    let found = find(&root, &[], &options());
    assert_eq!((targets(&found), found.links), (vec!["a.py"], 1));
    assert_eq!(targets(&find(&root, &["link.py"], &options())), ["a.py"], "a named link stands for its file");
    let error = discover(&root, &["folder".into()], &options()).expect_err("it leads out");
    assert!(matches!(error, DiscoverError::Outside { .. }), "{error}");
}

#[test]
fn a_file_that_cannot_be_listed_is_reported_and_the_others_are_not_affected() {
    let (_dir, root) = tree(&["a.py"]);
    write(&root, "big.py", &"x".repeat(101));
    write(&root, "edge.py", &"x".repeat(100));
    fs::write(root.join(OsStr::from_bytes(b"bad\xff.py")), "").expect("written");
    fs::write(root.join(OsStr::from_bytes(b"bad\xff.txt")), "").expect("written");
    let found = find(&root, &[], &options());
    assert_eq!(targets(&found), ["a.py", "edge.py"]);
    let reasons: Vec<_> =
        found.manifest.unreadable().iter().map(|u| (u.path.as_str(), u.reason.as_str())).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].0 == "bad\u{fffd}.py" && reasons[0].1.contains("not UTF-8"), "{reasons:?}");
    assert!(reasons[1].0 == "big.py" && reasons[1].1.contains("at most 100"), "{reasons:?}");
}

#[test]
fn a_file_without_a_usable_name_is_missed_only_where_it_would_be_linted() {
    let (_dir, root) = tree(&["a/a.py", "b/b.py"]);
    fs::write(root.join(OsStr::from_bytes(b"b/bad\xff.py")), "").expect("written");
    let missed = |paths: &[&str], options: &DiscoverOptions| {
        let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
        discover(&root, &paths, options).expect("found").manifest.unreadable().len()
    };
    assert_eq!(missed(&[], &options()), 1);
    assert_eq!(missed(&["b"], &options()), 1);
    assert_eq!(missed(&["a"], &options()), 0);
    assert_eq!(missed(&[], &DiscoverOptions { exclude: vec!["b".into()], ..options() }), 0);
}

#[test]
fn paths_that_do_not_exist_are_all_named() {
    let (_dir, root) = tree(&["a.py"]);
    let paths = ["a.py", "no.py", "nowhere"].map(PathBuf::from);
    let error = discover(&root, &paths, &options()).expect_err("two are missing");
    assert_eq!(error.to_string(), "paths no.py, nowhere do not exist");
    let error = discover(&root.join("none"), &[], &options()).expect_err("no root").to_string();
    assert!(error.ends_with("none does not exist"), "{error}");
}

#[test]
fn a_tree_without_python_is_empty_and_no_error() {
    let (_dir, root) = tree(&["README.md"]);
    let found = find(&root, &[], &options());
    assert_eq!((found.manifest.files().len(), found.manifest.unreadable().len()), (0, 0));
}

#[test]
fn each_limit_ends_the_walk_with_a_clear_error() {
    let (_dir, root) = tree(&["a.py", "b.py", "c.md"]);
    let limits = options().limits;
    for (options, setting) in [
        (DiscoverOptions { max_entries: 3, ..options() }, "workspace.max_entries"),
        (
            DiscoverOptions { limits: TreeLimits { max_files: 1, ..limits }, ..options() },
            "workspace.max_snapshot_files",
        ),
        (
            DiscoverOptions { limits: TreeLimits { max_total_bytes: 7, ..limits }, ..options() },
            "workspace.max_snapshot_bytes",
        ),
    ] {
        let error = discover(&root, &[], &options).expect_err("over the limit");
        assert!(matches!(error, DiscoverError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains(setting), "{error}");
    }
    assert_eq!(find(&root, &[], &DiscoverOptions { max_entries: 4, ..options() }).manifest.files().len(), 2);
}

#[test]
fn many_files_give_the_same_list_with_any_number_of_threads() {
    let names: Vec<_> = (0..200).map(|n| format!("p{}/m{n}.py", n % 7)).collect();
    let (_dir, root) = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let one = find(&root, &[], &DiscoverOptions { threads: 1, ..options() });
    let many = find(&root, &[], &DiscoverOptions { threads: 8, ..options() });
    assert_eq!(one, many);
    assert_eq!(one.manifest.files().len(), 200);
}
