//! Tower layers for gRPC calls: one file each, used by the server inbound and by every client outbound.
//!
//! Two facts about tonic shape all of them. A layer refuses by *answering* with a status from `call`:
//! an error from `poll_ready` reaches the caller as a broken connection, whatever it contains. And a
//! call is not over at the response's head: a stream lives in the body, and its status in the trailers,
//! so what covers a whole call wraps the body too.

pub mod auth;
mod body;
pub mod breaker;
mod classify;
pub mod deadline;
mod deadline_body;
pub mod enrolment;
pub mod error_details;
mod grpc_timeout;
pub mod in_flight;
pub mod load_shed;
pub mod method;
pub mod outbound_deadline;
pub mod peer;
pub mod refusals;
pub mod request_id;
pub mod rpc_metrics;
pub mod stream_limit;
pub mod token_bucket;

use std::future::Future;
use std::pin::Pin;

use tonic::body::Body;

/// The future of a layer's call.
pub type CallFuture<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

/// Marks a response that was made in this process, without the peer: it tells nothing about the peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefusedLocally;

/// An answer that consists of a status only.
fn refusal(error: crate::status::ApiError) -> http::Response<Body> {
    let mut response = tonic::Status::from(error).into_http::<Body>();
    response.extensions_mut().insert(RefusedLocally);
    response
}

/// Text of a bearer token in the `authorization` header; the scheme's name is case-insensitive (RFC 9110).
fn bearer_token(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod testing;
