//! Nodes hold real links to each other: opened, probed, measured and answered as planned, and of use to nobody else.

use std::time::Duration;

use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::proto::peer::v1::peer_service_client::PeerServiceClient;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use super::node_session::coordinator::DEADLINE;
use super::support::linked_nodes::{LinkedNodes, link_secret, up};
use super::support::serve::Serve;

const NAMES: [&str; 4] = ["api-docs", "backend-dev", "integration-specialist", "system-architect"];

/// A connection to a node that says what a test says.
struct Exchange {
    requests: mpsc::Sender<pb::ExchangeRequest>,
    answers: Streaming<pb::ExchangeResponse>,
}

fn hello(nodes: &LinkedNodes, from: &str, to: &str) -> pb::PeerHello {
    pb::PeerHello {
        protocol_min: 1,
        protocol_max: 1,
        mesh_id: "default".into(),
        node_id: from.into(),
        incarnation: nodes.sessions[from].hello.incarnation,
        receiver_id: to.into(),
        receiver_incarnation: nodes.sessions[to].hello.incarnation,
        purpose: pb::LinkPurpose::Probes.into(),
    }
}

impl Exchange {
    async fn open(
        nodes: &LinkedNodes,
        to: &str,
        secret: &str,
        first: pb::exchange_request::Message,
    ) -> Result<Self, Status> {
        let uri = nodes.sessions[to].hello.peer_endpoint.clone();
        let channel = tonic::transport::Endpoint::from_shared(uri).unwrap().connect_lazy();
        let (requests, sent) = mpsc::channel(4096);
        requests.send(pb::ExchangeRequest { message: Some(first) }).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(sent));
        request.metadata_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
        let answers = PeerServiceClient::new(channel).exchange(request).await?.into_inner();
        Ok(Self { requests, answers })
    }

    async fn say(&self, messages: Vec<pb::MeshMessage>) {
        let batch = pb::exchange_request::Message::Batch(pb::MessageBatch { messages });
        self.requests.send(pb::ExchangeRequest { message: Some(batch) }).await.expect("open");
    }
}

fn probe(from: &str, to: &str) -> pb::MeshMessage {
    let kind = Some(pb::heartbeat::Kind::Probe(pb::Probe { number: 7 }));
    pb::MeshMessage {
        sender_id: from.into(),
        receiver_id: to.into(),
        message_id: 1,
        payload: Some(Payload::Heartbeat(pb::Heartbeat { kind })),
        ..Default::default()
    }
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_hold_twelve_links_and_measure_them() {
    let mut nodes = LinkedNodes::start(&NAMES).await;
    nodes.link().await;
    for name in NAMES {
        let beat = nodes.until_beat(name, |beat| beat.links.iter().all(|link| link.received_bytes > 0)).await;
        assert_eq!(beat.links.len(), NAMES.len() - 1);
        for link in &beat.links {
            let age = Duration::try_from(link.last_seen_age.expect("seen")).unwrap();
            let round_trip = Duration::try_from(link.round_trip.expect("measured")).unwrap();
            assert!(age < DEADLINE && !round_trip.is_zero() && round_trip < DEADLINE, "{link:?}");
            // One machine, one clock: known to half a round trip.
            let offset = link.clock_offset_ms.expect("measured").unsigned_abs();
            assert!(Duration::from_millis(offset) <= round_trip + Duration::from_millis(2), "{link:?}");
        }
        assert!(!beat.abstaining || beat.number > 0);
    }
    // Probes stay small: what links cost is known.
    let first = nodes.until_beat("backend-dev", |_| true).await;
    let later =
        nodes.until_beat("backend-dev", |beat| beat.links[0].sent_bytes > first.links[0].sent_bytes).await;
    let each = later.links[0].sent_bytes - first.links[0].sent_bytes;
    assert!(each < 150 * 3, "at most three probes of less than 150 bytes between two looks: {each}");
}

#[tokio::test]
async fn a_served_mesh_is_linked_all_to_all() {
    let serve = Serve::start("").await;
    let linked = async {
        for name in NAMES {
            while serve.node(name).await.peers.len() != NAMES.len() - 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    tokio::time::timeout(DEADLINE, linked).await.expect("twelve links");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_is_told_by_its_reset_and_a_stopped_one_by_its_silence() {
    let mut nodes = LinkedNodes::start(&NAMES).await;
    nodes.link().await;
    assert!(nodes.look("api-docs", "backend-dev", 5).await.reached);

    nodes.signal("backend-dev", Signal::SIGKILL);
    for observer in ["api-docs", "integration-specialist", "system-architect"] {
        // Before any probe was missed.
        let state = nodes.until_trouble(observer, "backend-dev").await;
        assert_eq!(state, pb::LinkState::Reset, "{observer}");
    }
    let report = nodes.look("api-docs", "backend-dev", 6).await;
    assert_eq!((report.subject_id.as_str(), report.number, report.reached), ("backend-dev", 6, false));

    nodes.signal("system-architect", Signal::SIGSTOP);
    for observer in ["api-docs", "integration-specialist"] {
        let state = nodes.until_trouble(observer, "system-architect").await;
        assert_eq!(state, pb::LinkState::Silent, "{observer}");
    }
    assert!(!nodes.look("api-docs", "system-architect", 7).await.reached);
    nodes.signal("system-architect", Signal::SIGCONT);
    nodes.until_change("api-docs", "system-architect", pb::LinkState::Up).await;
    assert!(nodes.look("api-docs", "system-architect", 8).await.reached);
    assert!(!nodes.look("api-docs", "nobody", 9).await.reached);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_opens_closes_and_rebuilds_links() {
    let mut nodes = LinkedNodes::start(&NAMES[..3]).await;
    nodes.link().await;
    let bytes = |beat: &pb::Beat| beat.links.iter().map(|link| link.sent_bytes).sum::<u64>();
    let before =
        bytes(&nodes.until_beat("api-docs", |beat| beat.links.iter().all(|l| l.sent_bytes > 150)).await);

    let rebuilt = pb::Roster { rebuild: true, ..nodes.roster("api-docs") };
    nodes.send_roster("api-docs", rebuilt).await;
    nodes.until_beat("api-docs", |beat| bytes(beat) < before).await;
    nodes.until_beat("api-docs", |beat| up(beat) == 2).await;

    // Not planned any more, at either end.
    let mut alone = nodes.roster("api-docs");
    alone.dial.retain(|peer| peer.node_id != "backend-dev");
    alone.accept.retain(|peer| peer.node_id != "backend-dev");
    nodes.send_roster("api-docs", alone).await;
    nodes.until_beat("api-docs", |beat| beat.links.len() == 1).await;
    nodes.until_beat("backend-dev", |beat| up(beat) == 1).await;
    let again = nodes.roster("api-docs");
    nodes.send_roster("api-docs", again).await;
    nodes.until_beat("backend-dev", |beat| up(beat) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_planned_peer_gets_in() {
    let mut nodes = LinkedNodes::start(&NAMES[..2]).await;
    nodes.link().await;
    let (from, to) = (NAMES[0], NAMES[1]);
    let secret = link_secret(from, to);
    let as_hello = pb::exchange_request::Message::Hello;
    let good = hello(&nodes, from, to);
    let refused: [(&str, pb::exchange_request::Message, Code, &str); 7] = [
        ("", as_hello(good.clone()), Code::Unauthenticated, "LINK_REFUSED"),
        ("wrong", as_hello(good.clone()), Code::Unauthenticated, "LINK_REFUSED"),
        // The secret of the other direction.
        (&link_secret(to, from), as_hello(good.clone()), Code::Unauthenticated, "LINK_REFUSED"),
        (
            &secret,
            as_hello(pb::PeerHello { incarnation: 1, ..good.clone() }),
            Code::Unauthenticated,
            "LINK_REFUSED",
        ),
        (
            &secret,
            as_hello(pb::PeerHello { receiver_id: "somebody".into(), ..good.clone() }),
            Code::FailedPrecondition,
            "WRONG_RECEIVER",
        ),
        (
            &secret,
            as_hello(pb::PeerHello { protocol_min: 7, protocol_max: 9, ..good.clone() }),
            Code::FailedPrecondition,
            "PROTOCOL_UNSUPPORTED",
        ),
        (
            &secret,
            pb::exchange_request::Message::Batch(pb::MessageBatch::default()),
            Code::InvalidArgument,
            "HELLO_EXPECTED",
        ),
    ];
    for (secret, first, code, why) in refused {
        let status = Exchange::open(&nodes, to, secret, first).await.err().expect(why);
        assert_eq!(reason(&status), (code, why.to_owned()));
    }
    let count = |beat: &pb::Beat, reason: &str| beat.refused_messages.get(reason).copied().unwrap_or(0);
    // While the roster was on its way, the peer itself may have come too early.
    let all = |beat: &pb::Beat| count(beat, "LINK_REFUSED") >= 4 && count(beat, "HELLO_EXPECTED") == 1;
    let beat = nodes.until_beat(to, all).await;
    assert_eq!((up(&beat), count(&beat, "WRONG_RECEIVER")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_may_not_say_is_counted_and_a_flood_is_cut_off_while_others_live() {
    let mut nodes = LinkedNodes::start(&NAMES[..3]).await;
    nodes.link().await;
    let (from, to) = (NAMES[0], NAMES[1]);
    let first = pb::exchange_request::Message::Hello(hello(&nodes, from, to));
    let mut line = Exchange::open(&nodes, to, &link_secret(from, to), first).await.expect("planned");
    line.answers.message().await.expect("open").expect("a Welcome");

    let other_sender = pb::MeshMessage { sender_id: NAMES[2].into(), ..probe(from, to) };
    let other_origin = pb::MeshMessage { origin_id: NAMES[2].into(), ..probe(from, to) };
    let other_receiver = pb::MeshMessage { receiver_id: NAMES[2].into(), ..probe(from, to) };
    let senseless = pb::MeshMessage { payload: None, ..probe(from, to) };
    line.say(vec![other_sender, other_origin, other_receiver, senseless]).await;
    // The line still works.
    line.say(vec![probe(from, to)]).await;
    let answer = line.answers.message().await.expect("open").expect("an answer");
    let Some(pb::exchange_response::Message::Batch(batch)) = answer.message else { panic!("{answer:?}") };
    assert_eq!(batch.messages.len(), 1, "only what is right is answered");
    let counted = [("SENDER_MISMATCH", 2), ("WRONG_RECEIVER", 1), ("MALFORMED", 1)];
    let counted = counted.map(|(reason, count)| (reason.to_owned(), count));
    nodes
        .until_beat(to, |beat| counted.iter().all(|(reason, n)| beat.refused_messages.get(reason) == Some(n)))
        .await;

    line.say(vec![probe(from, to); 2_500]).await;
    let end = async {
        loop {
            match line.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(DEADLINE, end).await.expect("cut off");
    assert_eq!(reason(&status), (Code::ResourceExhausted, "FLOOD".to_owned()));
    let beat = nodes.until_beat(to, |beat| beat.refused_messages.contains_key("FLOOD")).await;
    assert_eq!(up(&beat), 2, "its own links live");
    for name in [NAMES[0], NAMES[2]] {
        nodes.until_beat(name, |beat| up(beat) == 2).await;
    }
}
