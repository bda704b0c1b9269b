//! The fields of a request one by one; all that is wrong is collected.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use prost::Message as _;

use crate::linters::adapters;
use crate::linters::validate_options;
use crate::proto::v1;
use crate::server::service::Service;
use crate::status::FieldViolation;
use crate::types::{Priority, Severity, ToolName, ToolRequest, names_rules};
use crate::wire;
use crate::wire::time;

/// The request without its id: what must be the same when an id is used again.
pub fn canonical_body(request: &v1::CoordinateRequest) -> Vec<u8> {
    // Maps are ordered by key, and both sides of the comparison are encoded by this very code.
    let body = v1::CoordinateRequest { request_id: String::new(), ..request.clone() };
    body.encode_to_vec()
}

/// Request and fault ids: short enough to index, printable so that they can be searched for.
pub fn check_id(field: &str, id: &str, bad: &mut Vec<FieldViolation>) {
    if id.len() > 36 || !id.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        bad.push(FieldViolation::new(field, "must have at most 36 printable ASCII characters"));
    }
}

/// The texts that only label a run.
pub fn check_labels(request: &v1::CoordinateRequest, bad: &mut Vec<FieldViolation>) {
    check_id("request_id", &request.request_id, bad);
    for (field, label) in [("project", &request.project), ("supersede_key", &request.supersede_key)] {
        if label.chars().count() > 128 || label.chars().any(char::is_control) {
            let text = "must have at most 128 characters, none of them a control character";
            bad.push(FieldViolation::new(field, text));
        }
    }
}

/// How urgent the run is.
pub fn priority(request: &v1::CoordinateRequest, bad: &mut Vec<FieldViolation>) -> Priority {
    Priority::new(request.priority).unwrap_or_else(|| {
        let text = format!("is {}; must be from -10 (least urgent) to 10", request.priority);
        bad.push(FieldViolation::new("priority", text));
        Priority::default()
    })
}

/// How long the run may take: what the request wishes, up to `runs.timeout`.
pub fn timeout(
    service: &Service,
    request: &v1::CoordinateRequest,
    bad: &mut Vec<FieldViolation>,
) -> Duration {
    let longest = service.settings.runs.timeout;
    let Some(wish) = request.timeout else { return longest };
    match time::span(wish) {
        Some(wish) if !wish.is_zero() && wish <= longest => wish,
        _ => {
            let text = format!("must be more than 0 and at most {} s (runs.timeout)", longest.as_secs());
            bad.push(FieldViolation::new("timeout", text));
            longest
        }
    }
}

/// How long a client that wants its run to end with it may take to come back after its connection broke, if it does not
/// say.
const DISCONNECT_GRACE: Duration = Duration::from_secs(3);
/// The most it may take: for a client that is gone for good, linters run in vain all this time.
const LONGEST_DISCONNECT_GRACE: Duration = Duration::from_secs(3600);

/// How long the client of a run with `cancel_on_disconnect` may take to come back.
pub fn disconnect_grace(request: &v1::CoordinateRequest) -> Duration {
    let wish = request.disconnect_grace.and_then(time::span);
    wish.unwrap_or(DISCONNECT_GRACE).min(LONGEST_DISCONNECT_GRACE)
}

/// That time, if it is told, must be one.
pub fn check_disconnect_grace(request: &v1::CoordinateRequest, bad: &mut Vec<FieldViolation>) {
    if request.disconnect_grace.is_some_and(|grace| time::span(grace).is_none()) {
        bad.push(FieldViolation::new("disconnect_grace", "must be a time of 0 or more"));
    }
}

/// Overrides of severities in one request.
const MAX_SEVERITIES: usize = 1000;

/// The server's severity overrides, replaced one by one by those of the request.
pub fn severities(
    service: &Service,
    request: &v1::CoordinateRequest,
    bad: &mut Vec<FieldViolation>,
) -> BTreeMap<String, Severity> {
    let mut overrides = service.settings.severity.clone();
    if request.severities.len() > MAX_SEVERITIES {
        let text = format!("has {} entries; at most {MAX_SEVERITIES} are allowed", request.severities.len());
        bad.push(FieldViolation::new("severities", text));
        return overrides;
    }
    for (rules, severity) in &request.severities {
        let severity = v1::Severity::try_from(*severity).ok().and_then(wire::lint::severity);
        match severity.filter(|_| names_rules(rules)) {
            Some(severity) => {
                overrides.insert(rules.clone(), severity);
            }
            None => {
                let text = "must be `tool:code` or `tool:prefix*` with a severity from CRITICAL to INFO";
                bad.push(FieldViolation::new(format!("severities[{rules}]"), text));
            }
        }
    }
    overrides
}

/// The tools of a request, sorted; all of them if it names none.
pub fn tools(request: &v1::CoordinateRequest, bad: &mut Vec<FieldViolation>) -> Vec<ToolRequest> {
    let mut chosen: BTreeMap<ToolName, ToolRequest> = BTreeMap::new();
    for (index, selection) in request.tools.iter().enumerate() {
        let field = format!("tools[{index}]");
        let is_known = adapters().iter().any(|adapter| adapter.name() == selection.tool);
        let Some(tool) = ToolName::new(&selection.tool).ok().filter(|_| is_known) else {
            let known: Vec<_> = adapters().iter().map(|adapter| adapter.name()).collect();
            let text = format!("`{}` is not a linter; choose from {}", selection.tool, known.join(", "));
            bad.push(FieldViolation::new(format!("{field}.tool"), text));
            continue;
        };
        let options = selection.options.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let wanted = ToolRequest { tool: tool.clone(), options };
        for problem in validate_options(&wanted).err().unwrap_or_default() {
            let place = format!("{field}.options[{}]", problem.option);
            bad.push(FieldViolation::new(place, problem.problem));
        }
        if chosen.insert(tool.clone(), wanted).is_some() {
            bad.push(FieldViolation::new(field, format!("`{tool}` is selected twice")));
        }
    }
    if request.tools.is_empty() {
        return Service::tools()
            .into_iter()
            .map(|tool| ToolRequest { tool, options: BTreeMap::new() })
            .collect();
    }
    chosen.into_values().collect()
}

/// The Python whose packages mypy and pylint see, if the request may name it.
pub fn interpreter(
    service: &Service,
    request: &v1::CoordinateRequest,
    bad: &mut Vec<FieldViolation>,
) -> Option<String> {
    use v1::environment::Interpreter;
    match request.environment.as_ref()?.interpreter.as_ref()? {
        Interpreter::Name(name) => {
            let found = service.settings.environments.get(name);
            if found.is_none() {
                let known: Vec<_> = service.settings.environments.keys().map(String::as_str).collect();
                let text = format!(
                    "`{name}` is not in the server's `environments`; it knows: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                );
                bad.push(FieldViolation::new("environment.name", text));
            }
            found.map(|path| path.to_string_lossy().into_owned())
        }
        Interpreter::Python(path) if !service.trees.allow_interpreter_paths => {
            let text = format!("`{path}`: this server takes only names from its `environments`");
            bad.push(FieldViolation::new("environment.python", text));
            None
        }
        Interpreter::Python(path) => {
            if !Path::new(path).is_absolute() || !Path::new(path).is_file() {
                let text = format!("`{path}` is not the absolute path of a Python interpreter");
                bad.push(FieldViolation::new("environment.python", text));
            }
            Some(path.clone())
        }
    }
}
