//! Reports full of text that tries to break out of every form.

use lintmesh::linters::aggregate::aggregate;
use lintmesh::linters::report::{Format, Report};
use lintmesh::types::{ClassifiedOutput, Severity, ToolError, ToolErrorKind, TreePath};
use proptest::prelude::*;
use serde_json::Value;

use super::example::{classified, execution, plan, raw, spec, written};
use super::schema::{CLASSIFIED, DIAGNOSTIC, SARIF, SCHEMA, complaints};
use super::xml::parsed_xml;

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
