//! Brings the node's results to the coordinator: those with a large output once that was brought.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::node::envelope::Said;
use crate::node::executor::Executor;
use crate::node::inputs::{InputError, Inputs};
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::Digest;
use crate::wire::peer::AttemptResult;

/// Outputs that are brought at a time. More may wait: each is one of the outbox, which is bounded.
const BROUGHT_AT_A_TIME: usize = 2;

/// Brings an output to the coordinator.
pub(super) trait Bring: Clone + Send + Sync + 'static {
    /// Returns when the coordinator has it, or when it is of no use to try again.
    fn bring(&self, digest: Digest, bytes: Arc<[u8]>) -> impl Future<Output = Result<(), InputError>> + Send;
}

impl Bring for Inputs {
    async fn bring(&self, digest: Digest, bytes: Arc<[u8]>) -> Result<(), InputError> {
        self.upload(digest, bytes).await
    }
}

/// Sends each result once on this connection, until that is of no use any more; answers why. No result waits for the
/// output of another.
pub(super) async fn share_results(
    executor: &Executor,
    inputs: &impl Bring,
    connection: u64,
    queue: &mpsc::Sender<Said>,
) -> String {
    let turns = Arc::new(Semaphore::new(BROUGHT_AT_A_TIME));
    // Ended with the session.
    let mut bringing = JoinSet::new();
    loop {
        let next = async {
            // A place in the queue first: a result that was taken out is surely queued.
            let place = queue.reserve().await.ok()?;
            Some((place, executor.next_result(connection).await))
        };
        tokio::select! {
            next = next => {
                let Some((place, result)) = next else { return NO_READER.to_owned() };
                // It was made while the coordinator was away.
                if let Some((digest, bytes)) = executor.unsent(&result.key) {
                    let (executor, inputs, queue) = (executor.clone(), inputs.clone(), queue.clone());
                    let turns = Arc::clone(&turns);
                    bringing.spawn(async move {
                        let brought = async {
                            let _turn = turns.acquire().await;
                            inputs.bring(digest, bytes).await
                        };
                        send_after(brought, &executor, result, &queue).await
                    });
                } else {
                    place.send(said(&result));
                }
            }
            Some(brought) = bringing.join_next() => match brought {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => return reason,
                Err(error) => return format!("an output could not be brought: {error}"),
            },
        }
    }
}

const NO_READER: &str = "the coordinator reads no more";

/// Sends a result after its output. One that the coordinator will never take is the attempt's failure, or every session
/// would end at it; one that nobody wants any more is not brought. The error is why the session is of no use.
async fn send_after(
    brought: impl Future<Output = Result<(), InputError>>,
    executor: &Executor,
    result: AttemptResult,
    queue: &mpsc::Sender<Said>,
) -> Result<(), String> {
    let key = &result.key;
    let brought = tokio::select! {
        () = executor.forgotten(key) => return Ok(()),
        brought = brought => brought,
    };
    let result = match brought {
        Ok(()) => {
            executor.was_sent(key);
            result
        }
        Err(error) if !error.is_refusal() => {
            tracing::warn!(attempt = %key, %error, "an output could not be brought");
            return Err(format!("an output could not be brought: {error}"));
        }
        Err(error) => {
            tracing::warn!(attempt = %key, %error, "an output is not taken; its attempt has failed");
            let reason = format!("its output could not be brought: {error}");
            let Some(failed) = executor.could_not_bring(key, reason) else { return Ok(()) };
            failed
        }
    };
    queue.send(said(&result)).await.map_err(|_| NO_READER.to_owned())
}

fn said(result: &AttemptResult) -> Said {
    let kind = pb::result_share::Kind::Result(result.to_proto());
    Payload::ResultShare(pb::ResultShare { kind: Some(kind) }).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::{Code, Status};

    use super::*;
    use crate::node::outbox::Unacknowledged;
    use crate::node::testing::{Idle, key, node_id, result};
    use crate::types::{Incarnation, TaskOutput};
    use crate::wire::peer::Ending;

    /// What becomes of an output with these bytes; none: it takes for ever.
    #[derive(Clone)]
    struct Answers(fn(&[u8]) -> Option<Code>);

    impl Bring for Answers {
        async fn bring(&self, digest: Digest, bytes: Arc<[u8]>) -> Result<(), InputError> {
            match (self.0)(&bytes) {
                Some(Code::Ok) => Ok(()),
                Some(code) => {
                    let status = Box::new(Status::new(code, "no"));
                    Err(InputError::Call { digest, status })
                }
                None => std::future::pending().await,
            }
        }
    }

    fn large(number: u64, bytes: &[u8]) -> Unacknowledged {
        let output = TaskOutput { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let ending = Ending::Output { output, data: None };
        Unacknowledged { result: AttemptResult { ending, ..result(number) }, unsent: Some(bytes.into()) }
    }

    fn executor(left: Vec<Unacknowledged>) -> Executor {
        let executor = Executor::new(node_id(), Incarnation(1), 1, Arc::new(Idle));
        executor.take_over(left);
        executor
    }

    fn of(said: Said) -> AttemptResult {
        match said.payload {
            Payload::ResultShare(pb::ResultShare { kind: Some(pb::result_share::Kind::Result(result)) }) => {
                AttemptResult::from_proto(result).expect("valid")
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_output_that_is_never_taken_is_a_failure_and_the_session_goes_on() {
        let small = Unacknowledged { result: result(3), unsent: None };
        let executor = executor(vec![large(1, b"too large"), large(2, b"endless"), small]);
        let answers = Answers(|bytes| (bytes == b"too large").then_some(Code::InvalidArgument));
        let (queue, mut queued) = mpsc::channel(8);
        let sharing = share_results(&executor, &answers, 1, &queue);
        let looking = async {
            let mut got = [of(queued.recv().await.expect("one")), of(queued.recv().await.expect("another"))];
            got.sort_by_key(|result| result.key.task);
            assert_eq!((got[0].key.clone(), got[1].clone()), (key(1), result(3)));
            assert!(matches!(&got[0].ending, Ending::Failure(reason) if reason.contains("InvalidArgument")));
            assert_eq!(executor.result(&key(1)).as_ref(), Some(&got[0]), "as it will be sent again");
            assert!(executor.unsent(&key(1)).is_none());
            // Nobody wants the one that goes on and on: others get its turn.
            executor.revoke(&key(2));
            executor.take_over(vec![large(4, b"endless"), large(5, b"endless"), large(6, b"too large")]);
            executor.revoke(&key(4));
            executor.revoke(&key(5));
            assert_eq!(of(queued.recv().await.expect("the last")).key, key(6));
        };
        tokio::select! {
            reason = sharing => panic!("{reason}"),
            looked = tokio::time::timeout(Duration::from_secs(60), looking) => looked.expect("in time"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_brought_is_sent_and_a_coordinator_that_is_away_ends_the_session() {
        let executor = executor(vec![large(1, b"taken")]);
        let answers = Answers(|bytes| match bytes {
            b"taken" => Some(Code::Ok),
            b"away" => Some(Code::Unavailable),
            _ => Some(Code::Internal),
        });
        let (queue, mut queued) = mpsc::channel(8);
        let (shared, _) = tokio::join!(share_results(&executor, &answers, 1, &queue), async {
            assert_eq!(of(queued.recv().await.expect("sent")), large(1, b"taken").result);
            executor.take_over(vec![large(2, b"away")]);
        });
        assert!(shared.contains("Unavailable"), "{shared}");
        assert!(executor.unsent(&key(1)).is_none());
        executor.take_over(vec![large(3, b"broken on the way")]);
        executor.acknowledge(&key(1));
        executor.acknowledge(&key(2));
        let shared = share_results(&executor, &answers, 2, &queue).await;
        assert!(shared.contains("Internal"), "{shared}");
        assert!(executor.unsent(&key(3)).is_some(), "for the next session");
    }
}
