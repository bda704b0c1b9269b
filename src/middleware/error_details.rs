//! Details for the errors that the gRPC library makes itself, so that every error of the service has an `ErrorInfo`.
//!
//! Handlers and layers answer by [`ApiError`], which has them. What is left are calls that never reached a handler: a
//! method that does not exist, a message that is too large or cannot be read.

use std::task::{Context, Poll};

use http::Request;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::CallFuture;
use crate::status::ApiError;

const DETAILS_HEADER: &str = "grpc-status-details-bin";

/// Adds the details.
#[derive(Debug, Clone, Copy)]
pub struct ErrorDetailsLayer {
    max_message_bytes: u64,
}

impl ErrorDetailsLayer {
    /// Tells callers whose messages are too large that this is the limit.
    pub const fn new(max_message_bytes: u64) -> Self {
        Self { max_message_bytes }
    }
}

impl<S> Layer<S> for ErrorDetailsLayer {
    type Service = WithErrorDetails<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithErrorDetails { inner, max_message_bytes: self.max_message_bytes }
    }
}

/// The service of [`ErrorDetailsLayer`].
#[derive(Debug, Clone)]
pub struct WithErrorDetails<S> {
    inner: S,
    max_message_bytes: u64,
}

impl<S, B> Service<Request<B>> for WithErrorDetails<S>
where
    S: Service<Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = CallFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let limit = self.max_message_bytes;
        let call = self.inner.call(request);
        Box::pin(async move {
            let response = call.await?;
            if response.headers().contains_key(DETAILS_HEADER) {
                return Ok(response);
            }
            // A status in the head is that of a call without any answer; later ones are always a handler's.
            match Status::from_header_map(response.headers()) {
                Some(status) if status.code() != Code::Ok => {
                    Ok(Status::from(explained(&status, &path, limit)).into_http())
                }
                _ => Ok(response),
            }
        })
    }
}

/// What the library's error means to the caller.
fn explained(status: &Status, path: &str, max_message_bytes: u64) -> ApiError {
    let protocol = |code, reason, message| ApiError::Protocol { code, reason, message, metadata: Vec::new() };
    match status.code() {
        Code::Unimplemented => {
            let message = format!("this server has no method {path}; reflection lists those it has");
            protocol(Code::Unimplemented, "METHOD_UNKNOWN", message)
        }
        // The library's decoder says this only of a message over its limit.
        Code::OutOfRange => ApiError::Protocol {
            code: Code::ResourceExhausted,
            reason: "MESSAGE_TOO_LARGE",
            message: format!(
                "the message is too large: at most {max_message_bytes} bytes are taken (server.max_message_bytes)"
            ),
            metadata: vec![("limit", max_message_bytes.to_string())],
        },
        // And this only of bytes that are no message: the caller's fault, not an error in here.
        Code::Internal => {
            let message = format!("the request cannot be read: {}", status.message());
            protocol(Code::InvalidArgument, "MESSAGE_UNREADABLE", message)
        }
        Code::NotFound => protocol(Code::NotFound, "RESOURCE_NOT_FOUND", status.message().to_owned()),
        code => protocol(code, "CALL_REFUSED", status.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, head_status, request};
    use super::*;
    use tonic_types::StatusExt as _;
    use tower::ServiceExt as _;

    async fn through(response: impl Fn() -> http::Response<Body> + Clone + Send + 'static) -> Status {
        let service = ErrorDetailsLayer::new(77).layer(tower::service_fn(move |_: Request<Body>| {
            let response = response();
            async move { Ok::<_, std::convert::Infallible>(response) }
        }));
        head_status(&service.oneshot(request("/x.Y/Get")).await.expect("infallible"))
    }

    #[tokio::test]
    async fn errors_of_the_library_get_a_reason_and_others_stay_as_they_are() {
        for (code, expected, reason) in [
            (Code::Unimplemented, Code::Unimplemented, "METHOD_UNKNOWN"),
            (Code::OutOfRange, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            (Code::Internal, Code::InvalidArgument, "MESSAGE_UNREADABLE"),
            (Code::Unknown, Code::Unknown, "CALL_REFUSED"),
        ] {
            let status = through(move || Status::new(code, "text").into_http()).await;
            assert_eq!(status.code(), expected);
            let details = status.get_error_details();
            let info = details.error_info().expect("info");
            assert_eq!((info.domain.as_str(), info.reason.as_str()), ("lintmesh", reason));
        }
        let own = || Status::from(ApiError::Internal { request_id: "r".into() }).into_http();
        assert_eq!(through(own).await.code(), Code::Internal);
        assert_eq!(through(answer).await.code(), Code::Ok);
    }
}
