//! ListRuns: newest first, in pages.

use super::service::Service;
use crate::engine;
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation};
use crate::types::RunId;
use crate::wire;

/// Runs on a page if the client does not say.
const DEFAULT_PAGE: usize = 50;
/// Runs on a page at most.
const MAX_PAGE: usize = 500;

/// Bytes of a page, about half of what the protocol promises as the most; the first run of a page is always on it.
const PAGE_BYTES: usize = 512 * 1024;

/// How many runs of these sizes go on one page.
fn fitting(sizes: impl Iterator<Item = usize>, most: usize) -> usize {
    let mut bytes = 0;
    let fits = |length: &usize| {
        bytes += length;
        bytes <= PAGE_BYTES
    };
    sizes.take(most).take_while(fits).count().max(1)
}

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
    let mut moment = |field: &'static str, time: Option<prost_types::Timestamp>| {
        let time = time?;
        let moment = wire::time::moment(time);
        if moment.is_none() {
            let (seconds, nanos) = (time.seconds, time.nanos);
            let text = format!(
                "{seconds} s and {nanos} ns is no time; use one of the years 1 to 9999 with 0 to 999,999,999 ns"
            );
            bad.push(FieldViolation::new(field, text));
        }
        moment
    };
    let since = moment("started_after", request.started_after);
    let until = moment("started_before", request.started_before);
    let ordered = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
    if let (Some(_), Some(_)) = (since, until)
        && ordered(request.started_before) <= ordered(request.started_after)
    {
        let text = "must be later than started_after: no run starts in an empty time";
        bad.push(FieldViolation::new("started_before", text));
    }
    if !bad.is_empty() {
        return Err(ApiError::InvalidArgument(bad));
    }
    service
        .ask(move |core, _| {
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
                .filter(|(_, run)| {
                    since.is_none_or(|since| run.started_at >= since)
                        && until.is_none_or(|until| run.started_at < until)
                })
                .take(size + 1)
                .map(|(id, run)| wire::run::run(id, run, &engine::progress(core, id)))
                .collect();
            let kept = fitting(page.iter().map(prost::Message::encoded_len), size);
            let more = page.len() > kept;
            page.truncate(kept);
            let last = page.last().filter(|_| more);
            let next_page_token = last.map(|run| run.run_id.clone()).unwrap_or_default();
            v1::ListRunsResponse { runs: page, next_page_token }
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded_in_runs_and_in_bytes_and_always_goes_on() {
        let page = |sizes: &[usize], most| fitting(sizes.iter().copied(), most);
        assert_eq!(page(&[1000; 20], 50), 20);
        assert_eq!(page(&[1000; 51], 50), 50);
        assert_eq!(page(&[100 << 10; 20], 50), 5);
        assert_eq!(page(&[2 << 20, 10], 50), 1, "else the next page would be the same one");
    }
}
