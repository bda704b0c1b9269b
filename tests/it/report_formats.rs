//! Every form of a report is valid for its readers, whatever is in the messages, paths and sources.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use lintmesh::linters::aggregate::{TaskFailure, aggregate, canonical_bytes};
use lintmesh::linters::classify::classify;
use lintmesh::linters::report::{
    Execution, FaultRecord, Format, JSON_SCHEMA, NodeExecution, Options, Report, TaskExecution,
    ToolExecution, write,
};
use lintmesh::linters::toolchain::ToolchainMode;
use lintmesh::types::{RequestKind, 
    ClassifiedOutput, Digest, Epoch, FaultCause, LintOutput, NodeId, Plan, Position, RawDiagnostic, RunId,
    RunSpec, Severity, Shard, Span, Stage, ToolError, ToolErrorKind, ToolName, ToolPlan, TreePath,
};
use proptest::prelude::*;
use serde_json::Value;

fn tool(name: &str) -> ToolName {
    ToolName::new(name).expect("a valid name")
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}

fn spec() -> RunSpec {
    RunSpec {
        tools: Vec::new(),
        versions: BTreeMap::new(),
        allow_tree_code: false,
        python: None,
        severity_overrides: BTreeMap::new(),
        max_shards: 1,
        unreadable: Vec::new(),
    }
}

fn plan(tools: &[&str]) -> Plan {
    let one = |name: &&str| ToolPlan {
        tool: tool(name),
        version: "1.2.3".into(),
        arguments: vec!["--output-format=json".into()],
        refused: None,
        shards: vec![Shard { files: vec![TreePath::new("pkg/a.py").expect("valid")], cost: 1 }],
    };
    Plan { tools: tools.iter().map(one).collect(), files: 1 }
}

fn execution() -> Execution {
    let lint = |name: &str| TaskExecution { stage: Stage::Lint, tool: Some(tool(name)), shard: Some(1) };
    let whole = |stage| TaskExecution { stage, tool: None, shard: None };
    let node_part =
        |agent_type: &str, tasks: Vec<TaskExecution>| NodeExecution { agent_type: agent_type.into(), tasks };
    let ran = |seconds: f64| ToolExecution {
        executable: "/opt/tools/bin/x".into(),
        seconds,
        cpu_seconds: seconds,
        nodes: vec![node("backend-dev")],
    };
    Execution {
        run_id: RunId::new("run-1").expect("valid"),
        started_at: "2026-11-22T07:30:00Z".into(),
        ended_at: "2026-11-22T07:30:01.250Z".into(),
        seconds: 1.25,
        request: RequestKind::InPlace,
        coordinator_version: "0.1.0".into(),
        epoch: Epoch(3),
        tools: BTreeMap::from([(tool("pylint"), ran(0.75)), (tool("ruff"), ran(0.03))]),
        nodes: BTreeMap::from([
            (
                node("backend-dev"),
                node_part("backend-dev", vec![lint("ruff"), lint("pylint"), lint("pylint")]),
            ),
            (node("system-architect"), node_part("system-architect", vec![whole(Stage::Plan)])),
            (node("spare"), node_part("api-docs", vec![])),
        ]),
        retries: 1,
        faults: vec![FaultRecord {
            node_id: node("spare"),
            cause: FaultCause::ProcessExited,
            redistributed_tasks: 1,
        }],
        toolchain_id: Some(Digest::of(b"lock")),
        toolchain_mode: Some(ToolchainMode::Managed),
        environment_class: "cpython-3.11 linux x86_64".into(),
    }
}

fn raw(
    path: &str,
    code: &str,
    (line, column): (u32, Option<u32>),
    end: Option<(u32, u32)>,
    message: &str,
) -> RawDiagnostic {
    RawDiagnostic {
        path: TreePath::new(path).expect("a valid path"),
        span: Span {
            start: Position { line, column },
            end: end.map(|(line, column)| Position { line, column: Some(column) }),
        },
        tool_line: line,
        tool_column: column,
        code: code.into(),
        name: None,
        message: message.into(),
        tool_severity: None,
        url: None,
        line_hash: "0123456789abcdef".into(),
    }
}

fn classified(
    tool_name: &str,
    error: Option<ToolError>,
    diagnostics: Vec<RawDiagnostic>,
) -> ClassifiedOutput {
    classify(&LintOutput { tool: tool(tool_name), files: 1, error, diagnostics }, &spec())
}

/// A small run in which pylint failed half-way.
fn example() -> Report {
    let error = ToolError {
        kind: ToolErrorKind::Crashed,
        message: "ended by signal 9\nlast words: \u{1b}[2J".into(),
    };
    let outputs = [
        classified(
            "ruff",
            None,
            vec![
                raw("pkg/a.py", "F401", (1, Some(8)), Some((1, 10)), "`os` imported but unused"),
                raw("pkg/a.py", "F821", (3, Some(12)), Some((3, 19)), "Undefined name `missing`"),
            ],
        ),
        classified(
            "pylint",
            Some(error),
            vec![
                raw("pkg/a.py", "C0114", (1, Some(1)), None, "Missing module docstring"),
                raw("pkg/a.py", "W0611", (1, Some(1)), None, "Unused import os"),
            ],
        ),
    ];
    Report { result: aggregate(&plan(&["pylint", "ruff"]), &spec(), &outputs, &[]), execution: execution() }
}

fn source(path: &TreePath) -> Option<String> {
    (path.as_str() == "pkg/a.py").then(|| "import os\n\n\tx = '漢' + missing\n".to_owned())
}

fn written(report: &Report, format: Format, color: bool) -> String {
    let options = Options { color, width: 80, statistics: true, quiet: false, source: &source };
    let mut bytes = Vec::new();
    write(report, format, &options, &mut bytes).expect("memory takes all");
    String::from_utf8(bytes).expect("reports are UTF-8")
}

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).expect("the schema is JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("the schema is a valid schema");
    jsonschema::validator_for(&schema).expect("the schema compiles")
});

static SARIF: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    // The published schema has a stray `]` in the pattern of `language`, which strict engines refuse unescaped.
    let schema = include_str!("../fixtures/schema/sarif-2.1.0.json").replace("{2}]?$", "{2}\\\\]?$");
    jsonschema::validator_for(&serde_json::from_str(&schema).expect("JSON")).expect("the schema compiles")
});

/// A schema of one definition of the published schema.
fn definition(name: &str) -> jsonschema::Validator {
    let mut schema: Value = serde_json::from_str(JSON_SCHEMA).expect("JSON");
    let definitions = schema["$defs"].take();
    let schema = serde_json::json!({ "$defs": definitions, "$ref": format!("#/$defs/{name}") });
    jsonschema::validator_for(&schema).expect("the definition compiles")
}

static CLASSIFIED: LazyLock<jsonschema::Validator> = LazyLock::new(|| definition("classified_diagnostic"));
static DIAGNOSTIC: LazyLock<jsonschema::Validator> = LazyLock::new(|| definition("diagnostic"));

fn complaints(validator: &jsonschema::Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect()
}

#[test]
fn formats_are_known_by_their_names() {
    for format in Format::ALL {
        assert_eq!(format.as_str().parse(), Ok(format));
    }
    let error = "yaml".parse::<Format>().expect_err("no such format").to_string();
    assert!(error.contains("`yaml`") && error.contains("json-lines"), "{error}");
}

#[test]
fn concise_is_a_line_per_diagnostic_then_the_outcome() {
    let expected = "\
pkg/a.py:1:1: INFO pylint C0114 Missing module docstring
pkg/a.py:1:8: MEDIUM ruff F401 `os` imported but unused [also pylint W0611]
pkg/a.py:3:12: CRITICAL ruff F821 Undefined name `missing`
   count  severity  rule
       1  INFO      pylint C0114 missing-module-docstring
       1  MEDIUM    ruff F401 unused-import
       1  CRITICAL  ruff F821 undefined-name

INCOMPLETE: not everything was linted
  pylint CRASHED
    ended by signal 9
    last words: \\u{1b}[2J
INCOMPLETE: 3 diagnostics in 1 file (1 CRITICAL, 1 MEDIUM, 1 INFO), folded from 4 reports, 1.2 s
";
    assert_eq!(written(&example(), Format::Concise, false), expected);
}

#[test]
fn full_shows_the_source_and_who_did_what() {
    let text = written(&example(), Format::Full, false);
    let expected_start = "\
pkg/a.py
  1:1 INFO pylint C0114 Missing module docstring
      1 | import os
        | ^
  1:8 MEDIUM ruff F401 `os` imported but unused [also pylint W0611]
      1 | import os
        |        ^^
  3:12 CRITICAL ruff F821 Undefined name `missing`
      3 |         x = '漢' + missing
        |                    ^^^^^^^

";
    assert!(text.starts_with(expected_start), "{text}");
    let expected_end = "
INCOMPLETE: not everything was linted
  pylint CRASHED
    ended by signal 9
    last words: \\u{1b}[2J
INCOMPLETE: 3 diagnostics in 1 file (1 CRITICAL, 1 MEDIUM, 1 INFO), folded from 4 reports, 1.2 s

  tool       version       files  reports   seconds
  pylint     1.2.3             1        2      0.75  FAILED
  ruff       1.2.3             1        2      0.03

  backend-dev      (backend-dev): LINT pylint x2, LINT ruff
  spare            (api-docs): idle
  system-architect (system-architect): PLAN
  fault: spare PROCESS_EXITED, 1 task redistributed
  1 retry
";
    assert!(text.ends_with(expected_end), "{text}");
    let colored = written(&example(), Format::Full, true);
    assert!(colored.contains("\u{1b}[1;31mCRITICAL\u{1b}[0m"), "{colored}");
}

#[test]
fn a_quiet_report_still_says_what_was_not_linted() {
    let options = Options { color: false, width: 80, statistics: false, quiet: true, source: &source };
    for format in [Format::Full, Format::Concise] {
        let mut bytes = Vec::new();
        write(&example(), format, &options, &mut bytes).expect("memory takes all");
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.contains("INCOMPLETE: not everything was linted\n  pylint CRASHED"), "{text}");
        assert!(!text.contains("diagnostics in"), "{text}");
    }
}

#[test]
fn json_carries_the_canonical_result_byte_for_byte() {
    let report = example();
    let text = written(&report, Format::Json, false);
    let canonical = String::from_utf8(canonical_bytes(&report.result)).expect("UTF-8");
    assert!(
        text.starts_with(&format!("{{\"schema_version\":1,\"result\":{canonical},\"execution\":{{")),
        "{text}"
    );
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(complaints(&SCHEMA, &value), Vec::<String>::new());
    assert_eq!(
        serde_json::from_value::<Execution>(value["execution"].clone()).expect("reads"),
        report.execution
    );
}

#[test]
fn the_schema_describes_every_field_and_refuses_what_it_does_not_know() {
    fn undescribed(at: &str, schema: &Value, found: &mut Vec<String>) {
        let Some(fields) = schema.as_object() else { return };
        for (name, field) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if field["description"].as_str().is_none_or(str::is_empty) {
                found.push(format!("{at}.{name}"));
            }
        }
        for (name, part) in fields {
            undescribed(&format!("{at}.{name}"), part, found);
        }
    }
    let schema: Value = serde_json::from_str(JSON_SCHEMA).expect("JSON");
    let mut found = Vec::new();
    undescribed("", &schema, &mut found);
    assert_eq!(found, Vec::<String>::new());

    let good: Value = serde_json::from_str(&written(&example(), Format::Json, false)).expect("JSON");
    for pointer in
        ["", "/result", "/result/diagnostics/0", "/result/summary", "/execution", "/execution/faults/0"]
    {
        let mut bad = good.clone();
        bad.pointer_mut(pointer).expect("is there")["surprise"] = Value::Bool(true);
        assert!(!SCHEMA.is_valid(&bad), "an unknown field in `{pointer}` was accepted");
    }
    let mut bad = good;
    bad["result"]["diagnostics"][0]["fingerprint"] = "short".into();
    assert!(!SCHEMA.is_valid(&bad));
}

#[test]
fn sarif_tells_levels_rules_security_and_incompleteness() {
    let mut report = example();
    let outputs = [
        classified("bandit", None, vec![raw("a b/ü:x.py", "B602", (2, Some(1)), None, "shell=True")]),
        classified("ruff", None, vec![raw("a.py", "S301", (2, None), None, "pickle")]),
    ];
    let failed = [TaskFailure {
        tool: tool("mypy"),
        files: vec![TreePath::new("a.py").expect("valid")],
        reason: "lost".into(),
    }];
    report.result = aggregate(&plan(&["bandit", "mypy", "ruff"]), &spec(), &outputs, &failed);
    let log: Value = serde_json::from_str(&written(&report, Format::Sarif, false)).expect("JSON");
    assert_eq!(complaints(&SARIF, &log), Vec::<String>::new());
    let run = &log["runs"][0];
    assert_eq!(run["columnKind"], "unicodeCodePoints");
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
    let security: Vec<_> = rules.iter().map(|rule| &rule["properties"]["security-severity"]).collect();
    assert_eq!(security, ["9.5", "8.0"]);
    assert!(rules.iter().all(|rule| rule["helpUri"].as_str().is_some_and(|uri| uri.starts_with("https://"))));
    let result = &run["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&"bandit/B602".into(), &"error".into()));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "a%20b/%C3%BC%3Ax.py");
    assert_eq!(result["properties"]["reportedBy"][0]["tool"], "bandit");
    let invocation = &run["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    let notes = invocation["toolExecutionNotifications"].to_string();
    assert!(notes.contains("mypy NOT_RUN: not run on 1 file (a.py): lost"), "{notes}");
}

#[test]
fn github_commands_cannot_be_forged() {
    let mut report = example();
    let message = "50% done\r\n::set-output name=x::y";
    let outputs =
        [classified("ruff", None, vec![raw("a,b:c.py", "E501", (1, Some(5)), Some((1, 9)), message)])];
    report.result = aggregate(&plan(&["ruff"]), &spec(), &outputs, &[]);
    let expected = "::notice file=a%2Cb%3Ac.py,line=1,col=5,endLine=1,endColumn=8,title=LOW ruff E501::50%25 \
        done%0D%0A::set-output name=x::y\n";
    assert_eq!(written(&report, Format::Github, false), expected);
}

/// Checks that a document is well-formed XML of the kind we write, and gives its elements' names in order.
fn parsed_xml(text: &str) -> Result<Vec<String>, String> {
    let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if let Some(bad) = text.chars().find(|c| !legal(*c)) {
        return Err(format!("illegal character {bad:?}"));
    }
    let mut rest =
        text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").ok_or("no declaration")?;
    let (mut open, mut elements): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    let entities = |text: &str| {
        let known = ["amp;", "lt;", "gt;", "quot;", "apos;", "#9;", "#10;", "#13;"];
        text.split('&').skip(1).all(|after| known.iter().any(|entity| after.starts_with(entity)))
    };
    while let Some(at) = rest.find('<') {
        let (before, after) = rest.split_at(at);
        let (tag, behind) = after[1..].split_once('>').ok_or("a tag does not end")?;
        if before.contains('>') || !entities(before) || (open.is_empty() && !before.trim().is_empty()) {
            return Err(format!("bad text {before:?}"));
        }
        rest = behind;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        // Attributes are `name="value"`; values hold no quotation marks.
        let parts: Vec<_> = attributes.split('"').collect();
        let names = parts.iter().step_by(2).all(|part| part.is_empty() || part.ends_with('='));
        if parts.len() % 2 == 0 || !names || !entities(attributes) {
            return Err(format!("bad attributes {attributes:?}"));
        }
        elements.push(name.to_owned());
        if !closed {
            open.push(name);
        }
    }
    if open.is_empty() && rest.trim().is_empty() { Ok(elements) } else { Err(format!("{open:?} still open")) }
}

#[test]
fn junit_has_a_failure_per_diagnostic_and_an_error_per_failed_tool() {
    let text = written(&example(), Format::Junit, false);
    let elements = parsed_xml(&text).expect("well-formed");
    let count = |name: &str| elements.iter().filter(|element| *element == name).count();
    assert_eq!((count("testsuite"), count("testcase"), count("failure"), count("error")), (2, 5, 3, 1));
    assert!(text.contains("tests=\"5\" failures=\"3\" errors=\"1\" time=\"1.250\""), "{text}");
    assert!(
        text.contains("<error type=\"CRASHED\" message=\"ended by signal 9&#10;last words: \u{fffd}[2J\">"),
        "{text}"
    );
}

#[test]
fn every_form_takes_25_000_diagnostics() {
    let many = (0..25_000_u32).map(|n| {
        let path = format!("pkg/m{}.py", n / 100);
        raw(&path, "E501", (n % 100 + 1, Some(80)), Some((n % 100 + 1, 99)), "Line too long (99 > 79)")
    });
    let outputs = [classified("ruff", None, many.collect())];
    let mut report = example();
    report.result = aggregate(&plan(&["ruff"]), &spec(), &outputs, &[]);
    for format in Format::ALL {
        let started = tokio::time::Instant::now();
        let length = written(&report, format, false).len();
        println!("{format}: {length} bytes in {:?}", started.elapsed());
        assert!(length > 1_000_000, "{format} wrote {length} bytes");
    }
}

/// Text that tries to break out of every form.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(\\PC|[\\x00-\\x1f\\x7f-\\x9f]|[<>&'\"%:,\\]]|\\u{202e}|\\u{fffe}|::|\\x1b\\[31m|\r\n){0,30}",
        Just("x\u{1b}]0;title\u{7}\n::error::forged\n</testsuite>]]>".to_owned()),
    ]
}

fn hostile_report() -> impl Strategy<Value = (Report, Vec<ClassifiedOutput>)> {
    let code = prop_oneof![Just("F401".to_owned()), Just("B602".to_owned()), hostile()];
    let place = (1..5_u32, prop::option::of(1..9_u32), prop::option::of((1..5_u32, 1..9_u32)));
    let optional = || prop::option::of(hostile());
    let one = (hostile(), code, place, hostile(), optional(), optional(), optional());
    let one = one.prop_map(|(path, code, (line, column, end), message, name, url, rating)| {
        // A text that is no path of a tree cannot reach a report.
        let path = TreePath::new(&path).map_or_else(|_| "pkg/a.py".to_owned(), |path| path.to_string());
        let mut raw = raw(&path, &code, (line, column), end, &message);
        (raw.name, raw.url, raw.tool_severity) = (name, url, rating);
        raw
    });
    let names = prop::sample::select(vec!["flake8", "pylint", "ruff", "mypy", "bandit", "other"]);
    let kinds =
        prop::sample::select(vec![ToolErrorKind::Garbled, ToolErrorKind::TimedOut, ToolErrorKind::Missing]);
    let error = prop::option::of((kinds, hostile()).prop_map(|(kind, message)| ToolError { kind, message }));
    let output = (names, error, prop::collection::vec(one, 0..5));
    prop::collection::vec(output, 0..5).prop_map(|outputs| {
        let outputs: Vec<_> =
            outputs.into_iter().map(|(name, error, raws)| classified(name, error, raws)).collect();
        let result = aggregate(&plan(&["ruff", "mypy"]), &spec(), &outputs, &[]);
        (Report { result, execution: execution() }, outputs)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_json_form_is_valid((report, outputs) in hostile_report()) {
        for diagnostic in outputs.iter().flat_map(|output| &output.diagnostics) {
            let value = serde_json::to_value(diagnostic).expect("JSON");
            prop_assert_eq!(complaints(&CLASSIFIED, &value), Vec::<String>::new());
        }
        let value: Value = serde_json::from_str(&written(&report, Format::Json, false)).expect("JSON");
        prop_assert_eq!(complaints(&SCHEMA, &value), Vec::<String>::new());
        let value: Value = serde_json::from_str(&written(&report, Format::Sarif, false)).expect("JSON");
        prop_assert_eq!(complaints(&SARIF, &value), Vec::<String>::new());
        let lines = written(&report, Format::JsonLines, false);
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let (last, diagnostics) = lines.split_last().expect("a last line");
        prop_assert_eq!(&last["outcome"], report.result.outcome.as_str());
        prop_assert_eq!(diagnostics.len(), report.result.diagnostics.len());
        for diagnostic in diagnostics {
            prop_assert_eq!(complaints(&DIAGNOSTIC, diagnostic), Vec::<String>::new());
        }
    }

    #[test]
    fn no_text_breaks_out_of_its_form((report, _) in hostile_report()) {
        let junit = written(&report, Format::Junit, false);
        let elements = parsed_xml(&junit).map_err(TestCaseError::fail)?;
        let failures = elements.iter().filter(|element| *element == "failure").count();
        prop_assert_eq!(failures, report.result.diagnostics.len());

        let failed = report.result.tools.values().filter(|tool| tool.error.is_some()).count();
        let banner = usize::from(failed > 0);
        let github = written(&report, Format::Github, false);
        prop_assert!(github.split_terminator(['\n', '\r']).all(|line| line.starts_with("::")), "{}", github);
        prop_assert_eq!(github.matches('\n').count(), report.result.diagnostics.len() + failed + banner);

        for format in [Format::Full, Format::Concise] {
            let text = written(&report, format, false);
            let control = text.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
            prop_assert_eq!(control, None, "{}", text);
        }
        prop_assert!(report.result.summary.by_severity.len() == Severity::ALL.len());
    }
}
