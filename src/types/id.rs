//! Names and numbers that identify things; each its own type, so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name that breaks the rules of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{value}` is not valid: {rule}")]
pub struct InvalidName {
    /// What was being named.
    pub kind: &'static str,
    /// The refused text, shortened.
    pub value: String,
    /// What a valid name looks like.
    pub rule: &'static str,
}

/// AIP-122's form for identifiers chosen by people.
const NAME_RULE: &str =
    "1 to 63 characters of a-z, 0-9 and '-', starting with a letter and not ending with '-'";

fn is_valid_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the text against the rule for names (AIP-122).
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                if is_valid_name(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName {
                        kind: $kind,
                        value: text.chars().take(80).collect(),
                        rule: NAME_RULE,
                    })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                super::text::parse(deserializer)
            }
        }
    };
}

name!(
    /// A node of the mesh, stable over restarts of its process.
    NodeId,
    "node id"
);
name!(
    /// A linter, by the name users type: `flake8`, `pylint`, `ruff`, `mypy`, `bandit`.
    ToolName,
    "tool name"
);
name!(
    /// One request to lint one tree.
    RunId,
    "run id"
);

macro_rules! number {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// One start of a coordinator; greater for each later start.
    Epoch
);
number!(
    /// One start of a node process; greater for each later start (microseconds since 1970).
    Incarnation
);
number!(
    /// One connection of a node; fences stream control, never results.
    SessionId
);
number!(
    /// A task within its run, counted from 1 in the order of creation.
    TaskId
);

/// One execution of a task. Never reused: an epoch has one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The coordinator start that made the attempt.
    pub epoch: Epoch,
    /// Counts the attempts of that epoch from 1.
    pub number: u64,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// An execution of a task, named in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptRef {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// The execution.
    pub attempt: AttemptId,
}

impl fmt::Display for AttemptRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.run, self.task, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "backend-dev", "n9", &"a".repeat(63)] {
            assert!(NodeId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "1a", "a_b", "a b", "é", &"a".repeat(64)] {
            assert!(NodeId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_name_says_what_is_allowed() {
        let error = NodeId::new("Backend Dev").expect_err("a capital and a space");
        assert!(error.to_string().contains("node id `Backend Dev`"), "{error}");
        assert!(error.to_string().contains("starting with a letter"), "{error}");
    }
}
