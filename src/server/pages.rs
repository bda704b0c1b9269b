//! ListRuns: newest first, in pages.

use super::service::{Service, stopped};
use crate::engine;
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation};
use crate::types::RunId;
use crate::wire;

/// Runs on a page if the client does not say.
const DEFAULT_PAGE: usize = 50;
/// Runs on a page at most.
const MAX_PAGE: usize = 500;

/// One page. The token is the last run of the page before, so that runs that start meanwhile shift nothing.
pub async fn list(service: &Service, request: v1::ListRunsRequest) -> Result<v1::ListRunsResponse, ApiError> {
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
        "" => None,
        token => RunId::new(token)
            .map_err(|_| {
                let text = "is not a token that ListRuns gave; start at the first page";
                bad.push(FieldViolation::new("page_token", text));
            })
            .ok(),
    };
    let state = v1::RunState::try_from(request.state).unwrap_or_else(|_| {
        bad.push(FieldViolation::new("state", format!("{} is not a known state", request.state)));
        v1::RunState::Unspecified
    });
    if !bad.is_empty() {
        return Err(ApiError::InvalidArgument(bad));
    }
    service
        .engine
        .query(move |core, _| {
            let order = &core.state().order;
            // The token's run may have been forgotten meanwhile; ids sort by the time of their requests, which is
            // near enough to the order of the starts.
            let older = match &after {
                None => order.len(),
                Some(after) => order
                    .iter()
                    .position(|id| id == after)
                    .unwrap_or_else(|| order.partition_point(|id| id < after)),
            };
            let mut page: Vec<v1::Run> = order
                .range(..older)
                .rev()
                .filter_map(|id| core.state().runs.get_key_value(id))
                .filter(|(_, run)| request.project.is_empty() || run.order.project == request.project)
                .filter(|(_, run)| match state {
                    v1::RunState::Unspecified => true,
                    v1::RunState::Open => run.is_open(),
                    v1::RunState::Finished => !run.is_open(),
                })
                .take(size + 1)
                .map(|(id, run)| wire::run::run(id, run, &engine::progress(core, id)))
                .collect();
            let more = page.len() > size;
            page.truncate(size);
            let last = page.last().filter(|_| more);
            let next_page_token = last.map(|run| run.run_id.clone()).unwrap_or_default();
            v1::ListRunsResponse { runs: page, next_page_token }
        })
        .await
        .map_err(stopped)
}
