//! Sends whatever is queued as one batch, as soon as the connection can take it.

use prost::Message as _;
use tokio::sync::mpsc;

use crate::node::envelope::{Envelope, Said};
use crate::proto::peer::v1 as pb;

/// The most messages of a batch.
const BATCH_MESSAGES: usize = 10;
/// A batch takes no further message when it has this many bytes, so that with the largest result inside a message it
/// stays below the protocol's 1 MiB.
const BATCH_BYTES: usize = 512 << 10;

/// Writes until either side is closed.
pub(super) async fn write(
    mut queue: mpsc::Receiver<Said>,
    out: mpsc::Sender<pb::SessionRequest>,
    envelope: Envelope,
) {
    while let Some(first) = queue.recv().await {
        // Waiting for the place is what makes a batch: all that is queued meanwhile goes along.
        let Ok(place) = out.reserve().await else { return };
        let mut messages = vec![envelope.to_coordinator(first)];
        let mut bytes = messages[0].encoded_len();
        while messages.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            let next = envelope.to_coordinator(next);
            bytes += next.encoded_len();
            messages.push(next);
        }
        let batch = pb::session_request::Message::Batch(pb::MessageBatch { messages });
        place.send(pb::SessionRequest { message: Some(batch) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::peer::v1::mesh_message::Payload;

    fn payload(bytes: usize) -> Payload {
        let kind = pb::task_assignment::Kind::Reject(pb::Reject { attempt: None, reason: "x".repeat(bytes) });
        Payload::TaskAssignment(pb::TaskAssignment { kind: Some(kind) })
    }

    async fn batches(sizes: &[usize]) -> Vec<Vec<u64>> {
        let (queue, queued) = mpsc::channel(64);
        let (out, mut sent) = mpsc::channel(1);
        for size in sizes {
            queue.send(payload(*size).into()).await.expect("open");
        }
        drop(queue);
        let envelope = Envelope::new(crate::node::testing::node_id());
        let writer = tokio::spawn(write(queued, out, envelope));
        let mut batches = Vec::new();
        while let Some(request) = sent.recv().await {
            let Some(pb::session_request::Message::Batch(batch)) = request.message else {
                panic!("not a batch")
            };
            batches.push(batch.messages.iter().map(|message| message.message_id).collect());
        }
        writer.await.expect("ends with its queue");
        batches
    }

    #[tokio::test]
    async fn what_is_queued_goes_together_in_order_up_to_ten() {
        let sent = batches(&[1; 13]).await;
        assert_eq!(sent, [(1..=10).collect::<Vec<_>>(), vec![11, 12, 13]]);
    }

    #[tokio::test]
    async fn large_results_do_not_add_up_to_a_message_that_is_refused() {
        let sent = batches(&[crate::node::stages::INLINE_BYTES; 5]).await;
        assert_eq!(sent, [vec![1, 2], vec![3, 4], vec![5]]);
    }
}
