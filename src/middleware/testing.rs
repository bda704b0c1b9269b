//! What the layers' contract tests share: requests, answers and bodies made by hand.

use std::convert::Infallible;

use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status};

pub(super) fn request(path: &str) -> http::Request<Body> {
    http::Request::builder().uri(path).body(Body::empty()).expect("a valid request")
}

/// An empty answer with status OK.
pub(super) fn answer() -> http::Response<Body> {
    Status::ok("").into_http()
}

pub(super) type FrameSender = mpsc::UnboundedSender<Frame<tonic::codegen::Bytes>>;

/// An answer whose body the test feeds.
pub(super) fn streaming_answer() -> (FrameSender, http::Response<Body>) {
    let (sender, frames) = mpsc::unbounded_channel();
    let frames = UnboundedReceiverStream::new(frames).map(Ok::<_, Infallible>);
    (sender, http::Response::new(Body::new(StreamBody::new(frames))))
}

pub(super) fn data() -> Frame<tonic::codegen::Bytes> {
    Frame::data(tonic::codegen::Bytes::from_static(b"message"))
}

pub(super) fn trailers(code: Code) -> Frame<tonic::codegen::Bytes> {
    let mut headers = http::HeaderMap::new();
    Status::new(code, "").add_header(&mut headers).expect("a valid status");
    Frame::trailers(headers)
}

/// The status in the head.
pub(super) fn head_status(response: &http::Response<Body>) -> Status {
    Status::from_header_map(response.headers()).expect("a status in the head")
}

/// Reads the body to its end; the status in its trailers.
pub(super) async fn trailer_status(response: http::Response<Body>) -> Option<Status> {
    let collected = response.into_body().collect().await.expect("a whole body");
    Status::from_header_map(collected.trailers()?)
}
