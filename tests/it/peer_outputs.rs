//! What a stage made goes straight to the node that needs it, checked, and by the coordinator when that fails.

use std::collections::BTreeMap;

use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::proto::peer::v1::peer_service_server::{PeerService, PeerServiceServer};
use lintmesh::types::{Digest, NodeId, Outcome, RunResult, Stage};
use lintmesh::wire::peer::Assignment;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::node_session::coordinator::Session;
use super::node_session::world::{Run, assignment, output, planned, run_of};
use super::support::linked_nodes::{LinkedNodes, link_secret};

const MAKER: &str = "api-docs";
const READER: &str = "backend-dev";

/// Has a node take a tree as far as CLASSIFY; answers the plan and what was made, which the coordinator does not get.
async fn classified(nodes: &mut LinkedNodes, run: &Run) -> (Digest, Vec<u8>) {
    let session: &mut Session = nodes.sessions.get_mut(MAKER).expect("a node");
    let lint = planned(&nodes.coordinator, session, run, 1).await;
    session.assign(&lint).await;
    let linted = session.result().await;
    let (digest, _) = output(&linted);
    let mut classify = assignment(run, 3, Stage::Classify);
    classify.inputs.outputs = vec![digest];
    session.assign(&classify).await;
    let (_, bytes) = output(&session.result().await);
    (lint.inputs.plan.expect("planned"), bytes)
}

fn aggregate(run: &Run, plan: Digest, made: Digest) -> Assignment {
    let mut aggregate = assignment(run, 4, Stage::Aggregate);
    aggregate.inputs.plan = Some(plan);
    aggregate.inputs.outputs = vec![made];
    aggregate.inputs.makers = BTreeMap::from([(made, NodeId::new(MAKER).unwrap())]);
    aggregate
}

async fn aggregated(nodes: &mut LinkedNodes, assignment: &Assignment) -> RunResult {
    let session = nodes.sessions.get_mut(READER).expect("a node");
    session.assign(assignment).await;
    serde_json::from_slice(&output(&session.result().await).1).expect("a result")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aggregate_reads_what_its_peer_made_without_the_coordinator() {
    let mut nodes = LinkedNodes::start(&[MAKER, READER]).await;
    nodes.link().await;
    let run = run_of(&nodes.coordinator);
    let (plan, bytes) = classified(&mut nodes, &run).await;
    let made = Digest::of(&bytes);
    assert_eq!(nodes.coordinator.get(&made), None, "only its maker has it");
    let result = aggregated(&mut nodes, &aggregate(&run, plan, made)).await;
    assert_eq!((result.outcome, result.diagnostics.len()), (Outcome::Findings, 1));
    assert_eq!(nodes.coordinator.downloads(&made), 0);
    nodes.until_beat(READER, |beat| beat.outputs_by_peers == 1).await;
}

/// A peer that answers probes, and requests for outputs with what a test says.
struct Fake {
    pieces: Vec<Vec<u8>>,
}

impl Fake {
    /// Listens; answers its endpoint.
    async fn start(pieces: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(PeerServiceServer::new(Self { pieces }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        endpoint
    }
}

fn answers(message: &pb::MeshMessage, pieces: &[Vec<u8>]) -> Vec<Payload> {
    match &message.payload {
        Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::Probe(probe)) })) => {
            let kind = Some(pb::heartbeat::Kind::ProbeAck(pb::ProbeAck { number: probe.number }));
            vec![Payload::Heartbeat(pb::Heartbeat { kind })]
        }
        Some(Payload::ResultShare(pb::ResultShare {
            kind: Some(pb::result_share::Kind::OutputRequest(request)),
        })) => {
            let piece = |(index, data): (usize, &Vec<u8>)| {
                let last = index + 1 == pieces.len();
                let piece = pb::StageOutputPiece {
                    digest: request.digest.clone(),
                    data: data.clone(),
                    last,
                    missing: false,
                };
                Payload::ResultShare(pb::ResultShare {
                    kind: Some(pb::result_share::Kind::OutputPiece(piece)),
                })
            };
            pieces.iter().enumerate().map(piece).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tonic::async_trait]
impl PeerService for Fake {
    type ExchangeStream = ReceiverStream<Result<pb::ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        assert_eq!(
            request.metadata().get("authorization").and_then(|value| value.to_str().ok()),
            Some(format!("Bearer {}", link_secret(READER, MAKER)).as_str())
        );
        let (mut messages, pieces) = (request.into_inner(), self.pieces.clone());
        let (sender, receiver) = mpsc::channel(64);
        let welcome = pb::exchange_response::Message::Welcome(pb::PeerWelcome { protocol: 1 });
        sender.send(Ok(pb::ExchangeResponse { message: Some(welcome) })).await.unwrap();
        tokio::spawn(async move {
            while let Ok(Some(request)) = messages.message().await {
                let Some(pb::exchange_request::Message::Batch(batch)) = request.message else { continue };
                for payload in batch.messages.iter().flat_map(|message| answers(message, &pieces)) {
                    let message = pb::MeshMessage {
                        sender_id: MAKER.into(),
                        receiver_id: READER.into(),
                        payload: Some(payload),
                        ..Default::default()
                    };
                    let batch = pb::MessageBatch { messages: vec![message] };
                    let message = Some(pb::exchange_response::Message::Batch(batch));
                    if sender.send(Ok(pb::ExchangeResponse { message })).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(receiver.into()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_and_none_at_all_are_replaced_by_the_coordinators_copy() {
    for (pieces, refused) in [
        (vec![b"not what ".to_vec(), b"was made".to_vec()], Some(1)),
        // Pieces of nothing could go on for ever.
        (vec![vec![], b"more".to_vec()], Some(1)),
        // It stands, answers probes, and sends nothing.
        (vec![], None),
    ] {
        let mut nodes = LinkedNodes::start(&[MAKER, READER]).await;
        let run = run_of(&nodes.coordinator);
        let (plan, bytes) = classified(&mut nodes, &run).await;
        let made = nodes.coordinator.put(&bytes);
        let mut roster = nodes.roster(READER);
        roster.dial[0].endpoint = Fake::start(pieces).await;
        nodes.send_roster(READER, roster).await;
        nodes.until_change(READER, MAKER, pb::LinkState::Up).await;
        let result = aggregated(&mut nodes, &aggregate(&run, plan, made)).await;
        assert_eq!((result.outcome, result.diagnostics.len()), (Outcome::Findings, 1));
        assert_eq!(nodes.coordinator.downloads(&made), 1);
        let beat =
            nodes.until_beat(READER, |beat| beat.refused_messages.get("MALFORMED").copied() == refused).await;
        assert_eq!(beat.outputs_by_peers, 0);
    }
}
