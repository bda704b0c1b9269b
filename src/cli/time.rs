//! Times as people read them, in UTC.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use super::arguments::parse_duration;

/// A moment as a user names it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Moment {
    /// Before now: `2h`, `7d`.
    Ago(Duration),
    /// In UTC unless it says otherwise: `2026-11-20`, `2026-11-20T12:00:00Z`.
    At(Timestamp),
}

impl Moment {
    /// The moment itself; one before the beginning of time is that.
    pub(super) fn at(&self, now: SystemTime) -> Timestamp {
        match self {
            Moment::Ago(ago) => now.checked_sub(*ago).unwrap_or(SystemTime::UNIX_EPOCH).into(),
            Moment::At(time) => *time,
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(days) = text.strip_suffix('d') {
            let ago =
                days.parse().ok().and_then(|days: f64| Duration::try_from_secs_f64(days * 86_400.0).ok());
            return ago.map(Moment::Ago).ok_or_else(refused);
        }
        if text.ends_with(['s', 'm', 'h']) {
            return parse_duration(text).map(Moment::Ago).map_err(|_| refused());
        }
        text.parse().map(Moment::At).map_err(|_| refused())
    }
}

fn refused() -> String {
    "use a time before now, for example 30m, 2h or 7d, a day in UTC as 2026-11-20, or a time as 2026-11-20T12:00:00Z"
        .to_owned()
}

/// `2026-03-01 12:00:05Z`; empty if absent.
pub(super) fn utc(time: Option<&Timestamp>) -> String {
    time.map(|time| rfc3339(time).replacen('T', " ", 1)).unwrap_or_default()
}

/// `2026-03-01T12:00:05Z`: fractions of a second are left out.
pub(super) fn rfc3339(time: &Timestamp) -> String {
    Timestamp { seconds: time.seconds, nanos: 0 }.to_string()
}

/// Seconds between two times with one decimal: `3.2 s`; empty if one is absent.
pub(super) fn between(start: Option<&Timestamp>, end: Option<&Timestamp>) -> String {
    let (Some(start), Some(end)) = (start, end) else { return String::new() };
    format!("{:.1} s", millis(end).saturating_sub(millis(start)) as f64 / 1000.0)
}

fn millis(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_so_long_ago_or_on_a_day_or_at_a_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_305_600);
        let at = |text: &str| text.parse::<Moment>().map(|moment| moment.at(now).to_string());
        for (text, time) in [
            ("2h", "2026-11-21T22:00:00Z"),
            ("90m", "2026-11-21T22:30:00Z"),
            ("1.5d", "2026-11-20T12:00:00Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20T12:30:00Z", "2026-11-20T12:30:00Z"),
            ("2026-11-20T12:30:00+02:00", "2026-11-20T10:30:00Z"),
            ("36500d", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(time), "{text}");
        }
        for bad in [
            "",
            "2",
            "h",
            "-1h",
            "-1d",
            "d",
            "NaNd",
            "yesterday",
            "2026-13-01",
            "2026-11-20T25:00:00Z",
            "12:00",
        ] {
            assert!(at(bad).is_err_and(|error| error.contains("2026-11-20T12:00:00Z")), "{bad}");
        }
    }

    #[test]
    fn times_are_utc_without_fractions() {
        let time = Timestamp { seconds: 1_772_366_405, nanos: 250_000_000 };
        assert_eq!(utc(Some(&time)), "2026-03-01 12:00:05Z");
        assert_eq!(utc(None), "");
        let later = Timestamp { seconds: 1_772_366_408, nanos: 450_000_000 };
        assert_eq!(between(Some(&time), Some(&later)), "3.2 s");
    }
}
