//! ExplainTask: why the tasks of a run are where they are.

use std::collections::BTreeSet;

use prost::Message as _;

use super::coordinator::run_id;
use super::service::Service;
use crate::coordinator::history;
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation};
use crate::types::TaskId;
use crate::wire;

/// Tasks on a page if the client does not say.
const DEFAULT_PAGE: usize = 50;
/// Tasks on a page at most.
const MAX_PAGE: usize = 200;
/// Bytes of a page, about half of what the protocol promises as the most; the first task of a page is always on it.
const PAGE_BYTES: usize = 512 * 1024;

/// One task, or a page of those that are not over.
pub async fn explain(
    service: &Service,
    request: v1::ExplainTaskRequest,
) -> Result<v1::ExplainTaskResponse, ApiError> {
    let mut bad = Vec::new();
    let size = match usize::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => {
            let text = format!("is {}; it must not be negative", request.page_size);
            bad.push(FieldViolation::new("page_size", text));
            DEFAULT_PAGE
        }
    };
    let after = match request.page_token.as_str() {
        "" => TaskId(0),
        token => TaskId(token.parse().unwrap_or_else(|_| {
            let text = "is not a token that ExplainTask gave; start at the first page";
            bad.push(FieldViolation::new("page_token", text));
            0
        })),
    };
    let run = match run_id(&request.run_id) {
        Ok(run) if bad.is_empty() => run,
        Ok(_) => return Err(ApiError::InvalidArgument(bad)),
        Err(ApiError::InvalidArgument(problems)) => {
            bad.extend(problems);
            return Err(ApiError::InvalidArgument(bad));
        }
        Err(unknown) if bad.is_empty() => return Err(unknown),
        Err(_) => return Err(ApiError::InvalidArgument(bad)),
    };
    let task = (request.task_id != 0).then_some(TaskId(request.task_id));
    let asked = run.clone();
    let (told, budget, now, known) = service
        .ask(move |core, now| {
            let told = core.explain(now.tick, &asked, task, after, size);
            let known = core.state().runs.contains_key(&asked);
            (told, core.settings().max_retry_attempts, now, known)
        })
        .await?;
    let Some(told) = told else {
        return Err(match task {
            Some(task) if known => {
                ApiError::NotFound { resource_type: "task", name: format!("{run}/{task}") }
            }
            _ => ApiError::NotFound { resource_type: "run", name: run.to_string() },
        });
    };
    let numbers: BTreeSet<TaskId> = told.tasks.iter().map(|task| task.task.id).collect();
    let log = service.engine.logs().get(&run).map(|log| log.kept()).unwrap_or_default();
    let attempts = history::attempts(log.iter().map(|logged| (logged.at, &logged.event)), &numbers);
    let mut tasks = Vec::new();
    let mut bytes = 0;
    let mut has_more = told.has_more;
    for task in &told.tasks {
        let of = attempts.get(&task.task.id).map(Vec::as_slice).unwrap_or_default();
        let message = wire::explain::task(task, of, budget, now.tick);
        bytes += message.encoded_len();
        if bytes > PAGE_BYTES && !tasks.is_empty() {
            has_more = true;
            break;
        }
        tasks.push(message);
    }
    let last = tasks.last().and_then(|task: &v1::TaskExplanation| task.task.as_ref()).filter(|_| has_more);
    let state = if told.is_open { v1::RunState::Open } else { v1::RunState::Finished };
    Ok(v1::ExplainTaskResponse {
        run_id: run.to_string(),
        state: state.into(),
        unfinished_tasks: u32::try_from(told.unfinished).unwrap_or(u32::MAX),
        pending_stages: told.pending.iter().map(wire::explain::pending_stage).collect(),
        next_page_token: last.map(|task| task.task_id.to_string()).unwrap_or_default(),
        tasks,
    })
}
