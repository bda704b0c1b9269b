//! Errors as people read them: what is wrong, where, and what to do, without a stack of internals.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::connect::Trouble;
use crate::middleware::rpc_metrics::code_name;

/// The user asked for something that cannot be; the text says what and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// No connection to a server.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot connect to {url}: {}", trouble.reason)]
pub struct ConnectError {
    /// As the user gave it.
    pub url: String,
    /// Why.
    pub trouble: Trouble,
}

/// The text for standard error: the first line starts with `error: `, details follow indented.
pub fn render(error: &anyhow::Error) -> String {
    let causes: Vec<&(dyn std::error::Error + 'static)> = error.chain().collect();
    if let Some((at, status)) =
        causes.iter().enumerate().find_map(|(at, cause)| Some((at, status_in(*cause)?)))
    {
        let context = causes[..at].iter().map(|cause| format!("{cause}: ")).collect::<String>();
        // Such a status is made on this side, of what stands behind it.
        return match causes.iter().find_map(|cause| cause.downcast_ref::<ConnectError>()) {
            Some(refused) => format!("error: {context}{refused}\n  {}", refused.trouble.remedy),
            None => render_status(&context, status),
        };
    }
    let mut text = format!("error: {}", joined(&causes).trim_end().replace('\n', "\n  "));
    if let Some(hint) = causes.iter().find_map(|cause| hint_for(*cause)) {
        text.push_str("\n  ");
        text.push_str(&hint);
    }
    text
}

/// The status that a cause is; large errors keep theirs in a box.
fn status_in<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Status> {
    cause.downcast_ref::<Status>().or_else(|| Some(cause.downcast_ref::<Box<Status>>()?.as_ref()))
}

/// Causes that repeat what the text before them says are left out.
fn joined(causes: &[&(dyn std::error::Error + 'static)]) -> String {
    let mut text = String::new();
    for cause in causes {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn hint_for(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(refused) = cause.downcast_ref::<ConnectError>() {
        return Some(refused.trouble.remedy.to_owned());
    }
    match cause.downcast_ref::<std::io::Error>()?.kind() {
        std::io::ErrorKind::AddrInUse => {
            Some("another process listens on that port: end it, or choose another address".to_owned())
        }
        _ => None,
    }
}

fn render_status(context: &str, status: &Status) -> String {
    let details = status.get_error_details();
    let mut lines = Vec::new();
    if let Some(bad) = details.bad_request() {
        lines.extend(bad.field_violations.iter().map(|v| format!("{}: {}", v.field, v.description)));
    }
    if let Some(failure) = details.precondition_failure() {
        lines.extend(failure.violations.iter().map(|v| format!("{}: {}", v.subject, v.description)));
    }
    // The message of the service lists the same details in one long line.
    let message = match (status.code(), lines.is_empty()) {
        (Code::InvalidArgument, false) => "the request is not valid",
        (Code::FailedPrecondition, false) => "something must be done first",
        _ if status.message().is_empty() => "the server gave no reason",
        _ => status.message(),
    };
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        lines.push(format!("try again in {} s", delay.as_secs_f64().ceil()));
    }
    if let Some(hint) = status_hint(status.code()) {
        lines.push(hint.to_owned());
    }
    let code = code_name(status.code());
    let reason = details.error_info().map(|info| info.reason.as_str()).filter(|reason| *reason != code);
    let reason = reason.map(|reason| format!(", {reason}")).unwrap_or_default();
    let mut text = format!("error: {context}{message} ({code}{reason})");
    for line in lines {
        text.push_str("\n  ");
        text.push_str(&line.replace('\n', "\n  "));
    }
    text
}

fn status_hint(code: Code) -> Option<&'static str> {
    match code {
        Code::Unauthenticated => Some("pass a token with --token or LINTMESH_TOKEN"),
        Code::PermissionDenied => Some("use a token whose role allows this"),
        Code::Unimplemented => Some("is this a lintmesh server of the same version?"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use anyhow::Context as _;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn every_bad_field_has_its_line_and_the_message_does_not_repeat_them() {
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_ARGUMENT", "lintmesh", HashMap::new());
        details.add_bad_request_violation("tools[0].tool", "`flake9` is no tool; use flake8");
        details.add_bad_request_violation("timeout", "is negative");
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "the request is not valid: tools[0].tool: `flake9` is no tool; use flake8; timeout: is negative",
            details,
        );
        let error = Err::<(), _>(status).context("starting the run").expect_err("an error");
        assert_eq!(
            render(&error),
            "error: starting the run: the request is not valid (INVALID_ARGUMENT)\n  \
             tools[0].tool: `flake9` is no tool; use flake8\n  timeout: is negative"
        );
    }

    #[test]
    fn a_status_in_a_box_is_rendered_like_any_other() {
        #[derive(Debug, thiserror::Error)]
        #[error("starting the run")]
        struct Boxed {
            source: Box<Status>,
        }
        let text = render(&Boxed { source: Box::new(Status::not_found("no such run")) }.into());
        assert_eq!(text, "error: starting the run: no such run (NOT_FOUND)");
    }

    #[test]
    fn a_call_that_met_no_server_is_rendered_as_that() {
        let nobody = ConnectError { url: "http://h:1/".into(), trouble: Trouble::silence() };
        let error = Err::<(), _>(Status::from_error(Box::new(nobody))).context("listing").expect_err("one");
        let text = render(&error);
        let start = "error: listing: cannot connect to http://h:1/: no answer in time\n  is the server";
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn a_refusal_says_when_to_try_again_and_what_to_pass() {
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_millis(1500)));
        let busy = Status::with_error_details(Code::ResourceExhausted, "too many open runs", details);
        let text = render(&busy.into());
        assert_eq!(text, "error: too many open runs (RESOURCE_EXHAUSTED)\n  try again in 2 s");
        let text = render(&Status::unauthenticated("no token").into());
        assert!(text.contains("--token"), "{text}");
    }

    #[test]
    fn common_causes_come_with_a_remedy() {
        let nobody = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let refused = ConnectError { url: "http://h:1".into(), trouble: Trouble::of(&nobody) };
        let text = render(&refused.into());
        assert!(text.starts_with("error: cannot connect to http://h:1: connection refused\n"), "{text}");
        assert!(text.contains("lintmesh serve"), "{text}");
        let taken = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let error = Err::<(), _>(taken).context("cannot listen on 127.0.0.1:1").expect_err("an error");
        assert!(render(&error).contains("choose another address"));
    }
}
