use std::future::Future;
use std::pin::Pin;

use super::*;
use crate::node::stages::StageError;
use crate::node::testing::{assignment, key, node_id};
use crate::types::TaskOutput;

/// Ends each attempt as its task number says.
struct Scripted;

const ENDS_AT_ONCE: u64 = 1;
const PANICS: u64 = 2;
const FAILS: u64 = 3;
const WAITS_FOR_CANCEL: u64 = 10;

impl StageRunner for Scripted {
    fn run(
        &self,
        assignment: Assignment,
        cancel: CancellationToken,
        _: Arc<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<StageProduct, StageError>> + Send + '_>> {
        Box::pin(async move {
            match assignment.key.task.0 {
                ENDS_AT_ONCE => Ok(product()),
                PANICS => panic!("a stage with a bug"),
                FAILS => Err(StageError::Missing("manifest")),
                _ => {
                    cancel.cancelled().await;
                    Err(StageError::Cancelled)
                }
            }
        })
    }
}

fn product() -> StageProduct {
    StageProduct {
        output: TaskOutput { digest: Digest::of(b"{}"), size: 2 },
        data: Some(b"{}".to_vec()),
        unsent: None,
        measured: Measured::default(),
    }
}

fn executor(max: u32) -> Executor {
    Executor::new(node_id(), Incarnation(1), max, Arc::new(Scripted))
}

#[tokio::test(start_paused = true)]
async fn each_ending_becomes_a_result() {
    let executor = executor(4);
    for number in [ENDS_AT_ONCE, PANICS, FAILS, WAITS_FOR_CANCEL] {
        assert_eq!(executor.assign(assignment(number)), Admission::Started);
    }
    assert_eq!(executor.in_use(), (4, 1), "four attempts that use one capability");
    let mut endings = BTreeMap::new();
    for _ in 0..4 {
        let result = executor.next_result(1).await;
        endings.insert(result.key.task.0, result.ending);
    }
    assert!(matches!(&endings[&ENDS_AT_ONCE], Ending::Output { output, .. } if output.size == 2));
    for (number, words) in [(PANICS, "panicked"), (FAILS, "manifest"), (WAITS_FOR_CANCEL, "timeout of 10s")] {
        assert!(
            matches!(&endings[&number], Ending::Failure(reason) if reason.contains(words)),
            "{number}: {endings:?}"
        );
    }
    assert_eq!(executor.in_use(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_node_says_busy_and_a_duplicate_changes_nothing() {
    let executor = executor(1);
    assert_eq!(executor.assign(assignment(WAITS_FOR_CANCEL)), Admission::Started);
    assert_eq!(executor.assign(assignment(WAITS_FOR_CANCEL)), Admission::Known);
    assert_eq!(executor.assign(assignment(ENDS_AT_ONCE)), Admission::Rejected("BUSY"));
    assert_eq!(executor.inventory(), (vec![key(WAITS_FOR_CANCEL)], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_a_finished_attempt_gets_its_result_again_until_acknowledged() {
    let executor = executor(1);
    executor.assign(assignment(ENDS_AT_ONCE));
    let connection = 1;
    let first = executor.next_result(connection).await;
    assert_eq!(executor.assign(assignment(ENDS_AT_ONCE)), Admission::Known);
    assert_eq!(executor.next_result(connection).await, first);
    assert_eq!(executor.inventory(), (vec![], vec![key(ENDS_AT_ONCE)]));
    executor.acknowledge(&key(ENDS_AT_ONCE));
    assert_eq!(executor.inventory(), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_attempt_frees_its_slot_and_leaves_no_result() {
    let executor = executor(1);
    executor.assign(assignment(WAITS_FOR_CANCEL));
    executor.revoke(&key(WAITS_FOR_CANCEL));
    executor.revoke(&key(99));
    // Time is paused: these seconds pass only once every task is idle.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(executor.inventory(), (vec![], vec![]));
    assert_eq!(executor.assign(assignment(ENDS_AT_ONCE)), Admission::Started);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_executor_ends_what_runs_and_takes_nothing() {
    let executor = executor(2);
    executor.assign(assignment(WAITS_FOR_CANCEL));
    executor.stop(Duration::from_secs(3)).await;
    assert_eq!(executor.in_use(), (0, 0));
    assert_eq!(executor.assign(assignment(ENDS_AT_ONCE)), Admission::Rejected("DRAINING"));
}

#[tokio::test(start_paused = true)]
async fn unacknowledged_results_bound_the_work_taken() {
    let executor = executor(1);
    for number in 0..64 {
        let mut one = assignment(ENDS_AT_ONCE);
        one.key.attempt.number = 1000 + number;
        assert_eq!(executor.assign(one), Admission::Started, "{number}");
        executor.next_result(1).await;
    }
    assert_eq!(executor.assign(assignment(FAILS)), Admission::Rejected("BUSY"));
}

#[tokio::test(start_paused = true)]
async fn a_drained_executor_finishes_what_it_has_and_takes_nothing_else() {
    let executor = executor(4);
    assert_eq!(executor.assign(assignment(ENDS_AT_ONCE)), Admission::Started);
    assert_eq!(executor.assign(assignment(WAITS_FOR_CANCEL)), Admission::Started);
    executor.drain();
    assert!(executor.is_draining());
    assert_eq!(executor.assign(assignment(FAILS)), Admission::Rejected("DRAINING"));
    assert_eq!(executor.assign(assignment(WAITS_FOR_CANCEL)), Admission::Known);
    let finished = tokio::spawn({
        let executor = executor.clone();
        async move { executor.finished().await }
    });
    executor.revoke(&key(WAITS_FOR_CANCEL));
    let result = executor.next_result(1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!finished.is_finished(), "a result that nobody acknowledged is not delivered");
    executor.acknowledge(&result.key);
    tokio::time::timeout(Duration::from_secs(1), finished).await.expect("woken").expect("no panic");
}
