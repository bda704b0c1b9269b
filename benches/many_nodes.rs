//! Many nodes that only join, beat and answer probes, each over a connection of its own, on one coordinator.
//!
//! `benches/faults.py nodes` runs it: `many_nodes URL SECRET COUNT`. It prints a line once all have joined, and runs until
//! it is ended. A session that ends is an error, and the exit status 1.

#![allow(missing_docs, clippy::unwrap_used, reason = "a program for measuring; it may panic")]

use std::time::{Duration, SystemTime};

use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::heartbeat::Kind;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::proto::peer::v1::node_service_client::NodeServiceClient;
use lintmesh::proto::peer::v1::session_response::Message as Answer;
use lintmesh::proto::v1::Specialist;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

/// Connections that are being made at a time: a mesh of this size does not start in one moment either.
const JOINING: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(url), Some(secret), Some(count)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: many_nodes URL SECRET COUNT".into());
    };
    let count: usize = count.parse()?;
    let bearer: MetadataValue<Ascii> = format!("Bearer {secret}").parse()?;
    let (joined, mut joins) = mpsc::channel(JOINING);
    let mut nodes = JoinSet::new();
    for number in 0..count {
        nodes.spawn(node(number, url.clone(), bearer.clone(), joined.clone()));
        if number >= JOINING {
            joins.recv().await;
        }
    }
    for _ in 0..count.min(JOINING) {
        tokio::select! {
            _ = joins.recv() => {}
            Some(ended) = nodes.join_next() => return Err(format!("a node ended: {ended:?}").into()),
        }
    }
    println!("joined {count}");
    let ended = nodes.join_next().await;
    Err(format!("a node ended: {ended:?}").into())
}

/// One node, until its session ends.
async fn node(
    number: usize,
    url: String,
    bearer: MetadataValue<Ascii>,
    joined: mpsc::Sender<()>,
) -> Result<(), String> {
    let name = format!("node-{number}");
    let channel = Endpoint::from_shared(url).map_err(words)?.connect().await.map_err(words)?;
    let (outgoing, requests) = mpsc::channel(16);
    outgoing.send(wrapped(pb::session_request::Message::Hello(hello(&name)))).await.map_err(words)?;
    let mut request = Request::new(ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", bearer);
    let mut answers = NodeServiceClient::new(channel).session(request).await.map_err(words)?.into_inner();
    let Some(Answer::Welcome(welcome)) =
        answers.message().await.map_err(words)?.and_then(|first| first.message)
    else {
        return Err("no Welcome".to_owned());
    };
    joined.send(()).await.map_err(words)?;
    let interval = welcome.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok());
    let mut beats = tokio::time::interval(interval.ok_or("no interval")?);
    let (mut beat, mut message_id) = (0, 0);
    let mut send = async |payload| {
        message_id += 1;
        let message = pb::MeshMessage {
            sender_id: name.clone(),
            receiver_id: "coordinator".to_owned(),
            message_id,
            timestamp: Some(SystemTime::now().into()),
            payload: Some(payload),
            ..Default::default()
        };
        let batch = pb::MessageBatch { messages: vec![message] };
        outgoing.send(wrapped(pb::session_request::Message::Batch(batch))).await.map_err(words)
    };
    loop {
        tokio::select! {
            _ = beats.tick() => {
                beat += 1;
                let measured = pb::Beat { number: beat, cpu: 0.1, memory: 0.1, ..Default::default() };
                send(heartbeat(Kind::Beat(measured))).await?;
            }
            answer = answers.message() => {
                let Some(answer) = answer.map_err(words)? else { return Err("the session ended".to_owned()) };
                let Some(Answer::Batch(batch)) = answer.message else { continue };
                for message in batch.messages {
                    if let Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(Kind::Probe(probe)) })) = message.payload {
                        send(heartbeat(Kind::ProbeAck(pb::ProbeAck { number: probe.number }))).await?;
                    }
                }
            }
        }
    }
}

fn hello(name: &str) -> pb::Hello {
    pb::Hello {
        protocol_min: 1,
        protocol_max: 1,
        mesh_id: lintmesh::server::MESH_ID.to_owned(),
        specialist: Some(Specialist {
            node_id: name.to_owned(),
            agent_type: "simulated".to_owned(),
            priority_weight: 1.0,
            max_concurrent_tasks: 1,
            ..Default::default()
        }),
        incarnation: 1,
        host_id: name.to_owned(),
        failure_domain: name.to_owned(),
        toolchain_id: "0".repeat(64),
        environment_class: "simulated".to_owned(),
        cpu_slots: 1,
        process_id: std::process::id(),
        ..Default::default()
    }
}

fn wrapped(message: pb::session_request::Message) -> pb::SessionRequest {
    pb::SessionRequest { message: Some(message) }
}

fn heartbeat(kind: Kind) -> Payload {
    Payload::Heartbeat(pb::Heartbeat { kind: Some(kind) })
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}
