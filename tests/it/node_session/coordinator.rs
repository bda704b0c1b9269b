//! A coordinator that does what a test says: it speaks the node's services and decides nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::proto::peer::v1::node_service_server::{NodeService, NodeServiceServer};
use lintmesh::proto::v1::workspace_service_server::{WorkspaceService, WorkspaceServiceServer};
use lintmesh::proto::v1::{
    DownloadBlobsRequest, DownloadBlobsResponse, FindMissingBlobsRequest, FindMissingBlobsResponse,
    UploadBlobsRequest, UploadBlobsResponse,
};
use lintmesh::types::{AttemptRef, Digest};
use lintmesh::wire::peer::{Assignment, AttemptResult};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Far beyond what anything here takes, so that only a real hang fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const SECRET: &str = "open sesame";

pub(crate) struct Coordinator {
    pub(crate) uri: String,
    shared: Arc<Shared>,
    sessions: mpsc::Receiver<Session>,
}

#[derive(Default)]
struct Shared {
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    downloads: Mutex<BTreeMap<String, u32>>,
    /// Answers to the next sessions; accepted when there are none.
    refusals: Mutex<VecDeque<Status>>,
    joined: Mutex<Option<mpsc::Sender<Session>>>,
    /// Nodes that cannot open a session, and nodes whose probes are not answered.
    cut: Mutex<BTreeSet<String>>,
    mute: Mutex<BTreeSet<String>>,
}

#[derive(Clone)]
struct Service(Arc<Shared>);

/// One connection of a node, from the coordinator's side.
pub(crate) struct Session {
    pub(crate) hello: pb::Hello,
    to_node: mpsc::Sender<Result<pb::SessionResponse, Status>>,
    from_node: mpsc::Receiver<pb::MeshMessage>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let (joined, sessions) = mpsc::channel(16);
        let shared = Arc::new(Shared { joined: Mutex::new(Some(joined)), ..Shared::default() });
        let service = Service(Arc::clone(&shared));
        let server = tonic::transport::Server::builder()
            .add_service(NodeServiceServer::new(service.clone()))
            .add_service(WorkspaceServiceServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { uri, shared, sessions }
    }

    pub(crate) fn refuse_next(&self, status: Status) {
        self.shared.refusals.lock().unwrap().push_back(status);
    }

    /// From now on the node cannot open a session; or it can again.
    pub(crate) fn cut(&self, node: &str, is_cut: bool) {
        let mut cut = self.shared.cut.lock().unwrap();
        if is_cut {
            cut.insert(node.to_owned())
        } else {
            cut.remove(node)
        };
    }

    /// From now on the node's probes are not answered.
    pub(crate) fn mute(&self, node: &str) {
        self.shared.mute.lock().unwrap().insert(node.to_owned());
    }

    /// Loses a blob.
    pub(crate) fn forget(&self, digest: &Digest) {
        self.shared.blobs.lock().unwrap().remove(&digest.to_string());
    }

    pub(crate) async fn session(&mut self) -> Session {
        tokio::time::timeout(DEADLINE, self.sessions.recv()).await.expect("a session in time").unwrap()
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.shared.blobs.lock().unwrap().insert(digest.to_string(), bytes.to_vec());
        digest
    }

    /// Keeps these bytes as the blob with that digest, be it theirs or not.
    pub(crate) fn put_as(&self, digest: Digest, bytes: &[u8]) {
        self.shared.blobs.lock().unwrap().insert(digest.to_string(), bytes.to_vec());
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.shared.blobs.lock().unwrap().get(&digest.to_string()).cloned()
    }

    pub(crate) fn downloads(&self, digest: &Digest) -> u32 {
        self.shared.downloads.lock().unwrap().get(&digest.to_string()).copied().unwrap_or(0)
    }
}

impl Session {
    pub(crate) async fn say_to(&self, receiver: &str, payload: Option<Payload>) {
        let message = pb::MeshMessage {
            sender_id: "coordinator".into(),
            receiver_id: receiver.into(),
            message_id: 1,
            timestamp: None,
            payload,
            origin_id: String::new(),
        };
        let batch = pb::session_response::Message::Batch(pb::MessageBatch { messages: vec![message] });
        self.send(Some(batch)).await;
    }

    pub(crate) async fn send(&self, message: Option<pb::session_response::Message>) {
        self.to_node.send(Ok(pb::SessionResponse { message })).await.expect("the node listens");
    }

    pub(crate) async fn end_with(self, status: Status) {
        self.to_node.send(Err(status)).await.expect("the node listens");
    }

    pub(crate) async fn say(&self, payload: Payload) {
        let node = self.hello.specialist.as_ref().unwrap().node_id.clone();
        self.say_to(&node, Some(payload)).await;
    }

    pub(crate) async fn assign(&self, assignment: &Assignment) {
        let kind = pb::task_assignment::Kind::Assign(assignment.to_proto());
        self.say(Payload::TaskAssignment(pb::TaskAssignment { kind: Some(kind) })).await;
    }

    pub(crate) async fn revoke(&self, key: &AttemptRef) {
        let revoke = pb::Revoke { attempt: Some(key.to_proto()), reason: "test".into() };
        let kind = pb::task_assignment::Kind::Revoke(revoke);
        self.say(Payload::TaskAssignment(pb::TaskAssignment { kind: Some(kind) })).await;
    }

    pub(crate) async fn acknowledge(&self, key: &AttemptRef) {
        let kind = pb::result_share::Kind::Ack(pb::ResultAck { attempt: Some(key.to_proto()) });
        self.say(Payload::ResultShare(pb::ResultShare { kind: Some(kind) })).await;
    }

    pub(crate) async fn next(&mut self) -> pb::MeshMessage {
        tokio::time::timeout(DEADLINE, self.from_node.recv()).await.expect("a message in time").expect("open")
    }

    pub(crate) async fn beat(&mut self) -> pb::Beat {
        loop {
            if let Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::Beat(beat)) })) =
                self.next().await.payload
            {
                return beat;
            }
        }
    }

    /// Waits until the node's beats say that so many attempts run.
    pub(crate) async fn until_running(&mut self, tasks: u32) {
        let waited = async { while self.beat().await.running_tasks != tasks {} };
        tokio::time::timeout(DEADLINE, waited).await.expect("so many attempts in time");
    }

    pub(crate) async fn result(&mut self) -> AttemptResult {
        loop {
            if let Some(Payload::ResultShare(pb::ResultShare {
                kind: Some(pb::result_share::Kind::Result(result)),
            })) = self.next().await.payload
            {
                return AttemptResult::from_proto(result).expect("a valid result");
            }
        }
    }
}

/// Says that the coordinator is there, if that was asked.
async fn acknowledge_probe(
    message: &pb::MeshMessage,
    to_node: &mpsc::Sender<Result<pb::SessionResponse, Status>>,
) {
    let Some(Payload::Heartbeat(pb::Heartbeat { kind: Some(pb::heartbeat::Kind::Probe(probe)) })) =
        &message.payload
    else {
        return;
    };
    let kind = Some(pb::heartbeat::Kind::ProbeAck(pb::ProbeAck { number: probe.number }));
    let answer = pb::MeshMessage {
        sender_id: "coordinator".into(),
        receiver_id: message.sender_id.clone(),
        payload: Some(Payload::Heartbeat(pb::Heartbeat { kind })),
        ..Default::default()
    };
    let batch = pb::session_response::Message::Batch(pb::MessageBatch { messages: vec![answer] });
    // The session may be over.
    let _ = to_node.send(Ok(pb::SessionResponse { message: Some(batch) })).await;
}

fn enrolled<T>(request: &Request<T>) -> Result<(), Status> {
    let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    if given == Some(&format!("Bearer {SECRET}")) {
        Ok(())
    } else {
        Err(Status::unauthenticated("the enrolment secret is not known"))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NodeService for Service {
    type SessionStream = Answers<pb::SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        enrolled(&request)?;
        if let Some(status) = self.0.refusals.lock().unwrap().pop_front() {
            return Err(status);
        }
        let mut inbound = request.into_inner();
        let Some(pb::session_request::Message::Hello(hello)) = inbound.message().await?.unwrap().message
        else {
            return Err(Status::invalid_argument("Hello expected"));
        };
        let node = hello.specialist.as_ref().unwrap().node_id.clone();
        if self.0.cut.lock().unwrap().contains(&node) {
            return Err(Status::unavailable("the network is cut"));
        }
        let (to_node, answers) = mpsc::channel(16);
        let welcome = pb::Welcome {
            session: 1,
            epoch: 5,
            protocol: 1,
            heartbeat_interval: Some(Duration::from_millis(100).try_into().unwrap()),
            probe_interval: None,
            silence_limit: None,
        };
        let welcome = pb::session_response::Message::Welcome(welcome);
        to_node.send(Ok(pb::SessionResponse { message: Some(welcome) })).await.unwrap();
        let (messages, from_node) = mpsc::channel(1024);
        let (shared, answering) = (Arc::clone(&self.0), to_node.clone());
        tokio::spawn(async move {
            while let Ok(Some(request)) = inbound.message().await {
                let Some(pb::session_request::Message::Batch(batch)) = request.message else {
                    panic!("a second Hello")
                };
                assert!(!batch.messages.is_empty() && batch.messages.len() <= 10);
                for message in batch.messages {
                    if !shared.mute.lock().unwrap().contains(&node) {
                        acknowledge_probe(&message, &answering).await;
                    }
                    if messages.send(message).await.is_err() {
                        return;
                    }
                }
            }
        });
        let joined = self.0.joined.lock().unwrap().clone().unwrap();
        joined.send(Session { hello, to_node, from_node }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

#[tonic::async_trait]
impl WorkspaceService for Service {
    async fn find_missing_blobs(
        &self,
        _: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        Err(Status::unimplemented("nodes do not ask"))
    }

    async fn upload_blobs(
        &self,
        request: Request<Streaming<UploadBlobsRequest>>,
    ) -> Result<Response<UploadBlobsResponse>, Status> {
        enrolled(&request)?;
        let mut pieces = request.into_inner();
        let (mut digest, mut data) = (String::new(), Vec::new());
        while let Some(piece) = pieces.message().await? {
            if !piece.digest.is_empty() {
                digest = piece.digest;
            }
            data.extend(piece.data);
        }
        if Digest::of(&data).to_string() != digest {
            return Err(Status::invalid_argument("digest"));
        }
        let bytes = data.len() as u64;
        self.0.blobs.lock().unwrap().insert(digest, data);
        Ok(Response::new(UploadBlobsResponse { blobs: 1, bytes }))
    }

    type DownloadBlobsStream = Answers<DownloadBlobsResponse>;

    async fn download_blobs(
        &self,
        request: Request<DownloadBlobsRequest>,
    ) -> Result<Response<Self::DownloadBlobsStream>, Status> {
        enrolled(&request)?;
        let mut answers = Vec::new();
        for digest in request.into_inner().digests {
            *self.0.downloads.lock().unwrap().entry(digest.clone()).or_default() += 1;
            let Some(data) = self.0.blobs.lock().unwrap().get(&digest).cloned() else {
                answers.push(Err(Status::not_found(format!("no blob {digest}"))));
                break;
            };
            // In two pieces, so that putting them together is tested too.
            let (first, second) = data.split_at(data.len() / 2);
            for (data, last) in [(first, false), (second, true)] {
                answers.push(Ok(DownloadBlobsResponse { digest: digest.clone(), data: data.to_vec(), last }));
            }
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(answers).map(|answer| answer))))
    }
}
