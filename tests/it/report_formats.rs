//! Every form of a report is valid for its readers, whatever is in the messages, paths and sources.

mod example;
mod hostile;
pub(super) mod schema;
mod xml;

use lintmesh::linters::aggregate::{TaskFailure, aggregate, canonical_bytes};
use lintmesh::linters::report::{Execution, Format, JSON_SCHEMA, Options, from_root, write};
use lintmesh::types::TreePath;
use serde_json::Value;

use example::{classified, example, plan, raw, source, spec, tool, written};
use schema::{SARIF, SCHEMA, complaints};
use xml::parsed_xml;

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
    let options = Options {
        color: false,
        width: 80,
        statistics: false,
        quiet: true,
        source: &source,
        name: &from_root,
    };
    for format in [Format::Full, Format::Concise] {
        let mut bytes = Vec::new();
        write(&example(), format, &options, &mut bytes).expect("memory takes all");
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.contains("INCOMPLETE: not everything was linted\n  pylint CRASHED"), "{text}");
        assert!(!text.contains("diagnostics in"), "{text}");
    }
}

#[test]
fn readers_elsewhere_see_their_own_names_of_files_and_the_result_stays_as_it_is() {
    let name = |path: &TreePath| format!("back end/{path}");
    let options =
        Options { color: false, width: 80, statistics: false, quiet: true, source: &source, name: &name };
    for (format, place) in [
        (Format::Full, "back end/pkg/a.py\n  1:1 "),
        (Format::Concise, "back end/pkg/a.py:1:1: "),
        (Format::Github, " file=back end/pkg/a.py,line=1"),
        (Format::Sarif, r#""uri":"back%20end/pkg/a.py""#),
        (Format::Json, r#""path":"pkg/a.py""#),
        (Format::JsonLines, r#""path":"pkg/a.py""#),
        (Format::Junit, "\"pkg/a.py"),
    ] {
        let mut bytes = Vec::new();
        write(&example(), format, &options, &mut bytes).expect("memory takes all");
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.contains(place), "{format}: {text}");
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
