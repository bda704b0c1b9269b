//! Waits for a mesh that is ready, whatever is not there yet.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use super::screen::is_ready;
use crate::cli::connect::ServerArgs;
use crate::cli::error::{ConnectError, UsageError};
use crate::proto::v1::GetMeshStatusResponse;

/// Between two looks.
const POLL: Duration = Duration::from_millis(250);

/// The status once it is ready, or the last one when the time is over. If there was none by then: what was in the way.
pub(super) async fn until_ready(
    server: &ServerArgs,
    limit: Duration,
) -> anyhow::Result<GetMeshStatusResponse> {
    let deadline = Instant::now() + limit;
    let mut last: Option<anyhow::Result<GetMeshStatusResponse>> = None;
    loop {
        let look = async { super::ask(&server.connect().await?).await };
        match timeout_at(deadline, look).await {
            Ok(Ok(status)) if is_ready(&status) => return Ok(status),
            Ok(Ok(status)) => last = Some(Ok(status)),
            // The server may be about to start, or to start again.
            Ok(Err(error)) if may_pass(&error) => last = Some(Err(error)),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        if timeout_at(deadline, sleep(POLL)).await.is_err() {
            let nothing = || Err(UsageError(format!("no answer within {} s", limit.as_secs_f64())).into());
            return last.unwrap_or_else(nothing);
        }
    }
}

/// Whether trying again can help; a wrong token or URL will be as wrong later.
fn may_pass(error: &anyhow::Error) -> bool {
    let status = error.chain().find_map(|cause| cause.downcast_ref::<Status>());
    match status.map(Status::code) {
        // Of a connection in plain text to a server that wants TLS.
        Some(_) if error.chain().any(|cause| cause.is::<ConnectError>()) => false,
        Some(code) => matches!(
            code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Unknown
                | Code::Cancelled
        ),
        None => error.is::<ConnectError>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::connect::Trouble;

    #[test]
    fn only_what_may_pass_is_waited_for() {
        let refused = ConnectError { url: "http://h:1".into(), trouble: Trouble::silence() };
        let in_a_call = Status::from_error(Box::new(refused.clone()));
        assert!(!may_pass(&in_a_call.into()));
        assert!(may_pass(&refused.into()));
        assert!(may_pass(&anyhow::Error::from(Status::unavailable("starting")).context("asking")));
        assert!(!may_pass(&Status::unauthenticated("no token").into()));
        assert!(!may_pass(&UsageError("bad URL".into()).into()));
    }
}
