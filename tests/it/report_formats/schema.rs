//! The schemas that reports must fulfil.

use std::sync::LazyLock;

use lintmesh::linters::report::JSON_SCHEMA;
use serde_json::Value;

pub(crate) static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).expect("the schema is JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("the schema is a valid schema");
    jsonschema::validator_for(&schema).expect("the schema compiles")
});

pub(crate) static SARIF: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    // The published schema has a stray `]` in the pattern of `language`, which strict engines refuse unescaped.
    let schema = include_str!("../../fixtures/schema/sarif-2.1.0.json").replace("{2}]?$", "{2}\\\\]?$");
    jsonschema::validator_for(&serde_json::from_str(&schema).expect("JSON")).expect("the schema compiles")
});

/// A schema of one definition of the published schema.
pub(super) fn definition(name: &str) -> jsonschema::Validator {
    let mut schema: Value = serde_json::from_str(JSON_SCHEMA).expect("JSON");
    let definitions = schema["$defs"].take();
    let schema = serde_json::json!({ "$defs": definitions, "$ref": format!("#/$defs/{name}") });
    jsonschema::validator_for(&schema).expect("the definition compiles")
}

pub(super) static CLASSIFIED: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| definition("classified_diagnostic"));
pub(super) static DIAGNOSTIC: LazyLock<jsonschema::Validator> = LazyLock::new(|| definition("diagnostic"));

pub(crate) fn complaints(validator: &jsonschema::Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect()
}
