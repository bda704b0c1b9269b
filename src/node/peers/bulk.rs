//! What a node wants of its peers in bulk: outputs that they made, and a way to the coordinator for its results.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::conversation::{Conversation, Outlet, PATIENCE, Requests};
use super::dial::{Connection, dial};
use super::{Link, Peers, Shared, lock};
use crate::middleware::token_bucket::{MESSAGES, TokenBucket};
use crate::node::envelope::COORDINATOR;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::{AttemptRef, Digest, LinkState, NodeId};
use crate::wire::peer::AttemptResult;

/// For a bulk connection to be opened: the link is up, so that this is a matter of milliseconds.
const OPEN: Duration = Duration::from_secs(2);
/// How long a peer that let somebody wait for an output in vain is not asked for others: they are to be had from the
/// coordinator, too.
const SPARED: Duration = Duration::from_secs(60);
/// A connection on which nobody said anything for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

impl Peers {
    /// An output from the node that made it. Nothing: no link to it is up, or it came not in time, or other bytes came, or
    /// that was so a moment ago.
    pub(in crate::node) async fn fetch(&self, maker: &NodeId, digest: Digest) -> Option<Arc<[u8]>> {
        let link = lock(&self.shared.links).get(maker).cloned()?;
        let asked = Instant::now();
        if lock(&link.spared).is_some_and(|until| asked < until) {
            return None;
        }
        let bytes = self.conversation(maker).await?.fetch(digest).await;
        let now = Instant::now();
        // A peer that just does not have it says so at once.
        if bytes.is_none() && now.saturating_duration_since(asked) >= PATIENCE {
            *lock(&link.spared) = Some(now + SPARED);
        }
        bytes
    }

    /// Gives a result of this node to a peer that may have a way to the coordinator: to another one at each turn.
    /// Answers to whom, if it left.
    pub(in crate::node) async fn hand_on(&self, turn: usize, result: &AttemptResult) -> Option<NodeId> {
        let up: Vec<NodeId> = lock(&self.shared.links)
            .iter()
            .filter(|(_, link)| is_up(link))
            .map(|(node, _)| node.clone())
            .collect();
        let peer = up.get(turn % up.len().max(1))?;
        let conversation = self.conversation(peer).await?;
        let kind = Some(pb::result_share::Kind::Result(result.to_proto()));
        let own = self.shared.own.node.as_str();
        let said = conversation.say(own, Payload::ResultShare(pb::ResultShare { kind }));
        timeout(OPEN, said).await.unwrap_or(false).then(|| peer.clone())
    }

    /// Passes an acknowledgement on to the peer whose result this node passed on.
    pub(in crate::node) async fn acknowledge(&self, peer: &str, attempt: &AttemptRef) {
        let line = lock(&self.shared.answering).get(peer).and_then(std::sync::Weak::upgrade);
        // Without one the peer sends the result again, and is answered then.
        let Some(conversation) = line else { return };
        let ack = pb::ResultAck { attempt: Some(attempt.to_proto()) };
        let kind = Some(pb::result_share::Kind::Ack(ack));
        let said = conversation.say(COORDINATOR, Payload::ResultShare(pb::ResultShare { kind }));
        if timeout(OPEN, said).await != Ok(true) {
            tracing::debug!(peer, "an acknowledgement could not be passed on");
        }
    }

    /// The bulk connection to a peer, opened if there is none.
    async fn conversation(&self, peer: &NodeId) -> Option<Arc<Conversation>> {
        let link = lock(&self.shared.links).get(peer).cloned()?;
        if !is_up(&link) {
            return None;
        }
        let mut bulk = link.bulk.lock().await;
        if let Some(open) = bulk.as_ref().filter(|open| !open.has_ended()) {
            return Some(Arc::clone(open));
        }
        let dialled = timeout(OPEN, dial(&self.shared, &link.peer, pb::LinkPurpose::Bulk)).await.ok()?;
        let Connection { outbound, inbound } = dialled.ok()?;
        let (shared, outlet) = (self.shared.clone(), Outlet::Dialled(outbound));
        let (conversation, requests) = Conversation::new(shared.clone(), peer.to_string(), outlet);
        *bulk = Some(Arc::clone(&conversation));
        let (until, carried) = (link.until.clone(), Arc::clone(&conversation));
        tokio::spawn(async move {
            until.run_until_cancelled(carry(&shared, &carried, requests, inbound)).await;
            carried.end();
        });
        Some(conversation)
    }
}

fn is_up(link: &Link) -> bool {
    lock(&link.view).state() == LinkState::Up
}

/// Carries a dialled conversation until it ends or nobody needs it.
async fn carry(
    shared: &Shared,
    conversation: &Arc<Conversation>,
    requests: Requests,
    mut inbound: Streaming<pb::ExchangeResponse>,
) {
    let mut bucket = TokenBucket::new(MESSAGES, Instant::now());
    let read = async {
        while let Ok(Ok(Some(response))) = timeout(IDLE, inbound.message()).await {
            shared.moved(conversation.peer(), 0, response.encoded_len());
            let Some(pb::exchange_response::Message::Batch(batch)) = response.message else { return };
            for message in batch.messages {
                if !bucket.take(Instant::now()) {
                    return conversation.flooded();
                }
                conversation.receive(message).await;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = conversation.serve(requests) => {}
    }
}
