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

/// A moment as it arrived; none if it is malformed or out of the range of the protocol: the years 1 to 9999. What is before
/// 1970 is the same as its beginning: nothing happened then.
pub fn moment(timestamp: prost_types::Timestamp) -> Option<UnixMillis> {
    const YEARS_1_TO_9999: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let nanos = u64::try_from(timestamp.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if !YEARS_1_TO_9999.contains(&timestamp.seconds) {
        return None;
    }
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    // Rounded up: what is kept as a millisecond is never compared with a part of one.
    Some(UnixMillis(if timestamp.seconds < 0 { 0 } else { seconds * 1000 + nanos.div_ceil(1_000_000) }))
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
