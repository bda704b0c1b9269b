//! Times as people read them, in UTC.

use prost_types::Timestamp;

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
    fn times_are_utc_without_fractions() {
        let time = Timestamp { seconds: 1_772_366_405, nanos: 250_000_000 };
        assert_eq!(utc(Some(&time)), "2026-03-01 12:00:05Z");
        assert_eq!(utc(None), "");
        let later = Timestamp { seconds: 1_772_366_408, nanos: 450_000_000 };
        assert_eq!(between(Some(&time), Some(&later)), "3.2 s");
    }
}
