//! What the exit code of `lintmesh lint` says.

use std::collections::BTreeMap;

use crate::types::{Outcome, Severity};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Nothing found that counts, or the command did what it should.
    Success,
    /// Findings at or above `--fail-on`; for other commands: the answer is "no".
    Findings,
    /// Bad usage, or the command could not do its work.
    Error,
    /// Something could not be linted. Wins over [`Exit::Findings`].
    Incomplete,
    /// Ended by a signal.
    Signal(i32),
    /// A code with a meaning of its own, documented at its command.
    Code(u8),
}

impl Exit {
    /// The code that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Findings => 1,
            Exit::Error => 2,
            Exit::Incomplete => 3,
            // The shells' convention; signal numbers are below 128.
            Exit::Signal(number) => u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128)),
            Exit::Code(code) => code,
        }
    }
}

/// The least serious finding that makes a run fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOn {
    /// Every finding.
    Any,
    /// Findings of this severity and more serious ones.
    AtLeast(Severity),
    /// No finding.
    Never,
}

impl std::str::FromStr for FailOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "any" => Ok(FailOn::Any),
            "never" => Ok(FailOn::Never),
            other => Severity::parse(other)
                .map(FailOn::AtLeast)
                .ok_or_else(|| "use any, critical, high, medium, low, info or never".to_owned()),
        }
    }
}

impl FailOn {
    fn counts(self, severity: Severity) -> bool {
        match self {
            FailOn::Any => true,
            FailOn::Never => false,
            // The most serious is the least in the order of the enum.
            FailOn::AtLeast(least) => severity <= least,
        }
    }
}

/// The exit of a lint run.
pub fn of_run(outcome: Outcome, by_severity: &BTreeMap<Severity, u32>, fail_on: FailOn) -> Exit {
    match outcome {
        Outcome::Incomplete | Outcome::Cancelled => Exit::Incomplete,
        Outcome::Clean | Outcome::Findings => {
            let fails = by_severity.iter().any(|(severity, count)| *count > 0 && fail_on.counts(*severity));
            if fails { Exit::Findings } else { Exit::Success }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(severity: Severity) -> BTreeMap<Severity, u32> {
        Severity::ALL.into_iter().map(|each| (each, u32::from(each == severity))).collect()
    }

    #[test]
    fn findings_below_the_threshold_are_success() {
        let low = found(Severity::Low);
        for (fail_on, exit) in [
            ("any", Exit::Findings),
            ("info", Exit::Findings),
            ("LOW", Exit::Findings),
            ("medium", Exit::Success),
            ("critical", Exit::Success),
            ("never", Exit::Success),
        ] {
            let fail_on = fail_on.parse().expect("known");
            assert_eq!(of_run(Outcome::Findings, &low, fail_on), exit, "{fail_on:?}");
        }
        assert!("severe".parse::<FailOn>().is_err());
    }

    #[test]
    fn incomplete_wins_over_findings_and_never_looks_clean() {
        let high = found(Severity::High);
        assert_eq!(of_run(Outcome::Incomplete, &high, FailOn::Any).code(), 3);
        assert_eq!(of_run(Outcome::Incomplete, &BTreeMap::new(), FailOn::Never).code(), 3);
        assert_eq!(of_run(Outcome::Cancelled, &BTreeMap::new(), FailOn::Any).code(), 3);
        assert_eq!(of_run(Outcome::Clean, &BTreeMap::new(), FailOn::Any).code(), 0);
    }

    #[test]
    fn signals_follow_the_convention_of_shells() {
        assert_eq!(Exit::Signal(2).code(), 130);
        assert_eq!(Exit::Signal(15).code(), 143);
    }
}
