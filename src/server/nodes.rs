//! NodeService: the coordinator's end of each node's session.

mod clock;
mod epochs;
mod inbox;
mod line;
mod results;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::epochs::LaterEpochs;
use self::line::Line;
use super::links::LinkSecrets;
use super::refusals::millis;
use super::service::Service;
use crate::coordinator::input::Hello;
use crate::middleware::enrolment::Enrolled;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::node_service_server::NodeService;
use crate::status::{ApiError, Precondition};
use crate::types::Epoch;
use crate::wire;

/// The protocol version spoken here.
const PROTOCOL: u32 = 1;
/// The mesh that is coordinated here.
pub const MESH_ID: &str = "lintmesh";
/// For the first message of a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Batches that may wait for a slow node.
const QUEUE: usize = 64;
/// Connections whose Hello waits to be decided. While the coordinator decides nothing, nodes give up and dial again.
const JOINING: usize = 1024;
/// When a node that found that many before it may dial again.
const JOINING_RETRY: Duration = Duration::from_secs(1);

/// The service.
pub struct Sessions {
    service: Arc<Service>,
    secrets: Arc<LinkSecrets>,
    later: Arc<LaterEpochs>,
    joining: Arc<Semaphore>,
}

/// A first message, checked.
struct Greeting {
    hello: Hello,
    /// When it was sent, in milliseconds since 1970 by the node's clock.
    sent_ms: Option<i64>,
    /// The newest coordinator start that welcomed the node; 0 for none.
    last_epoch: Epoch,
}

impl Sessions {
    /// On this server's coordinator.
    pub fn new(service: Arc<Service>) -> Self {
        let secrets = Arc::new(LinkSecrets::new(&service.random));
        Self { service, secrets, later: Arc::default(), joining: Arc::new(Semaphore::new(JOINING)) }
    }

    fn refuse(&self, error: ApiError) -> Status {
        let count = self.service.counts.refused_nodes.count(error.reason());
        tracing::warn!(reason = error.reason(), count, "a node was refused: {error}");
        error.into()
    }

    /// Reads and checks the first message.
    async fn hello(
        &self,
        enrolled: &Enrolled,
        messages: &mut Streaming<pb::SessionRequest>,
    ) -> Result<Greeting, ApiError> {
        let expected = |text: &str| ApiError::invalid("hello", text);
        let first = tokio::time::timeout(HELLO_TIMEOUT, messages.message())
            .await
            .map_err(|_| expected("did not arrive in time"))?
            .map_err(|status| expected(&format!("is not readable: {}", status.message())))?;
        let Some(pb::session_request::Message::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(expected("must be the first message"));
        };
        if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
            return Err(ApiError::FailedPrecondition(vec![Precondition {
                kind: "PROTOCOL_UNSUPPORTED",
                subject: format!("protocol {} to {}", hello.protocol_min, hello.protocol_max),
                description: format!(
                    "this coordinator speaks {PROTOCOL}; run node and coordinator of one release"
                ),
            }]));
        }
        if hello.mesh_id != MESH_ID {
            let text = format!("is `{}`; this is mesh `{MESH_ID}`", hello.mesh_id);
            return Err(ApiError::invalid("hello.mesh_id", text));
        }
        let (sent_ms, last_epoch) = (hello.sent_at.as_ref().map(millis), Epoch(hello.last_epoch));
        let hello = wire::session::hello(hello).map_err(ApiError::InvalidArgument)?;
        if enrolled.node.as_ref().is_some_and(|node| *node != hello.spec.node_id) {
            return Err(ApiError::Unauthenticated("the enrolment secret belongs to another node"));
        }
        Ok(Greeting { hello, sent_ms, last_epoch })
    }
}

#[tonic::async_trait]
impl NodeService for Sessions {
    type SessionStream = ReceiverStream<Result<pb::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let enrolled = request.extensions().get::<Enrolled>().cloned().unwrap_or(Enrolled { node: None });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut messages = request.into_inner();
        let Greeting { hello, sent_ms, last_epoch } =
            self.hello(&enrolled, &mut messages).await.map_err(|error| self.refuse(error))?;
        // What cannot be decided now must not pile up: the node comes back.
        self.service.stores_facts().map_err(|error| self.refuse(error))?;
        let Ok(place) = Arc::clone(&self.joining).try_acquire_owned() else {
            let (what, limit, retry) = ("nodes that join at the same time", JOINING as u64, JOINING_RETRY);
            return Err(self.refuse(ApiError::ResourceExhausted { what, limit, retry }));
        };
        let (session, outgoing) = self.service.engine.sessions().open();
        let line = Line::new(self.service.clone(), self.secrets.clone(), session, &hello, sent_ms);
        let (later, engine, node) =
            (self.later.clone(), self.service.engine.clone(), hello.spec.node_id.clone());
        // A task of its own: if the node goes away while its Hello is decided, this call is dropped, and what it opened
        // must be closed all the same.
        let (mut admitted, admission) = oneshot::channel();
        tokio::spawn(async move {
            let joined = tokio::select! {
                joined = line.join(hello) => joined,
                () = admitted.closed() => return line.leave(place).await,
            };
            drop(place);
            match joined {
                Ok(welcome) => {
                    let own = Epoch(welcome.epoch);
                    if last_epoch > own {
                        tokio::spawn(async move { later.told(&engine, &node, last_epoch, own).await });
                    }
                    let message = Some(pb::session_response::Message::Welcome(welcome));
                    // The queue is empty, so this cannot wait.
                    let _ = sender.send(Ok(pb::SessionResponse { message })).await;
                    let _ = admitted.send(Ok(()));
                    line.run(messages, outgoing, sender).await;
                }
                Err(error) => {
                    line.close();
                    let _ = admitted.send(Err(error));
                }
            }
        });
        let lost = |_| ApiError::Internal { request_id: String::new() };
        admission.await.map_err(lost)?.map_err(|error| self.refuse(error))?;
        Ok(Response::new(receiver.into()))
    }
}
