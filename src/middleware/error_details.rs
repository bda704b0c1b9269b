//! Details for the errors that the gRPC library makes itself, so that every error of the service has an `ErrorInfo`.
//!
//! Handlers and layers answer by [`ApiError`], which has them. What is left are calls that never reached a handler: a
//! method that does not exist, a message that is too large or cannot be read. And an error in here names the request id
//! under which the logs tell of it: whoever finds one need not know the id.

use std::task::{Context, Poll};

use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

use super::CallFuture;
use super::request_id::RequestId;
use crate::status::{ApiError, DOMAIN};

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
        let id = request.extensions().get::<RequestId>().cloned();
        let call = self.inner.call(request);
        Box::pin(async move {
            let mut response = call.await?;
            if response.headers().contains_key(DETAILS_HEADER) {
                name_request(response.headers_mut(), id.as_ref());
                return Ok(response);
            }
            // A status in the head is that of a call without any answer; later ones are always a handler's.
            match Status::from_header_map(response.headers()) {
                Some(status) if status.code() != Code::Ok => {
                    Ok(Status::from(explained(&status, &path, limit)).into_http())
                }
                // The status of a stream that has begun is in its trailers.
                _ => Ok(response.map(|body| {
                    Body::new(body.map_frame(move |frame| match frame.into_trailers() {
                        Ok(mut trailers) => {
                            name_request(&mut trailers, id.as_ref());
                            Frame::trailers(trailers)
                        }
                        Err(frame) => frame,
                    }))
                })),
            }
        })
    }
}

/// Puts the request's id into the status that `headers` carry, if it is that of an error in here.
fn name_request(headers: &mut HeaderMap, id: Option<&RequestId>) {
    let Some(id) = id else { return };
    let Some(status) = Status::from_header_map(headers).filter(|status| status.code() == Code::Internal)
    else {
        return;
    };
    let details = status.get_error_details();
    let named = ApiError::Internal { request_id: id.as_str().to_owned() };
    if details
        .error_info()
        .is_none_or(|info| (info.domain.as_str(), info.reason.as_str()) != (DOMAIN, named.reason()))
    {
        return;
    }
    // Whatever else is logged of it, there is a line with the id.
    tracing::error!(request_id = id.as_str(), "the call was answered with an internal error");
    if let Err(error) = Status::from(named).add_header(headers) {
        tracing::error!(%error, "a status could not be written");
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
    use super::super::testing::{answer, data, head_status, request, streaming_answer, trailer_status};
    use super::*;
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

    /// What a caller with a request id is told of an error, in the head or after a message.
    async fn told(error: ApiError, in_stream: bool) -> Status {
        let service = ErrorDetailsLayer::new(77).layer(tower::service_fn(move |_: Request<Body>| {
            let status = Status::from(error.clone());
            std::future::ready(Ok::<_, std::convert::Infallible>(if in_stream {
                let (sender, response) = streaming_answer();
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers).expect("valid");
                for frame in [data(), Frame::trailers(trailers)] {
                    sender.send(frame).expect("open");
                }
                response
            } else {
                status.into_http()
            }))
        }));
        let mut call = request("/x.Y/Get");
        call.extensions_mut().insert(RequestId::from_caller("job-7").expect("sane"));
        let response = service.oneshot(call).await.expect("infallible");
        if in_stream { trailer_status(response).await.expect("trailers") } else { head_status(&response) }
    }

    #[tokio::test]
    async fn an_internal_error_names_its_request() {
        for in_stream in [false, true] {
            let status = told(ApiError::Internal { request_id: String::new() }, in_stream).await;
            let text = "internal error; the logs have the details under request id job-7";
            assert_eq!((status.code(), status.message()), (Code::Internal, text));
            let details = status.get_error_details();
            assert_eq!(details.error_info().expect("info").metadata["request_id"], "job-7");
            let other = ApiError::NotFound { resource_type: "run", name: "r".into() };
            assert_eq!(told(other, in_stream).await.message(), "run `r` does not exist");
        }
    }
}
