//! Takes settings out of merged tables, noting all that is wrong on the way.

use std::collections::{BTreeMap, BTreeSet};

use ::config::{Value, ValueKind};

use super::section::Rule;
use super::setting::{Setting, literal};

/// One setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was set: a file, an environment variable, a flag; or `default`.
    pub source: String,
    /// Its full key, `section.name`.
    pub key: String,
    /// What it was set to; hidden where it could be a secret.
    pub value: String,
    /// What is allowed there.
    pub allowed: String,
    /// Whether there is no such setting at all.
    pub unknown: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, key, value, allowed, unknown } = self;
        let wrong = if *unknown { "is not a setting; known here" } else { "is not valid; allowed" };
        write!(f, "{source}: {key} = {value} {wrong}: {allowed}")
    }
}

/// Where a value is and what may be there.
pub(super) struct At<'a> {
    pub(super) key: &'a str,
    pub(super) allowed: &'a str,
}

/// Collects problems, and where each setting came from.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    origins: BTreeMap<String, String>,
}

/// What is left of a table while its fields are taken out.
pub(super) type Fields = BTreeMap<String, Value>;

/// The key of a field within a table.
pub(super) fn joined(table: &str, field: &str) -> String {
    if table.is_empty() { field.to_owned() } else { format!("{table}.{field}") }
}

impl Reader {
    /// Notes that a value cannot be used. Answers `None`, so that it can end a chain.
    pub(super) fn refuse<T>(&mut self, value: &Value, at: &At<'_>) -> Option<T> {
        self.problems.push(Problem {
            source: source(value),
            key: at.key.to_owned(),
            value: shown(at.key, value),
            allowed: at.allowed.to_owned(),
            unknown: false,
        });
        None
    }

    /// Notes that a setting does not go together with others.
    pub(super) fn conflict(&mut self, key: &str, value: String, allowed: String) {
        // A list's elements come from where the list does.
        let list = key.split('[').next().unwrap_or(key);
        let origin = self.origins.get(key).or_else(|| self.origins.get(list));
        self.problems.push(Problem {
            source: origin.cloned().unwrap_or_else(|| "default".into()),
            key: key.to_owned(),
            value: if is_secret(key) { HIDDEN.into() } else { value },
            allowed,
            unknown: false,
        });
    }

    /// Remembers where a setting came from.
    pub(super) fn note(&mut self, key: &str, value: &Value) {
        self.origins.insert(key.to_owned(), source(value));
    }

    /// Whether some source set it, so that it is not its default.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    pub(super) fn table(&mut self, value: &Value, at: &At<'_>) -> Option<Fields> {
        match literal(value).kind {
            ValueKind::Table(fields) => Some(fields.into_iter().collect()),
            // What the merge gives when no source has any setting.
            ValueKind::Nil => Some(Fields::new()),
            _ => self.refuse(value, at),
        }
    }

    pub(super) fn field<T: Setting>(
        &mut self,
        fields: &mut Fields,
        table: &str,
        name: &str,
        rule: &Rule<T>,
    ) -> Option<T> {
        let value = fields.remove(name)?;
        let key = joined(table, name);
        self.note(&key, &value);
        let at = At { key: &key, allowed: rule.allowed };
        let read = T::read(&value, &at, self)?;
        if (rule.accepts)(&read) { Some(read) } else { self.refuse(&value, &at) }
    }

    /// Notes what is left in a table.
    pub(super) fn unknown(&mut self, fields: Fields, table: &str, known: &[&str]) {
        for (name, value) in fields {
            let key = joined(table, &name);
            self.problems.push(Problem {
                source: source(&value),
                value: shown(&key, &value),
                key,
                allowed: known.join(", "),
                unknown: true,
            });
        }
    }
}

/// Where a value came from. A table merged from several sources has no origin of its own: what is in it has.
fn source(value: &Value) -> String {
    match (&value.kind, value.origin()) {
        // Only the merge knew where an empty one was.
        (ValueKind::Table(fields), None) if fields.is_empty() => "an empty table in a settings file".into(),
        (ValueKind::Table(fields), None) => {
            let sources: BTreeSet<_> = fields.values().map(source).collect();
            sources.into_iter().collect::<Vec<_>>().join(", ")
        }
        (_, origin) => origin.unwrap_or("default").to_owned(),
    }
}

const HIDDEN: &str = "(hidden)";

/// Whether the value under this key may be a secret, also when the key is misspelt.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    key.starts_with("auth")
        || ["secret", "token", "password", "passwd", "sha256", "credential"].iter().any(|w| key.contains(w))
}

fn shown(key: &str, value: &Value) -> String {
    if is_secret(key) {
        return HIDDEN.into();
    }
    match &value.kind {
        ValueKind::Table(_) => "(table)".into(),
        ValueKind::Array(_) => "(list)".into(),
        ValueKind::String(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
        ValueKind::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}
