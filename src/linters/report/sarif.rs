//! SARIF 2.1.0 (OASIS standard): one run, of lintmesh itself, with every tool's rules.

use std::collections::HashMap;
use std::io;

use serde_json::{Map, Value, json};

use super::summary::kind_name;
use super::{Options, Report, level};
use crate::linters::equivalence::rule_key;
use crate::types::{Diagnostic, Outcome, Severity};

/// The head of every SARIF 2.1.0 file.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// A rule as the report uses it: a result that shows it, and the worst severity among its results.
struct Rule<'a> {
    shown_by: &'a Diagnostic,
    worst: Severity,
}

/// Writes the log; the results one by one.
pub(super) fn write(report: &Report, options: &Options<'_>, out: &mut dyn io::Write) -> io::Result<()> {
    let mut indices: HashMap<(&str, &str), usize> = HashMap::new();
    let mut rules: Vec<Rule<'_>> = Vec::new();
    for diagnostic in &report.result.diagnostics {
        let index =
            *indices.entry((diagnostic.tool.as_str(), diagnostic.code.as_str())).or_insert_with(|| {
                rules.push(Rule { shown_by: diagnostic, worst: diagnostic.severity });
                rules.len() - 1
            });
        if let Some(rule) = rules.get_mut(index) {
            rule.worst = rule.worst.min(diagnostic.severity);
        }
    }
    let driver = json!({
        "name": "lintmesh",
        "version": report.execution.coordinator_version,
        "rules": rules.iter().map(metadata).collect::<Vec<_>>(),
    });
    write!(
        out,
        "{{\"$schema\":\"{SCHEMA}\",\"version\":\"2.1.0\",\"runs\":[{{\"tool\":{{\"driver\":{driver}}},"
    )?;
    write!(
        out,
        "\"invocations\":[{}],\"columnKind\":\"unicodeCodePoints\",\"results\":[",
        invocation(report)
    )?;
    for (position, diagnostic) in report.result.diagnostics.iter().enumerate() {
        if position > 0 {
            out.write_all(b",")?;
        }
        let index = indices.get(&(diagnostic.tool.as_str(), diagnostic.code.as_str())).copied();
        let uri = uri(&(options.name)(&diagnostic.path));
        serde_json::to_writer(&mut *out, &result(diagnostic, &uri, index.unwrap_or_default()))?;
    }
    out.write_all(b"]}]}\n")
}

/// What is known of a rule.
fn metadata(rule: &Rule<'_>) -> Value {
    let shown = rule.shown_by;
    let name = shown.name.as_deref().unwrap_or(&shown.code);
    let mut described = json!({
        "id": rule_id(shown),
        "name": name,
        "shortDescription": { "text": format!("{}: {}", shown.tool, name.replace(['-', '_'], " ")) },
        "defaultConfiguration": { "level": level(rule.worst) },
    });
    let mut properties = json!({ "tags": [shown.tool.as_str()], "severity": rule.worst.as_str() });
    if is_security(shown) {
        properties["tags"] = json!([shown.tool.as_str(), "security"]);
        properties["security-severity"] = json!(security_severity(rule.worst));
    }
    described["properties"] = properties;
    if let Some(url) = shown.url.as_deref().filter(|url| is_link(url)) {
        described["helpUri"] = json!(url);
    }
    described
}

fn rule_id(diagnostic: &Diagnostic) -> String {
    format!("{}/{}", diagnostic.tool, diagnostic.code)
}

/// Whether the rule is bandit's, or one that another tool took from it.
fn is_security(diagnostic: &Diagnostic) -> bool {
    diagnostic.tool.as_str() == "bandit"
        || rule_key(diagnostic.tool.as_str(), &diagnostic.code).tool() == "bandit"
        || (diagnostic.tool.as_str() == "ruff" && matches!(diagnostic.code.as_str(), "S320" | "S410"))
}

/// In the middle of the ranges by which GitHub reads the scores of CVSS: over 9.0 critical, 7.0 to 8.9 high, 4.0 to
/// 6.9 medium, 0.1 to 3.9 low.
const fn security_severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "9.5",
        Severity::High => "8.0",
        Severity::Medium => "5.5",
        Severity::Low => "2.0",
        Severity::Info => "0.5",
    }
}

/// Whether a tool's link can stand where SARIF wants a URI.
fn is_link(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#@!$&'()*+,;=%".contains(&b))
    })
}

fn result(diagnostic: &Diagnostic, uri: &str, rule_index: usize) -> Value {
    let mut region = Map::new();
    region.insert("startLine".to_owned(), json!(diagnostic.line.max(1)));
    if let Some(column) = diagnostic.column {
        region.insert("startColumn".to_owned(), json!(column.max(1)));
    }
    // A region that ends before it starts would be refused by readers.
    let start = (diagnostic.line, diagnostic.column.unwrap_or(1));
    if let Some(end) = diagnostic.end.filter(|end| (end.line, end.column.unwrap_or(u32::MAX)) >= start) {
        region.insert("endLine".to_owned(), json!(end.line.max(1)));
        if let Some(column) = end.column.filter(|_| diagnostic.column.is_some()) {
            region.insert("endColumn".to_owned(), json!(column.max(1)));
        }
    }
    json!({
        "ruleId": rule_id(diagnostic),
        "ruleIndex": rule_index,
        "level": level(diagnostic.severity),
        "message": { "text": diagnostic.message },
        "locations": [{
            "physicalLocation": {
                "artifactLocation": { "uri": uri, "uriBaseId": "%SRCROOT%" },
                "region": region,
            },
        }],
        "partialFingerprints": { "lintmesh/v1": diagnostic.fingerprint },
        "properties": { "severity": diagnostic.severity, "reportedBy": diagnostic.reported_by },
    })
}

/// How the run went; a reader that only looks at results must not take an incomplete run for a clean one.
fn invocation(report: &Report) -> Value {
    let complete = matches!(report.result.outcome, Outcome::Clean | Outcome::Findings);
    let mut notifications = Vec::new();
    if !complete {
        let text = format!("{}: not everything was linted", report.result.outcome);
        notifications.push(json!({ "level": "error", "message": { "text": text } }));
    }
    for (tool, part) in &report.result.tools {
        if let Some(error) = &part.error {
            let text = format!("{tool} {}: {}", kind_name(error.kind), error.message);
            let descriptor = json!({ "id": format!("{tool}/{}", kind_name(error.kind)) });
            notifications
                .push(json!({ "level": "error", "message": { "text": text }, "descriptor": descriptor }));
        }
    }
    json!({
        "executionSuccessful": complete,
        "startTimeUtc": report.execution.started_at,
        "endTimeUtc": report.execution.ended_at,
        "toolExecutionNotifications": notifications,
        "properties": { "outcome": report.result.outcome },
    })
}

/// A path as a relative URI reference (RFC 3986): everything but unreserved characters and `/` is percent-encoded.
fn uri(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
