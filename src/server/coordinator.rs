//! CoordinatorService: each rpc in its few lines; what takes more has a file of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::diagnose::Pace;
use super::events::{self, Events};
use super::service::{Service, stopped};
use super::{diagnose, explain, faults, health_stream, mesh, orders, reports};
use crate::coordinator::decision::Reply;
use crate::coordinator::input::Input;
use crate::engine;
use crate::engine::watch::RunLog;
use crate::middleware::auth::{Identity, Role};
use crate::middleware::deadline::Deadline;
use crate::proto::v1;
use crate::proto::v1::coordinator_service_server::CoordinatorService;
use crate::status::ApiError;
use crate::types::RunId;
use crate::wire;

/// Bytes of one piece of a report.
const PIECE: usize = 512 * 1024;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// The service.
pub struct Coordination(Arc<Service>, Pace);

impl Coordination {
    /// On this server's coordinator.
    pub fn new(service: Arc<Service>) -> Self {
        Self(service, Pace::default())
    }

    async fn watch(&self, run: &RunId, after: u64) -> Result<(u64, Events), ApiError> {
        let log = self.log(run)?;
        let newest = log.newest();
        if after > newest {
            return Err(ApiError::OutOfRange {
                reason: "SEQUENCE_NOT_REACHED",
                message: format!("run `{run}` has {newest} events; after_sequence is {after}"),
                metadata: vec![("newest_sequence", newest.to_string())],
            });
        }
        // Also asked for by the stream; but an error at once is worth more than one in it.
        log.after(after, 0).map_err(|gone| events::expired(run, after, gone))?;
        let epoch = self.0.engine.epoch().0;
        Ok((epoch, events::stream(self.0.clone(), run.clone(), log, after)))
    }

    fn log(&self, run: &RunId) -> Result<Arc<RunLog>, ApiError> {
        let unknown = || ApiError::NotFound { resource_type: "run", name: run.to_string() };
        self.0.engine.logs().get(run).ok_or_else(unknown)
    }

    async fn run(&self, id: RunId) -> Result<v1::Run, ApiError> {
        let asked = id.clone();
        self.0
            .ask(move |core, _| {
                let run = core.state().runs.get(&id)?;
                Some(wire::run::run(&id, run, &engine::progress(core, &id)))
            })
            .await?
            .ok_or(ApiError::NotFound { resource_type: "run", name: asked.to_string() })
    }
}

/// Who calls, as the auth layer found out.
fn caller<T>(request: &Request<T>) -> Identity {
    request.extensions().get::<Identity>().cloned().unwrap_or_else(|| Identity {
        name: "anonymous".into(),
        role: Role::Reader,
        authenticated: false,
    })
}

/// A run's id as a client gave it. What cannot be an id cannot be a run either.
pub(super) fn run_id(text: &str) -> Result<RunId, ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid("run_id", "is needed; ListRuns tells the ids of all runs"));
    }
    RunId::new(text).map_err(|_| ApiError::NotFound { resource_type: "run", name: text.to_owned() })
}

#[tonic::async_trait]
impl CoordinatorService for Coordination {
    type CoordinateStream = Stream<v1::CoordinateResponse>;
    type WatchRunStream = Stream<v1::WatchRunResponse>;
    type DownloadReportStream = ReceiverStream<Result<v1::DownloadReportResponse, Status>>;
    type StreamHealthStream = ReceiverStream<Result<v1::StreamHealthResponse, Status>>;

    async fn initialize_mesh(
        &self,
        request: Request<v1::InitializeMeshRequest>,
    ) -> Answer<v1::InitializeMeshResponse> {
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.at);
        Ok(Response::new(mesh::initialize(&self.0, request.into_inner(), deadline).await?))
    }

    async fn coordinate(&self, request: Request<v1::CoordinateRequest>) -> Answer<Self::CoordinateStream> {
        let caller = caller(&request);
        let request = request.into_inner();
        let leashed = request.cancel_on_disconnect.then(|| orders::disconnect_grace(&request));
        let run = orders::start(&self.0, &caller, request).await?;
        let (epoch, events) = self.watch(&run, 0).await?;
        let leash = leashed.map(|grace| Leash { service: self.0.clone(), run, grace });
        let stream = events.map(move |event| {
            // Owned by the stream: dropped when the client lets go of it.
            let _held = &leash;
            event.map(|event| v1::CoordinateResponse { event: Some(event), epoch })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn start_run(&self, request: Request<v1::StartRunRequest>) -> Answer<v1::StartRunResponse> {
        let caller = caller(&request);
        let request = request.into_inner();
        let request = v1::CoordinateRequest {
            request_id: request.request_id,
            project: request.project,
            workspace: request.workspace,
            tools: request.tools,
            timeout: request.timeout,
            environment: request.environment,
            severities: request.severities,
            priority: request.priority,
            supersede_key: request.supersede_key,
            cancel_on_disconnect: false,
            disconnect_grace: None,
        };
        let run = orders::start(&self.0, &caller, request).await?;
        Ok(Response::new(v1::StartRunResponse { run: Some(self.run(run).await?) }))
    }

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Answer<Self::WatchRunStream> {
        let request = request.into_inner();
        let (epoch, events) = self.watch(&run_id(&request.run_id)?, request.after_sequence).await?;
        let stream =
            events.map(move |event| event.map(|event| v1::WatchRunResponse { event: Some(event), epoch }));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Answer<v1::GetRunResponse> {
        let run = self.run(run_id(&request.into_inner().run_id)?).await?;
        Ok(Response::new(v1::GetRunResponse { run: Some(run) }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Answer<v1::ListRunsResponse> {
        Ok(Response::new(super::pages::list(&self.0, request.into_inner()).await?))
    }

    async fn cancel_run(&self, request: Request<v1::CancelRunRequest>) -> Answer<v1::CancelRunResponse> {
        let caller = caller(&request);
        let run = run_id(&request.into_inner().run_id)?;
        let reason = format!("cancelled by {}", caller.name);
        self.0.stores_facts()?;
        let input = Input::CancelRun { run: run.clone(), reason };
        if let Reply::Refused(refusal) = self.0.engine.decide_while_awaited(input).await.map_err(stopped)? {
            return Err(orders::refused(refusal).into());
        }
        Ok(Response::new(v1::CancelRunResponse { run: Some(self.run(run).await?) }))
    }

    async fn download_report(
        &self,
        request: Request<v1::DownloadReportRequest>,
    ) -> Answer<Self::DownloadReportStream> {
        let request = request.into_inner();
        let Ok(format) = v1::ReportFormat::try_from(request.format) else {
            let text = format!("{} is not a known report format", request.format);
            return Err(ApiError::invalid("format", text).into());
        };
        let report = reports::render(&self.0, &run_id(&request.run_id)?, format).await?;
        let (client, pieces) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            for piece in report.chunks(PIECE) {
                if client.send(Ok(v1::DownloadReportResponse { data: piece.to_vec() })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(pieces.into()))
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Answer<v1::ExplainTaskResponse> {
        Ok(Response::new(explain::explain(&self.0, request.into_inner()).await?))
    }

    async fn diagnose(&self, request: Request<v1::DiagnoseRequest>) -> Answer<v1::DiagnoseResponse> {
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.at);
        Ok(Response::new(diagnose::diagnose(&self.0, &self.1, request.into_inner(), deadline).await?))
    }

    async fn get_mesh_status(
        &self,
        _: Request<v1::GetMeshStatusRequest>,
    ) -> Answer<v1::GetMeshStatusResponse> {
        Ok(Response::new(mesh::status(&self.0).await?))
    }

    async fn stream_health(
        &self,
        request: Request<v1::StreamHealthRequest>,
    ) -> Answer<Self::StreamHealthStream> {
        Ok(Response::new(health_stream::open(self.0.clone(), request.into_inner())?))
    }

    async fn handle_fault(
        &self,
        request: Request<v1::HandleFaultRequest>,
    ) -> Answer<v1::HandleFaultResponse> {
        Ok(Response::new(faults::handle(&self.0, request.into_inner()).await?))
    }
}

/// Cancels a run some time after it is dropped, if the run has not ended and nobody watches it then. Not if the server stops:
/// then it was the server that ended the stream, and the run goes on with the next one.
struct Leash {
    service: Arc<Service>,
    run: RunId,
    /// How long its client may take to come back.
    grace: Duration,
}

impl Drop for Leash {
    fn drop(&mut self) {
        let (service, run, grace) = (self.service.clone(), self.run.clone(), self.grace);
        tokio::spawn(async move {
            let wait = tokio::time::sleep(grace);
            if service.stopping.run_until_cancelled(wait).await.is_none() {
                return;
            }
            if service.engine.logs().get(&run).is_none_or(|log| log.is_watched()) {
                return;
            }
            let reason = "its client went away and had asked for cancel_on_disconnect".to_owned();
            // A stopped coordinator runs nothing any more; an ended run stays as it is.
            let _ = service.engine.decide(Input::CancelRun { run, reason }).await;
        });
    }
}
