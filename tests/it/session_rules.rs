//! What a node may say on its session: everything else is refused, counted by reason, and disturbs nobody.

use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::proto::peer::v1::node_service_client::NodeServiceClient;
use lintmesh::proto::v1::{NodeStatus, Specialist};
use lintmesh::types::Digest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};
use tonic_types::StatusExt as _;

use super::support::serve::{DEADLINE, Serve, channel, until};

const SECRET: &str = "shared by the nodes that others start";
const NODE: &str = "extra";
const HOUR: i64 = 3600;

/// A node of which only its session is real.
struct Scripted {
    requests: mpsc::Sender<pb::SessionRequest>,
    answers: Streaming<pb::SessionResponse>,
    /// Its clock less that of everybody else, in seconds.
    clock: i64,
}

impl Scripted {
    async fn join(serve: &Serve, node_id: &str, clock: i64) -> Self {
        let (requests, sent) = mpsc::channel(4096);
        let specialist = Specialist {
            node_id: node_id.into(),
            agent_type: "extra".into(),
            priority_weight: 0.5,
            max_concurrent_tasks: 1,
            ..Default::default()
        };
        let hello = pb::Hello {
            protocol_min: 1,
            protocol_max: 1,
            mesh_id: "lintmesh".into(),
            specialist: Some(specialist),
            incarnation: 1,
            sent_at: Some(shown(clock)),
            ..Default::default()
        };
        let message = Some(pb::session_request::Message::Hello(hello));
        requests.send(pb::SessionRequest { message }).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(sent));
        request.metadata_mut().insert("authorization", format!("Bearer {SECRET}").parse().unwrap());
        let mut client = NodeServiceClient::new(channel(serve.node_listener));
        let mut answers = client.session(request).await.expect("joins").into_inner();
        answers.message().await.expect("open").expect("a Welcome");
        Self { requests, answers, clock }
    }

    async fn say(&self, message: pb::session_request::Message) {
        self.requests.send(pb::SessionRequest { message: Some(message) }).await.expect("open");
    }

    async fn batch(&self, messages: Vec<pb::MeshMessage>) {
        self.say(pb::session_request::Message::Batch(pb::MessageBatch { messages })).await;
    }

    /// The next message of the coordinator that is wanted.
    async fn until<T>(&mut self, wanted: impl Fn(pb::heartbeat::Kind) -> Option<T>) -> T {
        let waited = async {
            loop {
                let answer = self.answers.message().await.expect("open").expect("more");
                let Some(pb::session_response::Message::Batch(batch)) = answer.message else { continue };
                for message in batch.messages {
                    if let Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(kind) })) = message.payload
                        && let Some(found) = wanted(kind)
                    {
                        return found;
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, waited).await.expect("in time")
    }

    /// Waits until the coordinator has dealt with everything that was said.
    async fn dealt_with(&mut self, number: u64) {
        self.batch(vec![self.heartbeat(pb::heartbeat::Kind::Probe(pb::Probe { number }))]).await;
        self.until(|kind| {
            matches!(kind, pb::heartbeat::Kind::ProbeAck(ack) if ack.number == number).then_some(())
        })
        .await;
    }

    fn heartbeat(&self, kind: pb::heartbeat::Kind) -> pb::MeshMessage {
        pb::MeshMessage {
            sender_id: NODE.into(),
            receiver_id: "coordinator".into(),
            message_id: 1,
            timestamp: Some(shown(self.clock)),
            payload: Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(kind) })),
            origin_id: String::new(),
        }
    }

    fn beat(&self) -> pb::MeshMessage {
        self.heartbeat(pb::heartbeat::Kind::Beat(pb::Beat { number: 1, ..Default::default() }))
    }
}

/// Now, by a clock that is so many seconds ahead.
fn shown(ahead: i64) -> prost_types::Timestamp {
    let now = prost_types::Timestamp::from(std::time::SystemTime::now());
    prost_types::Timestamp { seconds: now.seconds + ahead, ..now }
}

fn settings() -> String {
    format!("[[nodes.secrets]]\nname = \"others\"\nsha256 = \"{}\"\n", Digest::of(SECRET.as_bytes()))
}

fn counted(serve: &Serve) -> Vec<String> {
    let lines = serve.logged("a message of a node was refused");
    lines.iter().map(|line| line["reason"].as_str().expect("a reason").to_owned()).collect()
}

#[tokio::test]
async fn what_a_node_may_not_say_is_refused_by_reason_and_its_session_goes_on() {
    let serve = Serve::start(&settings()).await;
    let mut node = Scripted::join(&serve, NODE, 0).await;
    let drain = pb::fault_tolerance::Kind::Shutdown(pb::Shutdown::default());
    let shutdown = Some(Payload::FaultTolerance(pb::FaultTolerance { kind: Some(drain) }));
    let ended = pb::TaskResult {
        attempt: Some(pb::AttemptRef { run_id: "run".into(), ..Default::default() }),
        executor: "backend-dev".into(),
        ending: Some(pb::task_result::Ending::Failure("no".into())),
        ..Default::default()
    };
    let kind = Some(pb::result_share::Kind::Result(ended));
    let of_another = Some(Payload::ResultShare(pb::ResultShare { kind }));
    let unknown_link = pb::LinkReport { peer_id: "api-docs".into(), state: 99, ..Default::default() };
    let bad_beat = pb::heartbeat::Kind::Beat(pb::Beat { links: vec![unknown_link], ..Default::default() });
    let wrong = [
        (pb::MeshMessage { sender_id: "backend-dev".into(), ..node.beat() }, "SENDER_MISMATCH"),
        (pb::MeshMessage { origin_id: "backend-dev".into(), ..node.beat() }, "SENDER_MISMATCH"),
        (pb::MeshMessage { payload: of_another, ..node.beat() }, "SENDER_MISMATCH"),
        (pb::MeshMessage { receiver_id: "backend-dev".into(), ..node.beat() }, "WRONG_RECEIVER"),
        (pb::MeshMessage { timestamp: Some(shown(HOUR)), ..node.beat() }, "FUTURE_TIMESTAMP"),
        (pb::MeshMessage { payload: None, ..node.beat() }, "MALFORMED"),
        (pb::MeshMessage { payload: shutdown, ..node.beat() }, "MALFORMED"),
        (node.heartbeat(bad_beat), "MALFORMED"),
    ];
    let (messages, mut reasons): (Vec<_>, Vec<_>) = wrong.into_iter().unzip();
    node.batch(messages).await;
    node.say(pb::session_request::Message::Hello(pb::Hello::default())).await;
    reasons.push("MALFORMED");
    node.dealt_with(2).await;
    until("all are logged", || counted(&serve).len() == reasons.len()).await;
    assert_eq!(counted(&serve), reasons);
    assert_eq!(serve.node(NODE).await.status(), NodeStatus::Active);
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_is_understood_all_the_same() {
    let serve = Serve::start(&settings()).await;
    let mut node = Scripted::join(&serve, NODE, HOUR).await;
    node.batch(vec![node.beat()]).await;
    node.dealt_with(1).await;
    assert_eq!(counted(&serve), [""; 0]);
    let future = pb::MeshMessage { timestamp: Some(shown(HOUR + 60)), ..node.beat() };
    node.batch(vec![future]).await;
    node.dealt_with(2).await;
    until("it is logged", || counted(&serve) == ["FUTURE_TIMESTAMP"]).await;
}

#[tokio::test]
async fn a_flood_ends_the_session_and_nobody_else_notices() {
    let serve = Serve::start(&settings()).await;
    let mut node = Scripted::join(&serve, NODE, 0).await;
    // At once, and of the kind that costs the coordinator least, so that a slow machine is flooded too.
    let probe = node.heartbeat(pb::heartbeat::Kind::Probe(pb::Probe { number: 1 }));
    node.batch(vec![probe; 10_000]).await;
    let end = async {
        loop {
            match node.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(DEADLINE, end).await.expect("ends");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().expect("a reason").reason, "FLOOD");
    until("it is logged", || counted(&serve) == ["FLOOD"]).await;
    for other in ["api-docs", "backend-dev", "integration-specialist", "system-architect"] {
        assert_eq!(serve.node(other).await.status(), NodeStatus::Active);
    }
    // It may come back.
    let mut again = Scripted::join(&serve, NODE, 0).await;
    again.dealt_with(1).await;
}
