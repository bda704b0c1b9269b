use proptest::prelude::*;

use super::*;
use crate::linters::classify::classify;
use crate::types::{LintOutput, Position, RawDiagnostic, Shard, Span, ToolRequest};

fn tool(name: &str) -> ToolName {
    ToolName::new(name).expect("valid")
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("valid")
}

fn spec() -> RunSpec {
    RunSpec {
        tools: vec![ToolRequest { tool: tool("ruff"), options: BTreeMap::new() }],
        versions: BTreeMap::new(),
        allow_tree_code: true,
        python: None,
        severity_overrides: BTreeMap::new(),
        max_shards: 4,
        unreadable: Vec::new(),
    }
}

fn plan(tools: &[&str], shards: usize) -> Plan {
    let shard = |n: usize| Shard { files: vec![path(&format!("f{n}.py")), path("shared.py")], cost: 1 };
    let one = |name: &&str| ToolPlan {
        tool: tool(name),
        version: "1.0".into(),
        arguments: vec!["--strict".into()],
        refused: None,
        shards: (0..shards).map(shard).collect(),
    };
    Plan { tools: tools.iter().map(one).collect(), files: 2 }
}

/// `tool:code@line:column message`, in `a.py`.
fn said(text: &str) -> (ToolName, RawDiagnostic) {
    let (head, message) = text.split_once(' ').expect("a message");
    let (rule, place) = head.split_once('@').expect("a place");
    let (name, code) = rule.split_once(':').expect("a tool");
    let (line, column) = place.split_once(':').expect("a column");
    let (column, end_line) = column.split_once('-').unwrap_or((column, ""));
    let (line, column) = (line.parse().expect("line"), column.parse().ok());
    let end = end_line.parse().ok().map(|line| Position { line, column: Some(1) });
    let raw = RawDiagnostic {
        path: path("a.py"),
        span: Span { start: Position { line, column }, end },
        tool_line: line,
        tool_column: column,
        code: code.into(),
        name: None,
        message: message.into(),
        tool_severity: None,
        url: None,
        line_hash: format!("hash-of-{line}"),
    };
    (tool(name), raw)
}

fn classified(reports: impl IntoIterator<Item = (ToolName, RawDiagnostic)>) -> Vec<ClassifiedOutput> {
    let mut by_tool: BTreeMap<ToolName, Vec<RawDiagnostic>> = BTreeMap::new();
    for (name, raw) in reports {
        by_tool.entry(name).or_default().push(raw);
    }
    let output = |(tool, diagnostics)| LintOutput { tool, files: 2, error: None, diagnostics };
    by_tool.into_iter().map(output).map(|output| classify(&output, &spec())).collect()
}

/// The folded entries, each as its reports, `tool:code message`.
fn folded(reports: &[&str]) -> Vec<Vec<String>> {
    let outputs = classified(reports.iter().map(|text| said(text)));
    let entries = aggregate(&plan(&[], 0), &spec(), &outputs, &[]).diagnostics;
    let words = |report: &Reported| format!("{}:{} {}", report.tool, report.code, report.message);
    entries.iter().map(|entry| entry.reported_by.iter().map(words).collect()).collect()
}

#[test]
fn one_long_line_is_one_entry_that_names_all_three_tools() {
    let outputs = classified([
        said("flake8:E501@3:80 line too long (101 > 79 characters)"),
        said("pylint:C0301@3:1 Line too long (101/100)"),
        said("ruff:E501@3:89 Line too long (101 > 88)"),
    ]);
    let result = aggregate(&plan(&["flake8", "pylint", "ruff"], 1), &spec(), &outputs, &[]);
    let [entry] = &result.diagnostics[..] else { panic!("{:?}", result.diagnostics) };
    assert_eq!((entry.tool.as_str(), entry.column, entry.severity), ("ruff", Some(89), Severity::Low));
    assert_eq!(entry.name.as_deref(), Some("line-too-long"));
    assert_eq!(entry.reported_by.len(), 3);
    assert_eq!((result.summary.diagnostics, result.summary.reported), (1, 3));
    assert_eq!(result.outcome, Outcome::Findings);
}

#[test]
fn two_unused_imports_on_one_line_stay_two_and_are_matched_by_name() {
    let entries = folded(&[
        "flake8:F401@1:1 'os' imported but unused",
        "flake8:F401@1:1 'sys' imported but unused",
        "pylint:W0611@1:1 Unused import sys",
        "pylint:W0611@1:1 Unused import os",
        "ruff:F401@1:8 `os` imported but unused",
        "ruff:F401@1:12 `sys` imported but unused",
    ]);
    assert_eq!(entries.len(), 2, "{entries:?}");
    for (entry, module) in entries.iter().zip(["os", "sys"]) {
        assert_eq!(entry.len(), 3);
        assert!(entry.iter().all(|report| report.contains(module)), "{entry:?}");
    }
}

#[test]
fn reports_without_names_are_matched_by_column_then_by_order() {
    let entries = folded(&[
        "flake8:E231@1:4 missing whitespace after ','",
        "flake8:E231@1:9 missing whitespace after ','",
        "ruff:E231@1:9 Missing whitespace after ','",
    ]);
    assert_eq!(entries.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2], "{entries:?}");
    let entries = folded(&[
        "pylint:W0702@5:2 No exception type(s) specified",
        "flake8:E722@5:1 do not use bare 'except'",
    ]);
    assert_eq!(entries.len(), 1);
}

#[test]
fn different_things_under_one_named_rule_are_not_folded() {
    let entries = folded(&[
        "pylint:C0103@1:1 Function name \"Foo\" doesn't conform to snake_case naming style",
        "ruff:N803@1:9 Argument name `Bar` should be lowercase",
    ]);
    assert_eq!(entries.len(), 2, "{entries:?}");
}

#[test]
fn an_import_over_several_lines_is_folded_by_the_statements_span() {
    let entries = folded(&[
        "flake8:F401@2:1 'collections.OrderedDict' imported but unused",
        "flake8:F401@2:1 'collections.defaultdict' imported but unused",
        "pylint:W0611@2:1-5 Unused OrderedDict imported from collections",
        "pylint:W0611@2:1-5 Unused defaultdict imported from collections",
        "ruff:F401@3:5 `collections.OrderedDict` imported but unused",
        "ruff:F401@4:5 `collections.defaultdict` imported but unused",
        "ruff:F401@9:5 `other.OrderedDict` imported but unused",
    ]);
    let sizes: Vec<_> = entries.iter().map(Vec::len).collect();
    // `OrderedDict` is reported elsewhere too, so only `defaultdict` is safe to fold across lines.
    assert_eq!(sizes, [2, 1, 3, 1], "{entries:?}");
    assert!(entries[2].iter().all(|report| report.contains("defaultdict")));
}

#[test]
fn a_syntax_error_is_one_problem_for_every_tool() {
    let entries = folded(&[
        "flake8:E999@1:8 SyntaxError: invalid syntax",
        "pylint:E0001@1:7 Parsing failed: 'invalid syntax (s, line 1)'",
        "mypy:syntax@1:7 Expected a parameter",
        "ruff:invalid-syntax@1:7 Expected a parameter or the end of the parameter list",
    ]);
    assert_eq!(entries.iter().map(Vec::len).collect::<Vec<_>>(), [4]);
    let outputs = classified([
        said("flake8:E999@7:8 SyntaxError: invalid syntax"),
        said("bandit:syntax-error@1:none syntax error while parsing AST from file"),
    ]);
    let entries = aggregate(&plan(&[], 0), &spec(), &outputs, &[]).diagnostics;
    let [entry] = &entries[..] else { panic!("bandit does not know the line: {entries:?}") };
    assert_eq!((entry.line, entry.tool.as_str(), entry.reported_by.len()), (7, "flake8", 2));
}

#[test]
fn fingerprints_survive_moved_lines_and_tell_equal_lines_apart() {
    let at = |lines: [u32; 2], tools: &[&str]| {
        let reports = lines.into_iter().flat_map(|line| {
            tools.iter().map(move |rule| {
                let (name, mut raw) = said(&format!("{rule}@{line}:1 unused"));
                raw.line_hash = "same text".into();
                (name, raw)
            })
        });
        let outputs = classified(reports.collect::<Vec<_>>());
        let entries = aggregate(&plan(&[], 0), &spec(), &outputs, &[]).diagnostics;
        entries.into_iter().map(|entry| entry.fingerprint).collect::<Vec<_>>()
    };
    let before = at([3, 7], &["flake8:E501", "pylint:C0301"]);
    assert_eq!(before.len(), 2);
    assert_ne!(before[0], before[1]);
    assert!(before.iter().all(|text| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())));
    assert_eq!(before, at([13, 70], &["pylint:C0301"]), "moved, and reported by one tool only");
    assert_ne!(before, at([3, 7], &["flake8:E502"]));
}

#[test]
fn failures_of_every_kind_make_the_outcome_incomplete() {
    let plan_of_two = plan(&["mypy", "ruff"], 2);
    let output = |error| ClassifiedOutput { tool: tool("ruff"), files: 2, error, diagnostics: vec![] };
    let crash = |text: &str| Some(ToolError { kind: ToolErrorKind::Crashed, message: text.into() });
    let failure = TaskFailure {
        tool: tool("mypy"),
        files: ["d.py", "b.py", "c.py", "a.py"].map(path).to_vec(),
        reason: "no node could finish it".into(),
    };
    let outputs = [output(crash("second")), output(crash("first"))];
    let result = aggregate(&plan_of_two, &spec(), &outputs, &[failure.clone(), failure]);
    assert_eq!(result.outcome, Outcome::Incomplete);
    let error = |name: &str| result.tools[&tool(name)].error.clone().expect("an error");
    assert_eq!(error("ruff").message, "first\nsecond");
    assert_eq!(error("mypy").kind, ToolErrorKind::NotRun);
    assert_eq!(error("mypy").message, "not run on 4 files (a.py, b.py, c.py, ...): no node could finish it");
    assert_eq!(result.tools[&tool("ruff")].files, 3, "two shards share a file");

    let lost = aggregate(&plan(&["ruff"], 2), &spec(), &[output(None)], &[]);
    assert_eq!(lost.outcome, Outcome::Incomplete);
    let whole = aggregate(&plan(&["ruff"], 1), &spec(), &[output(None)], &[]);
    assert_eq!((whole.outcome, whole.tools[&tool("ruff")].error.clone()), (Outcome::Clean, None));
}

#[test]
fn a_refused_tool_carries_its_error_and_an_empty_tree_is_clean() {
    let mut refusing = plan(&["bandit"], 0);
    let refused = ToolError { kind: ToolErrorKind::TreeCodeRefused, message: "no".into() };
    refusing.tools[0].refused = Some(refused.clone());
    let result = aggregate(&refusing, &spec(), &[], &[]);
    assert_eq!(result.outcome, Outcome::Incomplete);
    assert_eq!(result.tools[&tool("bandit")].error, Some(refused));
    refusing.files = 0;
    assert_eq!(aggregate(&refusing, &spec(), &[], &[]).outcome, Outcome::Clean);
}

#[test]
fn a_file_that_cannot_be_read_is_a_diagnostic() {
    let mut with_unreadable = spec();
    with_unreadable
        .unreadable
        .push(Unreadable { path: path("x\u{fffd}.py"), reason: "its name is not UTF-8".into() });
    let result = aggregate(&plan(&["ruff"], 0), &with_unreadable, &[], &[]);
    let [entry] = &result.diagnostics[..] else { panic!("one entry") };
    assert_eq!((entry.tool.as_str(), entry.code.as_str()), ("lintmesh", "LM001"));
    assert_eq!(result.outcome, Outcome::Findings);
    assert_eq!(result.summary.by_tool[&tool("lintmesh")], 1);
}

#[test]
fn canonical_bytes_have_the_declared_form_and_round_trip() {
    let outputs = classified([said("ruff:F401@1:8 `os` imported but unused")]);
    let result = aggregate(&plan(&["ruff"], 1), &spec(), &outputs, &[]);
    let bytes = canonical_bytes(&result);
    assert!(bytes.starts_with(
        b"{\"schema_version\":1,\"outcome\":\"FINDINGS\",\"tools\":{\"ruff\":{\"version\":\"1.0\""
    ));
    assert_eq!(serde_json::from_slice::<RunResult>(&bytes).expect("reads back"), result);
}

#[test]
fn a_report_of_25_000_diagnostics_takes_seconds_at_most() {
    let reports = (0..25_000_u32).map(|n| {
        let rule = ["flake8:F401", "ruff:F401", "pylint:W0611", "ruff:D103", "bandit:B101"][n as usize % 5];
        // Every tenth report is on the same line, the worst case for matching.
        let line = if n % 10 < 3 { 1 } else { n / 5 + 1 };
        said(&format!("{rule}@{line}:{} 'name{}' imported but unused", n % 50 + 1, n / 5))
    });
    let outputs = classified(reports.collect::<Vec<_>>());
    let started = tokio::time::Instant::now();
    let result = aggregate(&plan(&[], 0), &spec(), &outputs, &[]);
    let taken = started.elapsed();
    println!("aggregating 25,000 diagnostics took {taken:?}, {} entries", result.diagnostics.len());
    assert_eq!(result.summary.reported, 25_000);
    assert!(taken.as_secs() < 30, "{taken:?}: a step is not linear");
}

/// Reports over few places, rules and names, so that many of them meet.
fn reports() -> impl Strategy<Value = Vec<(ToolName, RawDiagnostic)>> {
    let rules = prop::sample::select(vec![
        "flake8:F401",
        "ruff:F401",
        "pylint:W0611",
        "flake8:E501",
        "ruff:E501",
        "pylint:C0301",
        "mypy:name-defined",
        "flake8:F821",
        "pylint:E0602",
        "bandit:B307",
        "pylint:W0123",
        "ruff:S307",
        "other:X1",
    ]);
    let subjects =
        prop::sample::select(vec!["'os' unused", "`a.sys` unused", "Unused import os", "x 'y' y", "plain"]);
    let one = (rules, 1..4_u32, prop::option::of(1..4_u32), prop::option::of(1..5_u32), subjects);
    let one = one.prop_map(|(rule, line, column, end, subject)| {
        let column = column.map_or_else(|| "none".to_owned(), |column| column.to_string());
        let end = end.map_or_else(String::new, |end| format!("-{}", line.max(end)));
        said(&format!("{rule}@{line}:{column}{end} {subject}"))
    });
    prop::collection::vec(one, 0..24)
}

fn as_reported((tool, raw): &(ToolName, RawDiagnostic)) -> Reported {
    Reported {
        tool: tool.clone(),
        line: raw.tool_line,
        column: raw.tool_column,
        code: raw.code.clone(),
        message: raw.message.clone(),
    }
}

proptest! {
    #[test]
    fn every_report_is_in_exactly_one_entry(reports in reports()) {
        let result = aggregate(&plan(&[], 0), &spec(), &classified(reports.clone()), &[]);
        let mut given: Vec<_> = reports.iter().map(as_reported).collect();
        let mut shown: Vec<_> = result.diagnostics.iter().flat_map(|entry| entry.reported_by.clone()).collect();
        given.sort();
        shown.sort();
        prop_assert_eq!(given, shown);
        for entry in &result.diagnostics {
            let tools: BTreeSet<_> = entry.reported_by.iter().map(|report| &report.tool).collect();
            prop_assert_eq!(tools.len(), entry.reported_by.len(), "a tool is twice in {:?}", entry);
            let worst = entry.reported_by.iter().map(|report| {
                catalogue::assess(report.tool.as_str(), &report.code, None, &BTreeMap::new()).severity
            });
            prop_assert_eq!(Some(entry.severity), worst.min());
        }
        let counted: u32 = result.summary.by_severity.values().sum();
        prop_assert_eq!(counted as usize, result.diagnostics.len());
    }

    #[test]
    fn the_result_does_not_depend_on_the_order_of_arrival(reports in reports(), seed in any::<u64>()) {
        let one = aggregate(&plan(&[], 0), &spec(), &classified(reports.clone()), &[]);
        let mut outputs = classified(reports);
        for output in &mut outputs {
            output.diagnostics.reverse();
            let middle = usize::try_from(seed % (output.diagnostics.len() as u64 + 1)).expect("small");
            output.diagnostics.rotate_left(middle);
        }
        outputs.reverse();
        let other = aggregate(&plan(&[], 0), &spec(), &outputs, &[]);
        prop_assert_eq!(canonical_bytes(&one), canonical_bytes(&other));
    }

    #[test]
    fn folding_again_changes_nothing(reports in reports()) {
        let entry = |diagnostic: &Diagnostic| {
            Entry { key: rule_key(diagnostic.tool.as_str(), &diagnostic.code), diagnostic: diagnostic.clone() }
        };
        let outputs = classified(reports);
        let once = fold::fold(outputs.iter().flat_map(|output| &output.diagnostics).map(entry).collect());
        let twice = fold::fold(once.clone());
        let plain = |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.diagnostic).collect::<Vec<_>>();
        prop_assert_eq!(plain(once), plain(twice));
    }
}
