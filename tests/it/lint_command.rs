//! `lintmesh lint` as a command among others: exit codes, forms of the report, what it lints, how it ends.

use std::fs;
use std::io::Read as _;
use std::process::Child;

use lintmesh::linters::report::Format;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::report_formats::schema;
use super::support::fake_linters::FakeLinters;
use super::support::lint_command::{Report, World, eventually, finish};

const CLEAN: &str = "\"\"\"Nothing to say.\"\"\"\n";
const UNUSED: &str = "\"\"\"One import too many.\"\"\"\n\nimport os\n";

fn tested() -> World {
    let world = World::new();
    world.file("unused.py", UNUSED).file("clean.py", CLEAN);
    world
}

/// Every path that a report names.
fn paths(report: &Report) -> Vec<String> {
    let mut paths: Vec<_> = report.reported().into_iter().map(|(path, ..)| path).collect();
    paths.dedup();
    paths
}

#[test]
fn the_exit_code_says_how_it_went() {
    let world = tested();
    let ruff = |more: &[&str]| world.lint(&[&["--select-tools", "ruff"], more].concat()).code;
    assert_eq!(ruff(&["clean.py"]), Some(0));
    assert_eq!(ruff(&[]), Some(1));
    assert_eq!(ruff(&["--fail-on", "medium"]), Some(1), "an unused import is MEDIUM");
    assert_eq!(ruff(&["--fail-on", "high"]), Some(0));
    assert_eq!(ruff(&["--fail-on", "never"]), Some(0));
    assert_eq!(ruff(&["none.py"]), Some(2));
    let unknown = world.lint(&["--select-tools", "ruff,eslint"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("eslint"), "{unknown:?}");
    let options = world.lint(&["--option", "ruff.line-lenght=9", "--option", "eslint.fix=true"]);
    assert_eq!(options.code, Some(2));
    for place in ["--option ruff.line-lenght: is not allowed", "--option eslint.fix: eslint is not among"] {
        assert!(options.stderr.contains(place), "{options:?}");
    }
    assert!(!options.stderr.contains("tools["), "the protocol's names mean nothing here: {options:?}");
    // 3, when a linter fails, is tested with the failing linters.
}

#[test]
fn only_the_selected_tools_run() {
    let world = tested();
    let (_, report) = world.report(&["--select-tools", "flake8,ruff"]);
    let tools: Vec<_> = report.0["result"]["tools"].as_object().unwrap().keys().collect();
    assert_eq!(tools, ["flake8", "ruff"]);
    assert_eq!(report.0["result"]["summary"]["files"], 2);
}

#[test]
fn several_reports_come_of_one_run_and_each_is_valid() {
    let world = tested();
    let formats = ["full", "concise", "json", "json-lines", "sarif", "github", "junit"];
    let outputs: Vec<String> = formats.iter().map(|format| format!("{format}=../{format}.out")).collect();
    let mut arguments: Vec<&str> = outputs.iter().flat_map(|output| ["--output", output]).collect();
    arguments.extend(["--format", "concise", "--statistics"]);
    let ran = world.lint(&arguments);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let read = |format: &str| fs::read_to_string(world.path(format!("{format}.out"))).unwrap();
    for format in formats {
        assert!(read(format).contains("unused.py") && read(format).contains("F401"), "{format}");
    }
    let json: Value = serde_json::from_str(&read("json")).unwrap();
    assert_eq!(schema::complaints(&schema::SCHEMA, &json), Vec::<String>::new());
    let sarif: Value = serde_json::from_str(&read("sarif")).unwrap();
    assert_eq!(schema::complaints(&schema::SARIF, &sarif), Vec::<String>::new());
    for line in read("json-lines").lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    assert!(ran.stdout.lines().any(|line| line.starts_with("unused.py:3:8: MEDIUM ruff F401")), "{ran:?}");
    // Files hold neither statistics of another form nor colours.
    assert!(!read("full").contains('\u{1b}'));

    // The same forms on standard output are the same reports, apart from what was measured.
    let (_, printed) = world.report(&[]);
    assert_eq!(printed.0["result"], json["result"]);
}

#[test]
fn statistics_and_quiet_change_what_is_shown_and_nothing_else() {
    let world = tested();
    let shown = |more: &[&str]| {
        let ran = world.lint(&[&["--select-tools", "ruff", "--format", "concise"], more].concat());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        ran
    };
    let plain = shown(&[]);
    assert_eq!(plain.stderr, "", "no progress where there is no terminal");
    assert!(!plain.stdout.contains('\u{1b}'), "{plain:?}");
    assert!(plain.stdout.contains("FINDINGS: 1 diagnostic in 2 files"), "{plain:?}");
    let statistics = shown(&["--statistics"]).stdout;
    assert!(statistics.lines().count() > plain.stdout.lines().count(), "{statistics}");
    let quiet = shown(&["--quiet"]);
    assert_eq!(quiet.stdout.lines().count(), 1, "{quiet:?}");
    assert!(quiet.stdout.starts_with("unused.py:3:8:") && quiet.stderr.is_empty(), "{quiet:?}");
}

#[test]
fn what_is_linted_is_what_the_user_and_the_tree_say() {
    let world = World::new();
    for file in [
        "kept.py",
        "pkg/kept.py",
        "ignored.py",
        "generated/made.py",
        ".hidden/hidden.py",
        "venv/lib/installed.py",
        "excluded/x.py",
        "one_pb2.py",
    ] {
        world.file(file, UNUSED);
    }
    world.file(".gitignore", "ignored.py\ngenerated/\n").file("venv/pyvenv.cfg", "home = /usr/bin\n");
    let ruff = ["--select-tools", "ruff"];
    let exclude = ["--exclude", "excluded", "--exclude", "*_pb2.py"];
    let (_, report) = world.report(&[&ruff[..], &exclude].concat());
    assert_eq!(paths(&report), ["kept.py", "pkg/kept.py"]);
    let named = ["kept.py", "ignored.py", "one_pb2.py", ".hidden/hidden.py"];
    let (_, report) = world.report(&[&ruff[..], &exclude, &named].concat());
    assert_eq!(paths(&report), [".hidden/hidden.py", "ignored.py", "kept.py", "one_pb2.py"]);
    let (_, report) = world.report(&[&ruff[..], &["pkg"]].concat());
    assert_eq!(paths(&report), ["pkg/kept.py"]);

    let nothing = world.lint(&["--exclude", "*.py"]);
    assert_eq!(nothing.code, Some(0));
    assert!(nothing.stderr.contains("nothing to lint"), "{nothing:?}");
    let missing = world.lint(&["kept.py", "no/such.py"]);
    assert_eq!((missing.code, &*missing.stdout), (Some(2), ""));
    assert!(missing.stderr.contains("no/such.py does not exist"), "{missing:?}");
}

#[test]
fn a_project_within_a_repository_is_reported_as_its_readers_see_it() {
    let world = World::new();
    world.file("backend/pyproject.toml", "").file("backend/app.py", UNUSED).file(".git/HEAD", "");
    let lint = |format: &str| {
        let ran = world.lint(&["backend", "--select-tools", "ruff", "--format", format]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        ran.stdout
    };
    assert!(lint("github").contains(" file=backend/app.py,line=3"));
    assert!(lint("sarif").contains(r#""uri":"backend/app.py""#));
    assert!(lint("concise").starts_with("backend/app.py:3:8: "));
    let full = lint("full");
    assert!(full.starts_with("backend/app.py\n") && full.contains("3 | import os"), "{full}");
    assert!(lint("json").contains(r#""path":"app.py""#));
}

#[test]
fn there_is_a_report_even_of_nothing_and_it_is_never_taken_for_one_of_something() {
    let world = World::new();
    let outputs: Vec<String> = Format::ALL.iter().map(|format| format!("{format}=../{format}.out")).collect();
    let arguments: Vec<&str> = outputs.iter().flat_map(|output| ["--output", output]).collect();
    let read = |format: &str| fs::read_to_string(world.path(format!("{format}.out"))).unwrap();
    let json = |format: &str| serde_json::from_str::<Value>(&read(format)).unwrap();
    let valid = || {
        assert_eq!(schema::complaints(&schema::SCHEMA, &json("json")), Vec::<String>::new());
        assert_eq!(schema::complaints(&schema::SARIF, &json("sarif")), Vec::<String>::new());
    };

    let (ran, report) = world.report(&arguments);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!((report.outcome(), &report.0["result"]["summary"]["files"]), ("CLEAN", &Value::from(0)));
    valid();
    assert_eq!(json("sarif")["runs"][0]["invocations"][0]["executionSuccessful"], true);
    assert!(read("full").starts_with("CLEAN: 0 diagnostics in 0 files"), "{}", read("full"));
    assert_eq!(read("github"), "");

    world.file("large.py", "x = 1\n".repeat(100));
    world.file("lintmesh.toml", "[workspace]\nmax_file_bytes = 99\n");
    let (ran, report) = world.report(&arguments);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(report.outcome(), "INCOMPLETE");
    assert!(ran.stderr.contains("large.py cannot be linted"), "{ran:?}");
    valid();
    assert_eq!(json("sarif")["runs"][0]["invocations"][0]["executionSuccessful"], false);
    for format in ["full", "concise", "github", "junit"] {
        assert!(read(format).contains("INCOMPLETE") && read(format).contains("large.py"), "{format}");
    }
    assert_eq!(world.lint(&["--fail-on", "never", "--quiet"]).code, Some(3));

    let wrong = world.lint(&["--option", "ruff.line-lenght=9"]);
    assert_eq!(wrong.code, Some(2), "whatever there is to lint: {wrong:?}");
}

/// A run that lasts until somebody ends it.
fn endless() -> (World, FakeLinters) {
    let world = tested();
    let fakes = FakeLinters::new(&world);
    fakes.link("nap", std::path::Path::new("/bin/sleep"));
    fakes.add("mypy", "trap '' TERM INT HUP; while :; do \"$bin/nap\" 3600; done");
    (world, fakes)
}

fn started(world: &World, fakes: &FakeLinters) -> (Child, Pid) {
    let arguments = ["--toolchain", fakes.argument(), "--select-tools", "mypy,ruff"];
    let child = world.command(&arguments).spawn().unwrap();
    world.until_runs("venv/bin/nap 3600");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    (child, pid)
}

#[test]
fn ctrl_c_cancels_and_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (world, fakes) = endless();
        let (child, pid) = started(&world, &fakes);
        kill(pid, signal).unwrap();
        let ran = finish(child);
        assert_eq!(ran.code, Some(128 + signal as i32), "{ran:?}");
        assert_eq!(ran.stdout, "", "no report of half a run");
        world.assert_nobody_left();
        assert_eq!(world.temporary(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_leaves_no_process() {
    let (world, fakes) = endless();
    let (mut child, pid) = started(&world, &fakes);
    // Until it has ended: the second may come before or after the orderly end.
    eventually("it ends", || {
        let _ = kill(pid, Signal::SIGINT);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(finish(child).code, Some(130));
    world.assert_nobody_left();
}

#[test]
fn killed_it_leaves_no_process_and_its_files_only_until_the_next() {
    let (world, fakes) = endless();
    let (child, pid) = started(&world, &fakes);
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(finish(child).code, None);
    world.assert_nobody_left();
    assert!(!world.temporary().is_empty(), "nobody is left to remove its files");
    assert_eq!(world.lint(&["--select-tools", "ruff"]).code, Some(1));
    assert_eq!(world.temporary(), Vec::<std::path::PathBuf>::new(), "whoever comes next does");
}

#[test]
fn a_timeout_cancels_the_run() {
    let (world, fakes) = endless();
    let ran =
        world.lint(&["--toolchain", fakes.argument(), "--select-tools", "mypy,ruff", "--timeout", "3s"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    world.assert_nobody_left();
}

#[test]
fn a_full_disk_is_told_and_the_other_reports_are_written() {
    let world = tested();
    let arguments = ["--select-tools", "ruff", "--format", "concise"];
    let outputs = ["--output", "json=/dev/full", "--output", "sarif=../report.sarif"];
    let ran = world.lint(&[&arguments[..], &outputs].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("/dev/full: no space left"), "{ran:?}");
    assert!(ran.stdout.contains("F401"), "{ran:?}");
    let sarif: Value = serde_json::from_slice(&fs::read(world.path("report.sarif")).unwrap()).unwrap();
    assert_eq!(sarif["version"], "2.1.0");

    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = finish(world.command(&arguments).stdout(full).spawn().unwrap());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("standard output"), "{ran:?}");

    let folder = world.lint(&[&arguments[..], &["--output", "json=../none/report.json"]].concat());
    assert_eq!(folder.code, Some(2));
    assert!(folder.stderr.contains("its folder does not exist"), "{folder:?}");
    assert_eq!(folder.stdout, "", "it is told before the run, not after");
}

#[test]
fn no_folder_for_temporary_files_is_one_clear_error() {
    let mut world = tested();
    // Nobody can make a file there, not even root.
    world.set("TMPDIR", "/proc");
    let ran = world.lint(&["--select-tools", "ruff"]);
    assert_eq!((ran.code, &*ran.stdout), (Some(2), ""), "{ran:?}");
    assert!(ran.stderr.contains("TMPDIR") && ran.stderr.starts_with("error: "), "{ran:?}");
    world.assert_nobody_left();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    // More than a pipe holds, so that the writer meets the closed end.
    world.file("many.py", "import os\n".repeat(3000));
    let arguments = ["--select-tools", "ruff", "--format", "concise", "--color", "never"];
    let mut child = world.command(&arguments).spawn().unwrap();
    let mut first = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let ran = finish(child);
    assert_eq!((ran.code, &*ran.stderr), (Some(1), ""), "{ran:?}");
    world.assert_nobody_left();
    assert_eq!(world.temporary(), Vec::<std::path::PathBuf>::new());
}
