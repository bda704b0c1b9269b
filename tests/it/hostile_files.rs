//! A tree may hold any file under any name: each is linted or reported as that file's diagnostic, and what is said of
//! the other files does not change.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::support::lint_command::{Report, World};

const GOOD: &str = "import os\nimport subprocess\n\n\ndef f(x: int) -> str:\n    subprocess.call(\"ls\", shell=True)\n    return x\n";
/// What each tool says of [`GOOD`], among other things.
const SAID: [(&str, &str); 5] =
    [("bandit", "B602"), ("flake8", "F401"), ("mypy", "return-value"), ("pylint", "W0611"), ("ruff", "F401")];

/// Hostile names for good content, apart from one that is not UTF-8.
const NAMES: [&str; 9] = [
    "-dash.py",
    "--version.py",
    "@list.py",
    "a b.py",
    "quo'te\".py",
    "new\nline.py",
    "\u{fc}n\u{ef}.py",
    "back\\slash.py",
    "$(touch x);*.py",
];

/// Files that no parser takes, and which tools must report them.
const BROKEN: [(&str, &[u8], &[&str]); 4] = [
    ("broken.py", b"def f(:\n    pass\n", &["bandit", "flake8", "mypy", "pylint", "ruff"]),
    ("latin.py", b"x = \"\xe9\xff\"\n", &["bandit", "mypy", "pylint", "ruff"]),
    // Python looks for the encoding in the first two lines: what is wrong further down, two tools take for a failure.
    ("latin_later.py", b"import os\n\n\nx = \"\xe9\xff\"\n", &["bandit", "mypy", "pylint", "ruff"]),
    ("nul.py", b"x = 1\x00\n", &["bandit", "flake8", "mypy", "pylint", "ruff"]),
];

fn of(report: &Report, path: &str) -> BTreeSet<(String, i64, String, String)> {
    let reported = report.reported().into_iter().filter(|(at, ..)| at == path);
    reported.map(|(_, tool, line, code, message)| (tool, line, code, message)).collect()
}

#[test]
fn hostile_files_have_their_diagnostics_and_leave_the_others_theirs() {
    let world = World::new();
    world.file("good.py", GOOD).file("crlf.py", GOOD.replace('\n', "\r\n"));
    // pylint compares files with each other, which is not of interest here.
    let disable = "pylint.disable=R0801";
    let (_, alone) = world.report(&["--option", disable]);
    for (tool, code) in SAID {
        assert!(alone.codes(tool, "good.py").contains(code), "{tool} {code}: {alone:?}");
    }

    for name in NAMES {
        world.file(name, GOOD);
    }
    for (name, bytes, _) in BROKEN {
        world.file(name, bytes);
    }
    world.file(OsStr::from_bytes(b"not-\xff-utf8.py"), GOOD);
    world.file("long.py", format!("X = 1\n{}import sys\n", "# one of very many lines\n".repeat(200_000)));
    let (ran, report) = world.report(&["--option", disable]);

    for path in ["good.py", "crlf.py"] {
        assert_eq!(of(&report, path), of(&alone, path), "{path}");
    }
    for name in NAMES {
        for (tool, code) in SAID {
            // mypy itself says nothing of a module with this name, whatever is in it.
            if (tool, name) == ("mypy", "@list.py") {
                continue;
            }
            assert!(report.codes(tool, name).contains(code), "{tool} on {name:?}: {:?}", of(&report, name));
        }
    }
    for (tool, code) in [("flake8", "F401"), ("pylint", "W0611"), ("ruff", "F401")] {
        assert!(report.codes(tool, "long.py").contains(code), "{tool}: {:?}", of(&report, "long.py"));
        let line =
            of(&report, "long.py").into_iter().find(|said| said.0 == tool && said.2 == code).unwrap().1;
        assert_eq!(line, 200_002, "{tool}");
    }
    for (name, _, tools) in BROKEN {
        let by: BTreeSet<String> = of(&report, name).into_iter().map(|(tool, ..)| tool).collect();
        for tool in tools {
            assert!(by.contains(*tool), "{tool} says nothing of {name}: {:?}", of(&report, name));
        }
    }
    let unnamed = report.reported().into_iter().find(|(path, ..)| path.contains("not-"));
    let (_, tool, _, _, message) = unnamed.expect("the file that no tool can be given is reported");
    assert!(tool == "lintmesh" && message.contains("not UTF-8"), "{message}");

    // Two tools give up one of the files they cannot decode: that is its diagnostic, and the run is not whole.
    assert_eq!((report.outcome(), ran.code), ("INCOMPLETE", Some(3)), "{}", ran.stderr);
    for tool in ["bandit", "pylint"] {
        let (_, message) = report.error(tool).unwrap_or_else(|| panic!("{tool} could not read a file"));
        assert!(message.contains("latin_later.py"), "{tool}: {message}");
    }
    for tool in ["flake8", "mypy", "ruff"] {
        assert_eq!(report.error(tool), None, "{tool}");
    }
    assert!(!world.tree().join("x").exists(), "no shell read a file's name");
}

#[test]
fn a_broken_file_among_good_ones_is_a_finding_and_nothing_is_missing() {
    let world = World::new();
    world.file("good.py", GOOD).file("pkg/__init__.py", "").file("pkg/broken.py", "def f(:\n");
    world.file("pkg/user.py", "from pkg.broken import f\n\nx: int = \"text\"\nf().anything\n");
    let (ran, report) = world.report(&["--select-tools", "mypy,ruff"]);
    assert_eq!((report.outcome(), ran.code), ("FINDINGS", Some(1)), "{ran:?}");
    assert!(report.codes("mypy", "pkg/broken.py").contains("syntax"));
    assert!(report.codes("mypy", "good.py").contains("return-value"));
    // The importer of the broken file is checked, too, and not blamed for what cannot be known.
    let user: Vec<_> = report.codes("mypy", "pkg/user.py").into_iter().collect();
    assert_eq!(user, ["assignment"]);
}
