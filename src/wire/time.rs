//! Times and durations on the wire.

use std::time::Duration;

use crate::types::UnixMillis;

/// A moment for display.
pub fn timestamp(at: UnixMillis) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(at.0 / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0 % 1000).unwrap_or(0) * 1_000_000,
    }
}

/// A time span; longer than the wire can say becomes the longest it can say.
pub fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// A time span as it arrived; none if it is negative or malformed.
pub fn span(duration: prost_types::Duration) -> Option<Duration> {
    Duration::try_from(duration).ok()
}
