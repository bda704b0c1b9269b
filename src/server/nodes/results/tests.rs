//! What a node says while the results it brought reach the disk.

use std::sync::Arc;

use super::*;
use crate::coordinator::run::TaskState;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::server::links::LinkSecrets;
use crate::server::refusals::COORDINATOR;
use crate::server::service::testing::{Rig, assigned, hello};
use crate::types::{AttemptId, Digest, Epoch, Incarnation, NodeId, RunId, TaskId, TaskOutput};
use crate::wire::peer;

const NODE: &str = "one";
const PLAN: &[u8] = br#"{"tools":[],"files":0}"#;

fn batch(payloads: Vec<Payload>) -> pb::SessionRequest {
    let said = |payload| pb::MeshMessage {
        sender_id: NODE.to_owned(),
        receiver_id: COORDINATOR.to_owned(),
        payload: Some(payload),
        ..Default::default()
    };
    let messages = payloads.into_iter().map(said).collect();
    pb::SessionRequest { message: Some(pb::session_request::Message::Batch(pb::MessageBatch { messages })) }
}

fn result(attempt: &AttemptRef) -> Payload {
    let output = TaskOutput { digest: Digest::of(PLAN), size: PLAN.len() as u64 };
    let result = peer::AttemptResult {
        key: attempt.clone(),
        executor: NodeId::new(NODE).expect("valid"),
        incarnation: Incarnation(1),
        ending: peer::Ending::Output { output, data: Some(PLAN.to_vec()) },
        measured: Default::default(),
    };
    let kind = Some(pb::result_share::Kind::Result(result.to_proto()));
    Payload::ResultShare(pb::ResultShare { kind })
}

/// It runs nothing any more.
fn beat() -> Payload {
    let beat = pb::Beat { number: 1, ..Default::default() };
    Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::Beat(beat)) })
}

#[tokio::test]
async fn heartbeats_pass_results_that_a_slow_disk_takes_and_nobody_takes_those_for_lost() {
    let rig = Rig::start(1 << 20);
    let (session, mut messages) = rig.join(NODE).await;
    let run = rig.start_run("run").await;
    let attempt = assigned(&mut messages).await;
    let secrets = Arc::new(LinkSecrets::new(&rig.service.random));
    let line = Line::new(rig.service.clone(), secrets, session, &hello(NODE), None);
    let (answers, mut answered) = mpsc::channel(8);
    let (results, brought) = queue();
    let state = async || {
        let run = run.clone();
        let read =
            move |core: &crate::coordinator::Coordinator, _| core.state().runs[&run].tasks[0].state.clone();
        rig.service.engine.query(read).await.expect("runs")
    };

    let held = rig.faults.hold_syncs();
    let carried = async {
        let mut inbox = line.inbox(&answers, results);
        let received = async {
            inbox.receive(batch(vec![result(&attempt), beat()])).await.is_ok()
                && inbox.receive(batch(vec![beat()])).await.is_ok()
        };
        let received = tokio::time::timeout(Duration::from_secs(30), received).await;
        assert_eq!(received, Ok(true), "the disk does not hold it up");
        for _ in 0..2 {
            assert!(matches!(answered.recv().await, Some(Payload::Heartbeat(_))));
        }
        assert!(matches!(state().await, TaskState::Running { .. }), "its result is not durable");
        let mut told = Vec::new();
        line.held.complete(&mut told);
        assert_eq!(told, [(attempt.clone(), Duration::ZERO)], "it is here, though the node runs it no more");
        drop(held);
    };
    // The session ends with what it brought.
    beside(carried, line.take_results(brought)).await;
    let state = state().await;
    assert!(matches!(state, TaskState::Done { .. }), "{state:?}");
    let mut told = Vec::new();
    line.held.complete(&mut told);
    assert_eq!(told, [], "it is decided");
}

#[test]
fn an_attempt_is_held_until_all_its_results_are_decided_and_told_of_once() {
    let attempt = |number| AttemptRef {
        run: RunId::new("run").expect("valid"),
        task: TaskId(1),
        attempt: AttemptId { epoch: Epoch(1), number },
    };
    let held = Held::default();
    for number in [1, 1, 2] {
        held.add(&attempt(number));
    }
    held.remove(&attempt(1));
    let mut told = vec![(attempt(2), Duration::from_secs(3)), (attempt(4), Duration::ZERO)];
    held.complete(&mut told);
    let expected =
        [(attempt(2), Duration::from_secs(3)), (attempt(4), Duration::ZERO), (attempt(1), Duration::ZERO)];
    assert_eq!(told, expected);
    held.remove(&attempt(1));
    held.remove(&attempt(2));
    let mut told = Vec::new();
    held.complete(&mut told);
    assert_eq!(told, []);
}
