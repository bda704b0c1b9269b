//! What a call's end says about the peer.
//!
//! The status of a gRPC call is in the head only if there was nothing else to say; otherwise it is in
//! the trailers, after messages that went well. Without any status the connection broke.

use http::HeaderMap;
use tonic::{Code, Status};

use super::deadline::Deadline;
use crate::coordinator::breaker::CallOutcome;

/// The status that `headers`, a head or trailers, carry.
pub(super) fn status_code(headers: &HeaderMap) -> Option<Code> {
    headers
        .contains_key(Status::GRPC_STATUS)
        .then(|| Status::from_header_map(headers).map_or(Code::Unknown, |status| status.code()))
}

/// Failures are what OpenTelemetry counts as a server's errors, without UNIMPLEMENTED: an old peer is
/// not a sick one. Errors that the caller made, and its own hurry, say nothing bad about the peer.
pub(super) fn outcome(code: Code, deadline: Option<&Deadline>) -> CallOutcome {
    match code {
        Code::DeadlineExceeded if deadline.is_some_and(|deadline| deadline.by_caller) => CallOutcome::Ignored,
        Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss => {
            CallOutcome::Failure
        }
        Code::ResourceExhausted => CallOutcome::Overloaded,
        Code::Cancelled => CallOutcome::Ignored,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => CallOutcome::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn only_the_peers_own_failures_count() {
        use CallOutcome::{Failure, Ignored, Overloaded, Success};
        for (code, expected) in [
            (0, Success),
            (1, Ignored),
            (2, Failure),
            (3, Success),
            (4, Failure),
            (5, Success),
            (7, Success),
            (8, Overloaded),
            (9, Success),
            (12, Success),
            (13, Failure),
            (14, Failure),
            (15, Failure),
            (16, Success),
        ] {
            assert_eq!(outcome(Code::from_i32(code), None), expected, "{code}");
        }
    }

    #[test]
    fn a_hurried_caller_is_not_the_peers_fault() {
        let own = |by_caller| Deadline { at: Instant::now(), allowed: Duration::ZERO, by_caller };
        assert_eq!(outcome(Code::DeadlineExceeded, Some(&own(true))), CallOutcome::Ignored);
        assert_eq!(outcome(Code::DeadlineExceeded, Some(&own(false))), CallOutcome::Failure);
    }

    #[test]
    fn a_head_without_status_says_nothing_yet() {
        assert_eq!(status_code(&HeaderMap::new()), None);
        let garbage = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("x"),
        )]);
        assert_eq!(status_code(&garbage), Some(Code::Unknown));
    }
}
