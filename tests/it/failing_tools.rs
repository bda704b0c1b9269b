//! A linter that fails is that tool's error, the run is INCOMPLETE with exit code 3, and nothing of the linter stays
//! behind; what the other linters say is as without it.

use std::path::Path;

use super::support::fake_linters::FakeLinters;
use super::support::lint_command::{Ran, Report, World};

const BAD: &str = "import os\n";

/// A tree with one finding for ruff.
fn world() -> World {
    let world = World::new();
    world.file("bad.py", BAD);
    world
}

fn lint(world: &World, fakes: &FakeLinters, more: &[&str]) -> (Ran, Report) {
    world.report(&[&["--toolchain", fakes.argument()], more].concat())
}

/// The failed run keeps ruff's finding, and says INCOMPLETE with exit code 3.
fn assert_incomplete(world: &World, ran: &Ran, report: &Report) {
    assert_eq!(ran.code, Some(3), "wins over the findings: {ran:?}");
    assert_eq!(report.outcome(), "INCOMPLETE");
    assert_eq!(report.error("ruff"), None);
    assert_eq!(report.codes("ruff", "bad.py").into_iter().collect::<Vec<_>>(), ["F401"]);
    world.assert_nobody_left();
    assert_eq!(world.temporary(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn missing_crashing_and_garbling_linters_are_errors_of_their_own() {
    let world = world();
    let fakes = FakeLinters::new(&world);
    // flake8 is missing.
    fakes.add("pylint", "kill -SEGV $$");
    fakes.add("mypy", "echo 'Segment {not json'; printf '\\377\\000\\n'");
    fakes.add("bandit", "echo 'cannot go on: no memory for the parser' >&2; exit 70");
    let (ran, report) = lint(&world, &fakes, &[]);
    assert_incomplete(&world, &ran, &report);
    for (tool, kind, words) in [
        ("flake8", "MISSING", "flake8"),
        ("pylint", "CRASHED", "ended by a signal"),
        ("mypy", "GARBLED", "Segment {not json"),
        ("bandit", "CRASHED", "status 70: cannot go on: no memory"),
    ] {
        let (found, message) = report.error(tool).unwrap_or_else(|| panic!("{tool} failed: {report:?}"));
        assert_eq!(found, kind, "{tool}: {message}");
        assert!(message.contains(words), "{tool}: {message}");
    }

    let (ran, _) = lint(&world, &fakes, &["--fail-on", "never"]);
    assert_eq!(ran.code, Some(3), "what was not linted is never success");
    let full = world.lint(&["--toolchain", fakes.argument()]);
    for words in ["INCOMPLETE", "status 70: cannot go on", "F401"] {
        assert!(full.stdout.contains(words), "{words} in {}", full.stdout);
    }
}

#[test]
fn hanging_flooding_forking_and_swelling_linters_end_at_their_limits() {
    let mut world = world();
    world.setting("mesh.task_timeout", "15");
    world.setting("limits.output_bytes", "1000000");
    world.setting("limits.processes", "40");
    world.setting("limits.memory_bytes", "500000000");
    let fakes = FakeLinters::new(&world);
    fakes.link("nap", Path::new("/bin/sleep"));
    fakes.add("flake8", "trap '' TERM INT HUP; \"$bin/nap\" 3600 & while :; do \"$bin/nap\" 3600; done");
    fakes.add("pylint", "while :; do echo 'a flood of words that no linter should ever need'; done");
    // Each child leaves the group and the session of the linter.
    fakes.add("mypy", "for n in $(seq 400); do setsid \"$bin/nap\" 3600 & done; wait");
    fakes.add(
        "bandit",
        "exec \"$bin/python\" -c 'x = []\nwhile True: x.append(bytearray(b\"x\" * (16 << 20)))'",
    );
    let (ran, report) = lint(&world, &fakes, &[]);
    assert_incomplete(&world, &ran, &report);
    for (tool, kind, words) in [
        ("flake8", "TIMED_OUT", "elapsed time"),
        ("pylint", "LIMIT_EXCEEDED", "1000000 bytes of output"),
        ("mypy", "LIMIT_EXCEEDED", "40 processes"),
        ("bandit", "LIMIT_EXCEEDED", "500000000 bytes of memory"),
    ] {
        let (found, message) = report.error(tool).unwrap_or_else(|| panic!("{tool} failed: {report:?}"));
        assert_eq!(found, kind, "{tool}: {message}");
        assert!(message.contains(words), "{tool}: {message}");
    }
}

#[test]
fn what_a_linter_leaves_running_is_gone_when_it_has_answered() {
    let world = world();
    let fakes = FakeLinters::new(&world);
    fakes.link("nap", Path::new("/bin/sleep"));
    fakes.add("mypy", "setsid \"$bin/nap\" 3600 >/dev/null 2>&1 </dev/null & exit 0");
    let (ran, report) = lint(&world, &fakes, &["--select-tools", "mypy,ruff"]);
    assert_eq!((ran.code, report.outcome()), (Some(1), "FINDINGS"), "{ran:?}");
    assert_eq!(report.error("mypy"), None);
    world.assert_nobody_left();
}
