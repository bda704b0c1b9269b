//! The one place where an error becomes a gRPC status.
//!
//! Every status carries an `ErrorInfo` whose (reason, domain) clients may rely on, and every value of
//! the message is in its metadata too (AIP-193), so nobody has to parse text.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every [`tonic_types::ErrorInfo`] of this service.
pub const DOMAIN: &str = "lintmesh";

/// One request field that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, for example `workspace.inline.files[3].path`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub description: String,
}

impl FieldViolation {
    /// Names one bad field.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// One condition of the service's state that the request needs and that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// Kind of the condition, UPPER_SNAKE, for example `BLOB_MISSING`; the first one's is the error's reason.
    pub kind: &'static str,
    /// What it is about, for example a digest.
    pub subject: String,
    /// What must be done first.
    pub description: String,
}

/// Less room than is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that must be (`state.min_free_bytes`).
    pub needed: u64,
}

/// Everything the API can answer instead of a result; the variant says what the caller can do about it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The request itself is wrong; repeating it will not help. All bad fields are named at once.
    #[error("{}", invalid_argument_text(.0))]
    InvalidArgument(Vec<FieldViolation>),
    /// An id that makes requests idempotent was used before, with another body.
    #[error("{field} `{id}` was used before for another request; use a new one")]
    IdReused {
        /// The field, `request_id` or `fault_id`.
        field: &'static str,
        /// Its value.
        id: String,
    },
    /// The named thing does not exist.
    #[error("{resource_type} `{name}` does not exist")]
    NotFound {
        /// For example `node`, `run`, `blob`.
        resource_type: &'static str,
        /// As the caller named it.
        name: String,
    },
    /// The named thing exists, and what was offered cannot take its place.
    #[error("{message}")]
    AlreadyExists {
        /// UPPER_SNAKE, for example `STALE_INCARNATION`.
        reason: &'static str,
        /// What is there and what was offered.
        message: String,
        /// For example `node`.
        resource_type: &'static str,
        /// As the caller named it.
        name: String,
    },
    /// Something else must be done first.
    #[error("{}", precondition_text(.0))]
    FailedPrecondition(Vec<Precondition>),
    /// A limit is reached; the same request can succeed later.
    #[error("too many {what}: the limit is {limit}; try again later")]
    ResourceExhausted {
        /// What there is too much of, for example `requests in flight`.
        what: &'static str,
        /// The limit in force.
        limit: u64,
        /// After which time trying again makes sense.
        retry: Duration,
    },
    /// There is too little room on a disk; the same request can succeed when there is more.
    #[error("{}", disk_full_text(what, setting, *.shortage))]
    DiskFull {
        /// What is kept there, for example `blobs`.
        what: &'static str,
        /// The setting that names the folder.
        setting: &'static str,
        /// How much is free; none if there is nothing left at all.
        shortage: Option<Shortage>,
        /// After which time trying again makes sense.
        retry: Duration,
    },
    /// The service, or a part that it needs, cannot answer now; the same request can succeed later.
    #[error("{message}")]
    Unavailable {
        /// UPPER_SNAKE, for example `CIRCUIT_OPEN`, `SERVER_STOPPING`.
        reason: &'static str,
        /// What is unavailable and why.
        message: String,
        /// After which time trying again makes sense.
        retry: Duration,
    },
    /// There are no credentials, or they are not known.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The caller is known and may not do this.
    #[error("`{identity}` has the role {role}; {method} needs {needed}")]
    PermissionDenied {
        /// Name of the caller's token.
        identity: String,
        /// Its role.
        role: &'static str,
        /// The method's path.
        method: String,
        /// The least role that may call it.
        needed: &'static str,
    },
    /// The request points outside what is still, or already, there.
    #[error("{message}")]
    OutOfRange {
        /// UPPER_SNAKE, for example `POSITION_EXPIRED`.
        reason: &'static str,
        /// What the range is.
        message: String,
        /// For example `oldest_sequence`.
        metadata: Vec<(&'static str, String)>,
    },
    /// The call lost against something concurrent; the caller must repeat the whole step.
    #[error("{message}")]
    Aborted {
        /// UPPER_SNAKE, for example `SLOW_CONSUMER`.
        reason: &'static str,
        /// What happened.
        message: String,
        /// For example the point at which to resume.
        metadata: Vec<(&'static str, String)>,
    },
    /// The call took longer than its deadline allows.
    #[error("the deadline of {} s is exceeded", .allowed.as_secs_f64())]
    DeadlineExceeded {
        /// How long the call was allowed to take.
        allowed: Duration,
    },
    /// The gRPC library could not take the call, so no handler saw it.
    #[error("{message}")]
    Protocol {
        /// The code.
        code: Code,
        /// UPPER_SNAKE, for example `MESSAGE_TOO_LARGE`.
        reason: &'static str,
        /// What is wrong with the call.
        message: String,
        /// For example the limit.
        metadata: Vec<(&'static str, String)>,
    },
    /// A bug. The text tells no internals; the logs have them under the request id.
    #[error("internal error; the logs have the details under request id {request_id}")]
    Internal {
        /// The request's id. Empty where the error arises: the layer that knows the id fills it in.
        request_id: String,
    },
}

fn invalid_argument_text(violations: &[FieldViolation]) -> String {
    let fields: Vec<_> = violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    format!("the request is not valid: {}", fields.join("; "))
}

fn precondition_text(conditions: &[Precondition]) -> String {
    let texts: Vec<_> = conditions.iter().map(|c| format!("{}: {}", c.subject, c.description)).collect();
    format!("a precondition does not hold: {}", texts.join("; "))
}

fn disk_full_text(what: &str, setting: &str, shortage: Option<Shortage>) -> String {
    let missing = match shortage {
        None => format!("there is no space left where {what} are kept"),
        Some(Shortage { free, needed }) => format!(
            "only {free} bytes are free where {what} are kept; new runs need {needed} (state.min_free_bytes)"
        ),
    };
    format!("{missing}: free some space there, or choose another folder with {setting}")
}

/// Details travel in one response header, and gRPC clients may refuse more than 8 KiB of headers: longer
/// lists are cut to this many bytes, and the metadata says how long they were.
const MAX_DETAILS_BYTES: usize = 4096;

/// For the same reason; a header's non-ASCII bytes take three each.
const MAX_MESSAGE_BYTES: usize = 1024;

impl ApiError {
    /// Names one bad field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        ApiError::InvalidArgument(vec![FieldViolation::new(field, description)])
    }

    /// The reason that goes into `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        self.classify().1
    }

    /// The gRPC code, and the reason that goes into `ErrorInfo`.
    fn classify(&self) -> (Code, &'static str) {
        match self {
            ApiError::InvalidArgument(_) => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            ApiError::IdReused { .. } => (Code::InvalidArgument, "REQUEST_ID_REUSED"),
            ApiError::NotFound { .. } => (Code::NotFound, "RESOURCE_NOT_FOUND"),
            ApiError::AlreadyExists { reason, .. } => (Code::AlreadyExists, reason),
            ApiError::FailedPrecondition(conditions) => {
                (Code::FailedPrecondition, conditions.first().map_or("PRECONDITION_FAILED", |c| c.kind))
            }
            ApiError::ResourceExhausted { .. } => (Code::ResourceExhausted, "LIMIT_REACHED"),
            ApiError::DiskFull { .. } => (Code::ResourceExhausted, "DISK_FULL"),
            ApiError::Unavailable { reason, .. } => (Code::Unavailable, reason),
            ApiError::Unauthenticated(_) => (Code::Unauthenticated, "CREDENTIALS_REFUSED"),
            ApiError::PermissionDenied { .. } => (Code::PermissionDenied, "ROLE_TOO_LOW"),
            ApiError::OutOfRange { reason, .. } => (Code::OutOfRange, reason),
            ApiError::Aborted { reason, .. } => (Code::Aborted, reason),
            ApiError::DeadlineExceeded { .. } => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            ApiError::Protocol { code, reason, .. } => (*code, reason),
            ApiError::Internal { .. } => (Code::Internal, "INTERNAL"),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let pairs: Vec<(&str, String)> = match self {
            ApiError::NotFound { resource_type, name }
            | ApiError::AlreadyExists { resource_type, name, .. } => {
                vec![("resource_type", (*resource_type).to_owned()), ("name", name.clone())]
            }
            ApiError::ResourceExhausted { what, limit, .. } => {
                vec![("what", (*what).to_owned()), ("limit", limit.to_string())]
            }
            ApiError::PermissionDenied { identity, role, method, needed } => vec![
                ("identity", identity.clone()),
                ("role", (*role).to_owned()),
                ("method", method.clone()),
                ("needed", (*needed).to_owned()),
            ],
            ApiError::OutOfRange { metadata, .. }
            | ApiError::Aborted { metadata, .. }
            | ApiError::Protocol { metadata, .. } => metadata.clone(),
            ApiError::DeadlineExceeded { allowed } => {
                vec![("allowed_seconds", allowed.as_secs_f64().to_string())]
            }
            ApiError::Internal { request_id } => vec![("request_id", request_id.clone())],
            ApiError::IdReused { field, id } => vec![(*field, id.clone())],
            ApiError::InvalidArgument(violations) => vec![("violations", violations.len().to_string())],
            ApiError::FailedPrecondition(conditions) => vec![("violations", conditions.len().to_string())],
            ApiError::DiskFull { what, setting, shortage, .. } => {
                let place = [("what", (*what).to_owned()), ("setting", (*setting).to_owned())];
                let bytes = shortage.map(|Shortage { free, needed }| {
                    [("free_bytes", free.to_string()), ("needed_bytes", needed.to_string())]
                });
                place.into_iter().chain(bytes.into_iter().flatten()).collect()
            }
            ApiError::Unavailable { .. } | ApiError::Unauthenticated(_) => Vec::new(),
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), shortened(value, 256))).collect()
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        let (code, reason) = error.classify();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, error.metadata());
        let message = shortened(error.to_string(), MAX_MESSAGE_BYTES);
        match error {
            ApiError::InvalidArgument(violations) => {
                let pairs = violations.into_iter().map(|v| (v.field, v.description));
                for (field, description) in within_budget(pairs) {
                    details.add_bad_request_violation(field, description);
                }
            }
            ApiError::IdReused { field, .. } => {
                details.add_bad_request_violation(field, message.clone());
            }
            ApiError::NotFound { resource_type, name }
            | ApiError::AlreadyExists { resource_type, name, .. } => {
                details.set_resource_info(resource_type, shortened(name, 256), "", message.clone());
            }
            ApiError::FailedPrecondition(conditions) => {
                let kinds: Vec<_> = conditions.iter().map(|c| c.kind).collect();
                let pairs = conditions.into_iter().map(|c| (c.subject, c.description));
                for (kind, (subject, description)) in kinds.into_iter().zip(within_budget(pairs)) {
                    details.add_precondition_failure_violation(kind, subject, description);
                }
            }
            ApiError::ResourceExhausted { retry, .. }
            | ApiError::DiskFull { retry, .. }
            | ApiError::Unavailable { retry, .. } => {
                details.set_retry_info(Some(retry));
            }
            ApiError::Unauthenticated(_)
            | ApiError::PermissionDenied { .. }
            | ApiError::OutOfRange { .. }
            | ApiError::Aborted { .. }
            | ApiError::DeadlineExceeded { .. }
            | ApiError::Protocol { .. }
            | ApiError::Internal { .. } => {}
        }
        Status::with_error_details(code, message, details)
    }
}

/// The first of `pairs` that fit the header together, each shortened.
fn within_budget(pairs: impl Iterator<Item = (String, String)>) -> impl Iterator<Item = (String, String)> {
    // What protobuf adds to two strings, at most.
    const FRAMING: usize = 16;
    let mut left = MAX_DETAILS_BYTES;
    pairs.map(|(subject, text)| (shortened(subject, 256), shortened(text, 256))).take_while(
        move |(subject, text)| {
            let size = subject.len() + text.len() + FRAMING;
            let fits = size <= left;
            left = left.saturating_sub(size);
            fits
        },
    )
}

fn shortened(mut text: String, most_bytes: usize) -> String {
    if text.len() > most_bytes {
        text.truncate(text.floor_char_boundary(most_bytes - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
