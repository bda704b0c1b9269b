use std::future::Future;
use std::pin::Pin;

use tonic_types::ErrorDetails;

use super::*;
use crate::linters::process::Progress;
use crate::node::stages::{StageError, StageProduct, StageRunner};
use crate::node::testing::{assignment, key, node_id};
use crate::types::Incarnation;

/// Stages that end only when they are told to.
struct Endless;

impl StageRunner for Endless {
    fn run(
        &self,
        _: Assignment,
        cancel: CancellationToken,
        _: Arc<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<StageProduct, StageError>> + Send + '_>> {
        Box::pin(async move {
            cancel.cancelled().await;
            Err(StageError::Cancelled)
        })
    }
}

fn executor() -> Executor {
    Executor::new(node_id(), Incarnation(1), 1, Arc::new(Endless))
}

fn assign(assign: pb::Assign) -> Option<Payload> {
    let kind = pb::task_assignment::Kind::Assign(assign);
    Some(Payload::TaskAssignment(pb::TaskAssignment { kind: Some(kind) }))
}

fn status(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "lintmesh", [] as [(String, String); 0]);
    Status::with_error_details(code, "no", details)
}

#[test]
fn only_the_coordinators_never_is_final() {
    assert!(is_final(&Status::unauthenticated("who?")));
    assert!(is_final(&status(Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED")));
    assert!(is_final(&status(Code::AlreadyExists, "STALE_INCARNATION")));
    assert!(is_final(&status(Code::InvalidArgument, "HELLO_EXPECTED")));
    for passing in [
        Status::unavailable("connection refused"),
        Status::out_of_range("message too large"),
        Status::internal("h2"),
        status(Code::FailedPrecondition, "STARTING"),
        status(Code::AlreadyExists, ""),
        // The other process of this node may end; this one may be the one that is meant.
        status(Code::AlreadyExists, "NODE_ID_TAKEN"),
    ] {
        assert!(!is_final(&passing), "{passing:?}");
    }
}

#[tokio::test]
async fn a_full_node_and_a_bad_assignment_are_rejected_by_name() {
    let executor = executor();
    assert_eq!(answer(assign(assignment(1).to_proto()), &executor), Reaction::Nothing);
    let busy = answer(assign(assignment(2).to_proto()), &executor);
    assert_eq!(busy, reject(Some(key(2).to_proto()), "BUSY".to_owned()));

    let bad = pb::Assign { timeout: None, ..assignment(3).to_proto() };
    let Reaction::Say(said) = answer(assign(bad), &executor) else { panic!("nothing said") };
    let Payload::TaskAssignment(pb::TaskAssignment { kind: Some(pb::task_assignment::Kind::Reject(reject)) }) =
        *said
    else {
        panic!("not rejected");
    };
    assert_eq!(reject.attempt, Some(key(3).to_proto()));
    assert!(reject.reason.contains("`timeout`"), "{}", reject.reason);
}

#[tokio::test]
async fn messages_without_sense_change_nothing() {
    let executor = executor();
    let nonsense = [
        None,
        assign(pb::Assign::default()),
        Some(Payload::TaskAssignment(pb::TaskAssignment { kind: None })),
        Some(Payload::TaskAssignment(pb::TaskAssignment {
            kind: Some(pb::task_assignment::Kind::Revoke(pb::Revoke::default())),
        })),
        Some(Payload::ResultShare(pb::ResultShare {
            kind: Some(pb::result_share::Kind::Ack(pb::ResultAck { attempt: Some(key(7).to_proto()) })),
        })),
        Some(Payload::Heartbeat(pb::Heartbeat { kind: None })),
        Some(Payload::FaultTolerance(pb::FaultTolerance { kind: None })),
    ];
    for payload in nonsense {
        assert_eq!(answer(payload.clone(), &executor), Reaction::Nothing, "{payload:?}");
    }
    assert_eq!(executor.inventory(), (vec![], vec![]));
}

#[tokio::test]
async fn shutdown_ends_the_session() {
    let kind = pb::fault_tolerance::Kind::Shutdown(pb::Shutdown { reason: "drained".into() });
    let payload = Some(Payload::FaultTolerance(pb::FaultTolerance { kind: Some(kind) }));
    assert_eq!(answer(payload, &executor()), Reaction::End("drained".into()));
}
