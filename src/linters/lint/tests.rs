//! LINT over recorded outputs of the real tools (flake8 7.5.0, pylint 4.1.4, ruff 0.17.6, mypy 2.4.1, bandit 1.9.4),
//! made from the files in `tests/fixtures/tool_output/tree`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::linters::toolchain::ToolchainMode;
use crate::types::{Digest, ToolName, TreePath};

mod invocations;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tool_output");
const LIMITS: Limits = Limits {
    wall: Duration::from_secs(60),
    cpu: Duration::from_secs(60),
    memory_bytes: 1 << 30,
    file_bytes: 1 << 20,
    output_bytes: 1 << 20,
    processes: 8,
};

/// Answers each process with the next recorded end, and remembers what was asked.
struct Recorded {
    ends: Mutex<VecDeque<Finished>>,
    asked: Mutex<Vec<ProcessSpec>>,
}

impl Recorded {
    fn new(ends: impl IntoIterator<Item = Finished>) -> Self {
        Self { ends: Mutex::new(ends.into_iter().collect()), asked: Mutex::new(Vec::new()) }
    }
}

impl ProcessRunner for Recorded {
    async fn run(&self, spec: ProcessSpec, _cancel: &CancellationToken) -> Result<Finished, ProcessError> {
        self.asked.lock().expect("not poisoned").push(spec);
        self.ends.lock().expect("not poisoned").pop_front().ok_or(ProcessError::Cancelled)
    }
}

fn end(code: i32, stdout: &[u8], stderr: &[u8]) -> Finished {
    Finished {
        code: Some(code),
        signal: None,
        exceeded: None,
        stdout: stdout.to_vec(),
        stderr: stderr.to_vec(),
        wall: Duration::from_millis(5),
        cpu: Duration::from_millis(3),
    }
}

/// A recorded file, with the place where it was recorded replaced by where the fixtures are now.
fn recorded(file: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/{file}")).expect("a fixture");
    text.replace("/srv/tree", &format!("{FIXTURES}/tree")).into_bytes()
}

async fn lint_with(
    tool: &str,
    files: &[&str],
    runner: &Recorded,
    python: Option<&Path>,
) -> Result<Linted, LintError> {
    let scratch = tempfile::tempdir().expect("a folder");
    let name = ToolName::new(tool).expect("valid");
    let adapter = adapter(tool).expect("known");
    let mut arguments = adapter.arguments();
    arguments.extend(adapter.configure(&BTreeMap::new(), false).expect("nothing to refuse"));
    let version = if tool == "mypy" { "2.4.1" } else { "1.0" }.to_owned();
    let files = files.iter().map(|file| TreePath::new(file).expect("valid")).collect();
    let plan = ToolPlan {
        tool: name.clone(),
        version: version.clone(),
        arguments,
        refused: None,
        shards: Vec::new(),
    };
    let binary =
        ToolBinary::Present { version, program: format!("/opt/venv/bin/{tool}").into(), prefix: Vec::new() };
    let toolchain = Toolchain {
        id: Digest::of(b""),
        mode: ToolchainMode::Environment,
        tools: BTreeMap::from([(name, binary)]),
    };
    lint(LintRequest {
        root: Path::new(&format!("{FIXTURES}/tree")),
        plan: &plan,
        shard: &Shard { files, cost: 1 },
        toolchain: &toolchain,
        python,
        scratch: scratch.path(),
        limits: &LIMITS,
        cpu_slots: 1,
        runner,
        cancel: &CancellationToken::new(),
    })
    .await
}

async fn lint_recorded(tool: &str, code: i32, file: &str) -> LintOutput {
    let runner = Recorded::new([end(code, &recorded(file), b"")]);
    lint_with(tool, &["good.py"], &runner, None).await.expect("an answer").output
}

fn place_of(output: &LintOutput, path: &str, code: &str) -> Vec<(u32, Option<u32>)> {
    output
        .diagnostics
        .iter()
        .filter(|d| d.path.as_str() == path && d.code == code)
        .map(|d| (d.span.start.line, d.span.start.column))
        .collect()
}

#[tokio::test]
async fn all_tools_agree_on_where_an_undefined_name_is() {
    // Non-ASCII text before it on the line, a tab, a form feed, Unicode line separators, CR and CRLF, BOM, a cookie.
    let places = [
        ("uni.py", (2, Some(26))),
        ("tab.py", (4, Some(6))),
        ("ff.py", (4, Some(6))),
        ("sep.py", (3, Some(24))),
        ("cr.py", (2, Some(5))),
        ("bom.py", (2, Some(5))),
        ("cookie.py", (2, Some(25))),
        ("good.py", (2, Some(5))),
    ];
    for (tool, code, file, rule) in [
        ("flake8", 1, "flake8.txt", "F821"),
        ("ruff", 1, "ruff.json", "F821"),
        ("pylint", 30, "pylint.json", "E0602"),
        ("mypy", 1, "mypy.jsonl", "name-defined"),
    ] {
        let output = lint_recorded(tool, code, file).await;
        assert_eq!(output.error, None, "{tool}");
        for (path, place) in places {
            if tool == "ruff" && path == "cookie.py" {
                assert_eq!(place_of(&output, path, "E902").len(), 1, "ruff reads UTF-8 only, and says so");
                continue;
            }
            let found = place_of(&output, path, rule);
            assert!(found.contains(&place), "{tool} {path}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_tool_s_own_numbers_and_words_are_kept() {
    let flake8 = lint_recorded("flake8", 1, "flake8.txt").await;
    let unused = flake8.diagnostics.iter().find(|d| d.path.as_str() == "uni.py" && d.code == "F821");
    let unused = unused.expect("there");
    assert_eq!((unused.tool_line, unused.tool_column), (2, Some(29)));
    assert_eq!(unused.message, "undefined name 'undefinedname'");
    assert_eq!(unused.line_hash.len(), 16);
    let bandit = lint_recorded("bandit", 1, "bandit.json").await;
    assert_eq!(place_of(&bandit, "uni.py", "B101"), [(2, Some(12))]);
    let assertion = bandit.diagnostics.iter().find(|d| d.path.as_str() == "uni.py").expect("there");
    assert_eq!((assertion.tool_line, assertion.tool_column), (2, Some(14)));
    assert_eq!(assertion.tool_severity.as_deref(), Some("LOW/HIGH"));
    let mypy = lint_recorded("mypy", 1, "mypy.jsonl").await;
    let assigned = mypy.diagnostics.iter().find(|d| d.code == "assignment").expect("there");
    assert_eq!((assigned.tool_column, assigned.span.start.column), (Some(17), Some(21)));
}

#[tokio::test]
async fn the_output_is_sorted_and_names_no_place_of_the_machine() {
    for (tool, code, file) in [
        ("flake8", 1, "flake8.txt"),
        ("ruff", 1, "ruff.json"),
        ("pylint", 30, "pylint.json"),
        ("mypy", 1, "mypy.jsonl"),
        ("bandit", 1, "bandit.json"),
    ] {
        let output = lint_recorded(tool, code, file).await;
        assert!(output.diagnostics.is_sorted(), "{tool}");
        assert!(output.diagnostics.len() > 2, "{tool}");
        let text = serde_json::to_string(&output).expect("plain data");
        assert!(!text.contains(FIXTURES) && !text.contains("/srv"), "{tool}");
    }
}

#[tokio::test]
async fn a_bad_file_is_its_own_diagnostic() {
    let flake8 = lint_recorded("flake8", 1, "flake8.txt").await;
    let pylint = lint_recorded("pylint", 30, "pylint.json").await;
    let ruff = lint_recorded("ruff", 1, "ruff.json").await;
    let bandit = lint_recorded("bandit", 1, "bandit.json").await;
    for path in ["syntax.py", "nul.py", "indent.py"] {
        assert_eq!(place_of(&flake8, path, "E999").len(), 1, "{path}");
        assert_eq!(place_of(&pylint, path, "E0001").len(), 1, "{path}");
        assert!(!place_of(&ruff, path, "invalid-syntax").is_empty(), "{path}");
        assert_eq!(place_of(&bandit, path, "syntax-error"), [(1, None)], "{path}");
    }
    assert_eq!(place_of(&flake8, "syntax.py", "E999"), [(1, Some(7))]);
    assert_eq!(place_of(&pylint, "syntax.py", "E0001"), [(1, Some(7))]);
    assert_eq!(place_of(&ruff, "syntax.py", "invalid-syntax")[0], (1, Some(7)));
    assert_eq!(place_of(&ruff, "latin.py", "E902").len(), 1);
    assert_eq!(place_of(&pylint, "latin.py", "E0001").len(), 1);
}

#[tokio::test]
async fn a_file_that_stops_mypy_is_replaced_and_the_others_are_checked() {
    let of_good = br#"{"file":"good.py","line":1,"column":0,"message":"m","hint":null,"code":"misc","severity":"error"}
{"file":"latin.py","line":2,"column":0,"message":"of the stand-in","hint":null,"code":"misc","severity":"error"}"#;
    let runner = Recorded::new([
        end(2, &recorded("mypy-syntax.jsonl"), b""),
        end(2, b"", &recorded("mypy-decode.stderr")),
        end(1, of_good, b""),
    ]);
    let files = ["good.py", "latin.py", "syntax.py"];
    let output = lint_with("mypy", &files, &runner, None).await.expect("an answer").output;
    assert_eq!(output.error, None);
    assert_eq!(place_of(&output, "good.py", "misc"), [(1, Some(1))]);
    assert_eq!(place_of(&output, "syntax.py", "syntax")[0], (1, Some(7)));
    assert_eq!(place_of(&output, "latin.py", "syntax"), [(1, None)]);
    assert_eq!(place_of(&output, "latin.py", "misc"), []);
    let asked = runner.asked.lock().expect("not poisoned");
    let last: Vec<_> = asked[2].arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let replaced: Vec<_> =
        last.windows(2).filter(|pair| pair[0] == "--shadow-file").map(|pair| &*pair[1]).collect();
    assert_eq!(replaced, ["./syntax.py", "./latin.py"]);
    for (earlier, later) in asked.iter().zip(&asked[1..]) {
        assert!(later.limits.wall < earlier.limits.wall, "together they have the time of one");
    }
}

#[tokio::test]
async fn when_mypy_stops_all_the_same_the_others_do_not_count_as_checked() {
    let stop = || end(2, &recorded("mypy-syntax.jsonl"), b"");
    let runner = Recorded::new([stop(), stop()]);
    let output = lint_with("mypy", &["syntax.py"], &runner, None).await.expect("an answer").output;
    assert_eq!(output.diagnostics.len(), 2, "once, not twice: {:?}", output.diagnostics);
    let error = output.error.expect("not all was checked");
    assert_eq!(error.kind, ToolErrorKind::Crashed);
    assert!(error.message.contains("syntax.py:1") && error.message.contains("were not checked"), "{error:?}");

    // A tree in which every file is broken: the number of restarts is bounded.
    let stops = (0..100).map(|n| end(2, b"", format!("m{n}.py: error: Cannot decode file: x\n").as_bytes()));
    let runner = Recorded::new(stops);
    let output = lint_with("mypy", &["good.py"], &runner, None).await.expect("an answer").output;
    assert_eq!(runner.asked.lock().expect("not poisoned").len(), 17);
    assert_eq!(output.diagnostics.len(), 17);
    assert!(output.error.is_some());
}

#[tokio::test]
async fn each_way_to_fail_has_its_kind() {
    use ToolErrorKind::{Configuration, Crashed, Garbled};
    for (tool, code, stdout, stderr, kind) in [
        (
            "flake8",
            1,
            "",
            "Traceback (most recent call last):\n  File \"x\", line 1, in parse_config\nValueError: 'abc'\n",
            Configuration,
        ),
        (
            "flake8",
            1,
            "There was a critical error during execution of Flake8:\nplugin x\n",
            "",
            Configuration,
        ),
        ("flake8", 1, "", "", Crashed),
        ("flake8", 0, "hello", "", Garbled),
        ("flake8", 1, "\u{1e}1\u{1f}2", "", Garbled),
        ("flake8", 70, "", "boom", Crashed),
        (
            "pylint",
            32,
            "",
            "pylint: error: argument --max-line-length: invalid int value: 'abc'",
            Configuration,
        ),
        ("pylint", 1, "", "Traceback (most recent call last):\nValueError: x", Crashed),
        ("pylint", 0, "garbage", "", Garbled),
        ("mypy", 2, "", "usage: mypy [-h]\nmypy: error: unrecognized arguments: --x", Configuration),
        (
            "mypy",
            2,
            "",
            "a.py:1: error: INTERNAL ERROR -- Please try\nTraceback (most recent call last):\nx",
            Crashed,
        ),
        ("mypy", 1, "garbage", "", Garbled),
        ("mypy", 1, "", "", Crashed),
        ("ruff", 2, "", "ruff failed\n  Cause: Failed to load configuration `ruff.toml`", Configuration),
        ("ruff", 2, "", "ruff failed\n  Cause: disk on fire", Crashed),
        ("ruff", 101, "", "panicked", Crashed),
        ("ruff", 0, "[{]", "", Garbled),
        ("bandit", 2, "", "[main]\tERROR\tpyproject.toml : Error parsing file.", Configuration),
        ("bandit", 1, "", "Traceback (most recent call last):\nTypeError: x", Crashed),
        ("bandit", 0, "garbage", "", Garbled),
        (
            "pylint",
            23,
            "************* Module .pylintrc\n.pylintrc:1:0: F0011: error while parsing (config-parse-error)\n{\n\"messages\": []}",
            "",
            Configuration,
        ),
        (
            "bandit",
            0,
            r#"{"errors":[{"filename":"./a.py","reason":"exception while scanning file"}],"results":[]}"#,
            "",
            Crashed,
        ),
    ] {
        // Twice: a tool that stopped at a file is started again.
        let runner = Recorded::new([0; 2].map(|_| end(code, stdout.as_bytes(), stderr.as_bytes())));
        let output = lint_with(tool, &["good.py"], &runner, None).await.expect("an answer").output;
        let error =
            output.error.unwrap_or_else(|| panic!("{tool} {code} {stdout:?} {stderr:?} is a failure"));
        assert_eq!(error.kind, kind, "{tool} {code} {stdout:?}: {}", error.message);
        assert!(error.message.len() > 10);
    }
}

#[test]
fn what_differs_between_two_runs_of_pylint_is_left_out() {
    let report = |id: &str, message: &str| {
        let entry = serde_json::json!({
            "type": "refactor", "symbol": "x", "message": message, "messageId": id,
            "line": 1, "column": 0, "endLine": null, "endColumn": null, "path": "a.py",
        });
        let stdout = serde_json::json!({ "messages": [entry] }).to_string().into_bytes();
        let output = Output { code: Some(8), stdout: &stdout, stderr: b"", arguments: &[], version: "4" };
        adapter("pylint").expect("known").read(output).findings[0].message.clone()
    };
    let similar = "Similar lines in 2 files\n==a:[1:5]\n==b:[2:6]\n    x = 1\n==c";
    assert_eq!(report("R0801", similar), "Similar lines in 2 files\n==a:[1:5]\n==b:[2:6]");
    let crash = "a.py: Fatal error. Pre-populated template at '/s/pylint-crash-2026-01-31-23-59-59.txt'.";
    let stable = "a.py: Fatal error. Pre-populated template at '/s/pylint-crash.txt'.";
    assert_eq!(report("F0002", crash), stable);
    assert_eq!(report("R0401", "Cyclic import (a -> b)\n==x"), "Cyclic import (a -> b)\n==x");
}

#[tokio::test]
async fn mypy_says_what_it_could_not_use_of_its_configuration() {
    let output = |stderr: &'static str| Output {
        code: Some(0),
        stdout: b"",
        stderr: stderr.as_bytes(),
        arguments: const { &[] },
        version: "2.4.1",
    };
    let arguments = ["--config-file=setup.cfg".to_owned()];
    let read =
        |stderr| adapter("mypy").expect("known").read(Output { arguments: &arguments, ..output(stderr) });
    let error = read("setup.cfg: [mypy]: strict: Not a boolean: maybe\n").error.expect("a failure");
    assert_eq!(error.kind, ToolErrorKind::Configuration);
    assert!(error.message.contains("Not a boolean: maybe"));
    let old = "setup.cfg: [mypy]: python_version: Python 3.9 is not supported (must be 3.10 or higher)\n";
    assert_eq!(read(old).error, None);
    assert_eq!(read("some other warning\n").error, None);
}

#[tokio::test]
async fn at_a_limit_whole_records_are_kept() {
    let mut finished = end(0, &recorded("flake8.txt"), b"");
    finished.stdout.truncate(300);
    (finished.code, finished.signal, finished.exceeded) = (None, Some(9), Some(Exceeded::Wall));
    let output =
        lint_with("flake8", &["good.py"], &Recorded::new([finished]), None).await.expect("an answer").output;
    assert!(!output.diagnostics.is_empty());
    let error = output.error.expect("a failure");
    assert_eq!(error.kind, ToolErrorKind::TimedOut);
    assert!(error.message.contains("60 s of elapsed time"), "{}", error.message);
}

#[tokio::test]
async fn cancellation_is_not_an_answer() {
    let outcome = lint_with("ruff", &["good.py"], &Recorded::new([]), None).await;
    assert!(matches!(outcome, Err(LintError::Cancelled)));
}

proptest! {
    #[test]
    fn no_output_makes_a_parser_panic(
        stdout in proptest::collection::vec(any::<u8>(), 0..200),
        stderr in proptest::collection::vec(any::<u8>(), 0..80),
        code in proptest::option::of(-1_i32..130),
        cut in 0_usize..3000,
        flip: u8,
    ) {
        for (tool, file) in [("flake8", "flake8.txt"), ("ruff", "ruff.json"), ("pylint", "pylint.json"),
                             ("mypy", "mypy.jsonl"), ("bandit", "bandit.json")] {
            let mut real = recorded(file);
            real.truncate(cut);
            if let Some(byte) = real.get_mut(cut / 2) { *byte ^= flip; }
            for stdout in [&stdout, &real] {
                let output = Output { code, stdout, stderr: &stderr, arguments: &[], version: "x" };
                let _ = adapter(tool).expect("known").read(output);
            }
        }
    }
}
