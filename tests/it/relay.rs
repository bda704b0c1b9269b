//! A node that cannot reach the coordinator has its results passed on by a peer, and is told when they arrived.

use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::types::{AttemptRef, Digest, Manifest, ManifestEntry, Stage, TreePath};
use lintmesh::wire::peer::{AttemptResult, Ending};
use tonic::Status;

use super::node_session::coordinator::{DEADLINE, Session};
use super::node_session::world::{Run, assignment, run_of};
use super::support::linked_nodes::LinkedNodes;

const CUT: &str = "api-docs";
const ALSO_CUT: &str = "backend-dev";
const RELAY: &str = "system-architect";

/// Waits for a result that a session passes on.
async fn passed_on(session: &mut Session) -> AttemptResult {
    let waited = async {
        loop {
            let message = session.next().await;
            if let Some(Payload::ResultShare(pb::ResultShare {
                kind: Some(pb::result_share::Kind::Result(result)),
            })) = message.payload
            {
                assert_eq!((message.sender_id.as_str(), message.origin_id.as_str()), (RELAY, CUT));
                return AttemptResult::from_proto(result).expect("a valid result");
            }
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.expect("passed on in time")
}

async fn acknowledge(session: &Session, key: &AttemptRef) {
    let kind = pb::result_share::Kind::Ack(pb::ResultAck { attempt: Some(key.to_proto()) });
    session.say_to(CUT, Some(Payload::ResultShare(pb::ResultShare { kind: Some(kind) }))).await;
}

/// Ends a node's session, and lets it open none.
async fn cut(nodes: &mut LinkedNodes, node: &str) {
    nodes.coordinator.cut(node, true);
    nodes.sessions.remove(node).expect("a session").end_with(Status::unavailable("cut")).await;
}

/// Lets the node back for a moment; answers what it says it still has.
async fn back(nodes: &mut LinkedNodes) -> Vec<pb::AttemptRef> {
    nodes.coordinator.cut(CUT, false);
    let session = nodes.coordinator.session().await;
    nodes.coordinator.cut(CUT, true);
    let unacknowledged = session.hello.unacknowledged.clone();
    session.end_with(Status::unavailable("cut")).await;
    unacknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_goes_by_the_peer_that_has_a_way_and_its_acknowledgement_comes_back() {
    let mut nodes = LinkedNodes::start(&[CUT, ALSO_CUT, RELAY]).await;
    nodes.link().await;
    let run = run_of(&nodes.coordinator);
    let plan = assignment(&run, 1, Stage::Plan);
    let session = nodes.sessions.get_mut(CUT).expect("a node");
    session.assign(&plan).await;
    let result = session.result().await;
    // The first whom it asks has no way either, and says so.
    cut(&mut nodes, ALSO_CUT).await;
    cut(&mut nodes, CUT).await;

    let relay = nodes.sessions.get_mut(RELAY).expect("a node");
    assert_eq!(passed_on(relay).await, result);
    acknowledge(relay, &plan.key).await;
    // What was acknowledged is forgotten: a node that comes back after that has nothing left.
    let forgotten = async { while !back(&mut nodes).await.is_empty() {} };
    tokio::time::timeout(DEADLINE, forgotten).await.expect("the acknowledgement arrives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_is_pulled_by_the_relay_and_brought_before_its_result() {
    let mut nodes = LinkedNodes::start(&[CUT, RELAY]).await;
    nodes.link().await;
    let entry = |number: usize| ManifestEntry {
        path: TreePath::new(&format!("{}/{number}.py", "folder".repeat(20))).unwrap(),
        digest: Digest::of(b""),
        size: 0,
        lint: true,
    };
    let manifest = Manifest::new((0..4_000).map(entry).collect()).unwrap();
    let manifest = nodes.coordinator.put(&manifest.canonical_bytes());
    let run = Run { manifest, ..run_of(&nodes.coordinator) };
    let session = nodes.sessions.get_mut(CUT).expect("a node");
    session.assign(&assignment(&run, 1, Stage::Plan)).await;
    let Ending::Output { output, data: None } = session.result().await.ending else { panic!("not large") };
    // As if the output had not come through before the cut.
    nodes.coordinator.forget(&output.digest);
    cut(&mut nodes, CUT).await;

    let relay = nodes.sessions.get_mut(RELAY).expect("a node");
    let passed = passed_on(relay).await;
    assert_eq!(passed.ending, Ending::Output { output, data: None });
    let brought = nodes.coordinator.get(&output.digest).expect("brought before its result");
    assert_eq!(brought.len() as u64, output.size);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_says_nothing_counts_as_cut_off() {
    let mut nodes = LinkedNodes::start(&[CUT, RELAY]).await;
    nodes.link().await;
    let run = run_of(&nodes.coordinator);
    let plan = assignment(&run, 1, Stage::Plan);
    nodes.sessions[CUT].assign(&plan).await;
    let result = nodes.sessions.get_mut(CUT).expect("a node").result().await;
    // Its session stands, but nothing comes back on it any more.
    nodes.coordinator.mute(CUT);
    let relay = nodes.sessions.get_mut(RELAY).expect("a node");
    assert_eq!(passed_on(relay).await, result);
}
