//! Which messages of a node's session are refused, and why.

use std::time::Duration;

use crate::middleware::refusals::{FUTURE_TIMESTAMP, SENDER_MISMATCH, WRONG_RECEIVER};
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::NodeId;

/// Who the coordinator is in messages.
pub const COORDINATOR: &str = "coordinator";

/// How much later than now a message may say that it was sent. Clocks are compared to half a round trip, and a message
/// cannot arrive before it was sent; this leaves room for a clock that is being set.
const FUTURE: Duration = Duration::from_secs(5);

/// Checks the envelope of a message that arrived at `now_ms` on the session of `node`, whose clock is `offset_ms` ahead.
/// Milliseconds since 1970.
///
/// # Errors
/// The reason for which it is refused.
pub fn check(
    message: &pb::MeshMessage,
    node: &NodeId,
    now_ms: i64,
    offset_ms: i64,
) -> Result<(), &'static str> {
    if message.sender_id != node.as_str() {
        return Err(SENDER_MISMATCH);
    }
    let may_be_passed_on = matches!(
        &message.payload,
        Some(Payload::ResultShare(pb::ResultShare { kind: Some(pb::result_share::Kind::Result(_)) }))
    );
    if !message.origin_id.is_empty() && !may_be_passed_on {
        return Err(SENDER_MISMATCH);
    }
    if message.receiver_id != COORDINATOR {
        return Err(WRONG_RECEIVER);
    }
    let limit = i64::try_from(FUTURE.as_millis()).unwrap_or(i64::MAX);
    let latest = now_ms.saturating_add(offset_ms).saturating_add(limit);
    if message.timestamp.as_ref().is_some_and(|at| millis(at) > latest) {
        return Err(FUTURE_TIMESTAMP);
    }
    Ok(())
}

/// Milliseconds since 1970; negative before.
pub fn millis(at: &prost_types::Timestamp) -> i64 {
    at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn said(at_ms: i64) -> pb::MeshMessage {
        let timestamp = prost_types::Timestamp {
            seconds: at_ms.div_euclid(1000),
            nanos: i32::try_from(at_ms.rem_euclid(1000)).expect("small") * 1_000_000,
        };
        pb::MeshMessage {
            sender_id: "api-docs".into(),
            receiver_id: "coordinator".into(),
            timestamp: Some(timestamp),
            ..Default::default()
        }
    }

    fn checked(message: &pb::MeshMessage, offset_ms: i64) -> Result<(), &'static str> {
        check(message, &NodeId::new("api-docs").expect("valid"), NOW, offset_ms)
    }

    #[test]
    fn only_the_sessions_node_may_speak_and_only_to_the_coordinator() {
        assert_eq!(checked(&said(NOW), 0), Ok(()));
        assert_eq!(checked(&pb::MeshMessage { timestamp: None, ..said(NOW) }, 0), Ok(()));
        for sender_id in ["backend-dev", "coordinator", ""] {
            let message = pb::MeshMessage { sender_id: sender_id.into(), ..said(NOW) };
            assert_eq!(checked(&message, 0), Err(SENDER_MISMATCH), "{sender_id}");
        }
        for receiver_id in ["backend-dev", ""] {
            let message = pb::MeshMessage { receiver_id: receiver_id.into(), ..said(NOW) };
            assert_eq!(checked(&message, 0), Err(WRONG_RECEIVER), "{receiver_id}");
        }
    }

    #[test]
    fn only_results_may_be_passed_on() {
        let passed_on = pb::MeshMessage { origin_id: "backend-dev".into(), ..said(NOW) };
        assert_eq!(checked(&passed_on, 0), Err(SENDER_MISMATCH));
        let kind = Some(pb::result_share::Kind::Result(pb::TaskResult::default()));
        let payload = Some(Payload::ResultShare(pb::ResultShare { kind }));
        assert_eq!(checked(&pb::MeshMessage { payload, ..passed_on }, 0), Ok(()));
    }

    #[test]
    fn the_future_is_measured_by_the_nodes_own_clock() {
        for (ahead, offset, verdict) in [
            (5_000, 0, Ok(())),
            (5_001, 0, Err(FUTURE_TIMESTAMP)),
            (3_600_000, 3_600_000, Ok(())),
            (3_606_000, 3_600_000, Err(FUTURE_TIMESTAMP)),
            (0, -6_000, Err(FUTURE_TIMESTAMP)),
            (-86_400_000, 0, Ok(())),
        ] {
            assert_eq!(checked(&said(NOW + ahead), offset), verdict, "{ahead} {offset}");
        }
        let far = pb::MeshMessage {
            timestamp: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
            ..said(NOW)
        };
        assert_eq!(checked(&far, i64::MAX), Ok(()), "nothing overflows");
    }
}
