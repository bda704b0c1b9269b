//! How a client gives a tree, and how urgent its run is.

use serde::{Deserialize, Serialize};

/// How the tree was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RequestKind {
    /// Read where it is, by a private mesh on the same machine.
    InPlace,
    /// Uploaded, and named by its digest.
    Snapshot,
    /// Files within the request.
    Inline,
    /// A path on the server.
    ServerPath,
}

/// How urgent a run is: from -10 to 10, 0 for most.
///
/// Each step is a quarter more, so that one step means the same anywhere on the scale: at priority `p` a project gets
/// `1.25^p` times the CPU time that it would get at 0 (9.3 times at 10, about a ninth at -10). So nothing that waits is
/// ever shut out, as it would be by strict priorities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Priority(i8);

impl Priority {
    /// The least urgent.
    pub const LOWEST: Priority = Priority(-10);
    /// The most urgent.
    pub const HIGHEST: Priority = Priority(10);

    /// The number as a priority, if it is one.
    pub fn new(number: i32) -> Option<Self> {
        let priority = Self(i8::try_from(number).ok()?);
        (Self::LOWEST..=Self::HIGHEST).contains(&priority).then_some(priority)
    }

    /// The number.
    pub const fn get(self) -> i8 {
        self.0
    }
}

impl TryFrom<i32> for Priority {
    type Error = String;

    fn try_from(number: i32) -> Result<Self, String> {
        Self::new(number).ok_or_else(|| format!("priority {number} is not within -10 and 10"))
    }
}

impl From<Priority> for i32 {
    fn from(priority: Priority) -> i32 {
        i32::from(priority.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_within_its_scale_also_when_it_is_read() {
        for number in [-10, -1, 0, 10] {
            let priority = Priority::new(number).expect("on the scale");
            let text = serde_json::to_string(&priority).expect("written");
            assert_eq!(serde_json::from_str::<Priority>(&text).expect("read"), priority);
        }
        for number in [-11, 11, 256, i32::MAX, i32::MIN] {
            assert_eq!(Priority::new(number), None);
            assert!(serde_json::from_str::<Priority>(&number.to_string()).is_err());
        }
    }
}
