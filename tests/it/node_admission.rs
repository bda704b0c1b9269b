//! A node that may not join is refused with a named reason and counted; nobody else notices.

use lintmesh::proto::peer::v1::node_service_client::NodeServiceClient;
use lintmesh::proto::peer::v1::session_request::Message;
use lintmesh::proto::peer::v1::{Hello, MessageBatch, SessionRequest, SessionResponse};
use lintmesh::proto::v1::run_event::Event;
use lintmesh::proto::v1::{NodeStatus, Outcome, Specialist};
use lintmesh::types::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Request, Status, Streaming};

use super::metrics::scrape;
use super::support::calls::*;
use super::support::linters::GatedRuff;
use super::support::serve::{DEADLINE, Serve, channel, until};

const SECRET: &str = "shared by the nodes that others start";

fn hello(node_id: &str, incarnation: u64) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        mesh_id: "lintmesh".into(),
        specialist: Some(Specialist {
            node_id: node_id.into(),
            agent_type: "extra".into(),
            priority_weight: 0.5,
            max_concurrent_tasks: 1,
            ..Default::default()
        }),
        incarnation,
        ..Default::default()
    }
}

/// Opens a session that says `first`.
async fn session(
    serve: &Serve,
    secret: Option<&str>,
    first: Option<Message>,
) -> Result<Streaming<SessionResponse>, Status> {
    let messages = tokio_stream::iter([SessionRequest { message: first }]);
    // The stream must stay open, or an accepted session would end at once.
    let mut request = Request::new(tokio_stream::StreamExt::chain(messages, tokio_stream::pending()));
    if let Some(secret) = secret {
        let value = format!("Bearer {secret}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = NodeServiceClient::new(channel(serve.node_listener));
    let answered = tokio::time::timeout(DEADLINE, client.session(request)).await.expect("answered in time");
    Ok(answered?.into_inner())
}

#[tokio::test]
async fn nodes_that_may_not_join_are_refused_by_name_and_counted_while_a_run_goes_on() {
    let ruff = GatedRuff::new();
    let settings = format!(
        "{}[[nodes.secrets]]\nname = \"others\"\nsha256 = \"{}\"\n",
        ruff.settings(),
        Digest::of(SECRET.as_bytes())
    );
    let serve = Serve::start(&settings).await;
    let mut client = serve.coordinator();
    let run_id = started(&mut client, request(inline(&[("a.py", "")]), &["ruff"])).await;
    until("ruff runs", || ruff.running() == 2).await;
    let known = serve.node("backend-dev").await;

    let old = Hello { protocol_min: 7, protocol_max: 9, ..hello("extra", 1) };
    let elsewhere = Hello { mesh_id: "another".into(), ..hello("extra", 1) };
    let nameless = Hello { specialist: None, incarnation: 0, ..hello("extra", 1) };
    let refused = [
        (None, Some(hello("extra", 1)), Code::Unauthenticated, "CREDENTIALS_REFUSED"),
        (Some("wrong"), Some(hello("extra", 1)), Code::Unauthenticated, "CREDENTIALS_REFUSED"),
        (Some(SECRET), Some(old), Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED"),
        (
            Some(SECRET),
            Some(hello("backend-dev", known.incarnation - 1)),
            Code::AlreadyExists,
            "STALE_INCARNATION",
        ),
        (Some(SECRET), Some(elsewhere), Code::InvalidArgument, "INVALID_ARGUMENT"),
        (Some(SECRET), Some(nameless), Code::InvalidArgument, "INVALID_ARGUMENT"),
        (Some(SECRET), None, Code::InvalidArgument, "INVALID_ARGUMENT"),
    ];
    for (secret, hello, code, reason) in refused {
        let refused = session(&serve, secret, hello.map(Message::Hello)).await.expect_err(reason);
        assert_error(&refused, code, reason);
    }
    let batch = Message::Batch(MessageBatch::default());
    let refused = session(&serve, Some(SECRET), Some(batch)).await.expect_err("no Hello");
    assert_eq!(bad_fields(&refused), ["hello"]);

    // Bytes that are no message of this protocol, and bytes that are no HTTP.
    let garbage = tokio_stream::iter([prost_types::Duration { seconds: 5, nanos: 5 }]);
    let mut raw = tonic::client::Grpc::new(channel(serve.node_listener));
    raw.ready().await.expect("it listens");
    let mut call = Request::new(garbage);
    call.metadata_mut().insert("authorization", format!("Bearer {SECRET}").parse().expect("ASCII"));
    let path = http::uri::PathAndQuery::from_static("/lintmesh.peer.v1.NodeService/Session");
    let codec = tonic_prost::ProstCodec::<prost_types::Duration, SessionResponse>::default();
    let refused = raw.streaming(call, path, codec).await.expect_err("garbage");
    assert_eq!(bad_fields(&refused), ["hello"]);
    let mut socket = tokio::net::TcpStream::connect(serve.node_listener).await.expect("it listens");
    socket.write_all(&[0xff; 64]).await.expect("sent");
    let mut rest = Vec::new();
    // Closed or reset: either way not kept.
    let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("closed");

    until("all refusals are logged", || {
        serve.logged("a node was refused").len() == 7
            && serve.logged("a call of a node was refused").len() == 2
    })
    .await;
    for lines in [serve.logged("a node was refused"), serve.logged("a call of a node was refused")] {
        let mut counts = std::collections::BTreeMap::new();
        for line in &lines {
            let count: &mut u64 = counts.entry(line["reason"].to_string()).or_default();
            *count += 1;
            assert_eq!(line["count"].as_u64(), Some(*count), "counted by reason: {line}");
        }
        assert!(lines.iter().all(|line| line["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
        assert!(lines.iter().all(|line| !line.to_string().contains(SECRET)), "secrets are not logged");
    }

    let page = scrape(&serve).await;
    for (reason, count) in [("CREDENTIALS_REFUSED", 2), ("PROTOCOL_UNSUPPORTED", 1), ("STALE_INCARNATION", 1)]
    {
        let sample = format!("lintmesh_refused_nodes_total{{reason=\"{reason}\"}} {count}");
        assert!(page.contains(&sample), "{sample} in {page:?}");
    }

    // Nobody noticed: the mesh is what it was, the run goes on where it was.
    let mesh = serve.ready().await;
    assert_eq!((mesh.ready, mesh.total_nodes), (true, 4));
    assert_eq!(mesh.nodes["backend-dev"].incarnation, known.incarnation);
    assert_eq!(ruff.running(), 2);
    ruff.open();
    let events = watched(&mut client, &run_id, 0).await;
    assert_eq!(finished(&events).outcome(), Outcome::Clean);
    let disturbed = |event: &Option<Event>| matches!(event, Some(Event::Fault(_) | Event::Redistribution(_)));
    assert!(!events.iter().any(|event| disturbed(&event.event)));
}

#[tokio::test]
async fn a_launched_nodes_secret_is_of_no_use_to_others_and_a_shared_one_lets_new_nodes_in() {
    let settings =
        format!("[[nodes.secrets]]\nname = \"others\"\nsha256 = \"{}\"\n", Digest::of(SECRET.as_bytes()));
    let serve = Serve::start(&settings).await;
    // The SHA-256 that configuration shows is not the secret.
    let hash = Digest::of(SECRET.as_bytes()).to_string();
    let refused = session(&serve, Some(&hash), Some(Message::Hello(hello("extra", 1)))).await;
    assert_error(&refused.expect_err("a hash"), Code::Unauthenticated, "CREDENTIALS_REFUSED");
    let mut joined =
        session(&serve, Some(SECRET), Some(Message::Hello(hello("extra", 1)))).await.expect("joins");
    joined.message().await.expect("alive").expect("a Welcome");
    assert_eq!(serve.node("extra").await.status(), NodeStatus::Active);
    // A node of the same id and incarnation is the same process that comes back: the older connection ends.
    let _again = session(&serve, Some(SECRET), Some(Message::Hello(hello("extra", 1)))).await.expect("joins");
    let end = async { while let Ok(Some(_)) = joined.message().await {} };
    tokio::time::timeout(DEADLINE, end).await.expect("the older connection ends");
    assert_eq!(serve.node("extra").await.status(), NodeStatus::Active);
}
