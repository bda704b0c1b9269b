//! How a value of each type is read from settings and shown in the reference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::config::{Value, ValueKind};

use super::reader::{At, Reader, joined};
use super::reference::Row;
use super::sources::{is_text, toml_literal};
use crate::types::{NodeId, Severity, ToolName};

/// A type that settings can have.
pub(super) trait Setting: Sized {
    /// Reads a value; notes the problem if it has another form.
    fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self>;

    /// The value as it is written in TOML; empty for none.
    fn show(&self) -> String;

    /// Its part of the reference, with `self` as the default.
    fn rows(&self, key: &str, doc: &[&str], allowed: &str) -> Vec<Row> {
        vec![Row::new(key, self.show(), allowed, doc)]
    }

    /// The part of the reference for each element of a list of it.
    fn element_rows(_key: &str) -> Vec<Row> {
        Vec::new()
    }
}

/// The text of a string value.
pub(super) fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

/// The value as meant: environment variables and flags have only text, which is read as TOML would be.
pub(super) fn literal(value: &Value) -> Value {
    match text(value).filter(|_| is_text(value)) {
        Some(text) => toml_literal(text, value.origin()).unwrap_or_else(|| value.clone()),
        None => value.clone(),
    }
}

fn integer(value: &Value) -> Option<u64> {
    match literal(value).kind {
        ValueKind::I64(number) => u64::try_from(number).ok(),
        ValueKind::U64(number) => Some(number),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match literal(value).kind {
        #[expect(clippy::cast_precision_loss, reason = "no setting is near 2^53")]
        ValueKind::I64(number) => Some(number as f64),
        ValueKind::Float(number) => Some(number).filter(|number| number.is_finite()),
        _ => None,
    }
}

/// Settings that are one value: how it is read, and how it is shown.
macro_rules! scalar {
    ($type:ty, $read:expr, $show:expr) => {
        impl Setting for $type {
            fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self> {
                let read: fn(&Value) -> Option<Self> = $read;
                read(value).or_else(|| reader.refuse(value, at))
            }

            fn show(&self) -> String {
                let show: fn(&Self) -> String = $show;
                show(self)
            }
        }
    };
}
pub(super) use scalar;

scalar!(u64, integer, ToString::to_string);
scalar!(u32, |value| integer(value).and_then(|number| number.try_into().ok()), ToString::to_string);
scalar!(f64, number, |number| format!("{number:?}"));
scalar!(
    Duration,
    |value| number(value).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    |duration| format!("{:?}", duration.as_secs_f64())
);
scalar!(
    bool,
    |value| match literal(value).kind {
        ValueKind::Boolean(yes) => Some(yes),
        _ => None,
    },
    ToString::to_string
);
scalar!(String, |value| text(value).map(str::to_owned), |text| format!("{text:?}"));
scalar!(PathBuf, |value| text(value).filter(|text| !text.is_empty()).map(PathBuf::from), |path| format!(
    "{:?}",
    path.to_string_lossy()
));
scalar!(SocketAddr, |value| text(value).and_then(|text| text.parse().ok()), |address| format!(
    "{:?}",
    address.to_string()
));
scalar!(Severity, |value| text(value).and_then(Severity::parse), |severity| format!(
    "{:?}",
    severity.as_str()
));
scalar!(ToolName, |value| text(value).and_then(|text| text.parse().ok()), |name| format!(
    "{:?}",
    name.as_str()
));
scalar!(NodeId, |value| text(value).and_then(|text| text.parse().ok()), |name| format!(
    "{:?}",
    name.as_str()
));

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self> {
        T::read(value, at, reader).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
}

impl<T: Setting> Setting for Vec<T> {
    /// From the environment and flags also as words with commas between them.
    fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self> {
        let elements = match (literal(value).kind, text(value)) {
            (ValueKind::Array(elements), _) => elements,
            (_, Some(text)) if is_text(value) => {
                let origin = value.origin().map(str::to_owned);
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                words.map(|word| Value::new(origin.as_ref(), word)).collect()
            }
            _ => return reader.refuse(value, at),
        };
        let mut all = Vec::with_capacity(elements.len());
        let mut complete = true;
        for (index, element) in elements.iter().enumerate() {
            let at = At { key: &format!("{}[{index}]", at.key), allowed: at.allowed };
            match T::read(element, &at, reader) {
                Some(element) => all.push(element),
                None => complete = false,
            }
        }
        complete.then_some(all)
    }

    fn show(&self) -> String {
        let elements: Vec<_> = self.iter().map(T::show).collect();
        format!("[{}]", elements.join(", "))
    }

    fn rows(&self, key: &str, doc: &[&str], allowed: &str) -> Vec<Row> {
        let elements = T::element_rows(&format!("{key}[]"));
        // The fields of an element say more than all elements on one line.
        let default = if elements.is_empty() || self.is_empty() { self.show() } else { "see below".into() };
        let mut rows = vec![Row::new(key, default, allowed, doc)];
        rows.extend(elements);
        rows
    }
}

impl Setting for BTreeSet<String> {
    fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self> {
        Vec::read(value, at, reader).map(|all: Vec<String>| all.into_iter().collect())
    }

    fn show(&self) -> String {
        self.iter().cloned().collect::<Vec<_>>().show()
    }
}

impl<T: Setting> Setting for BTreeMap<String, T> {
    fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self> {
        let mut all = BTreeMap::new();
        let mut complete = true;
        for (name, value) in reader.table(value, at)? {
            let at = At { key: &joined(at.key, &name), allowed: at.allowed };
            reader.note(at.key, &value);
            match T::read(&value, &at, reader) {
                Some(read) => {
                    all.insert(name, read);
                }
                None => complete = false,
            }
        }
        complete.then_some(all)
    }

    fn show(&self) -> String {
        let pairs: Vec<_> = self.iter().map(|(name, value)| format!("{name:?} = {}", value.show())).collect();
        format!("{{{}}}", pairs.join(", "))
    }
}
