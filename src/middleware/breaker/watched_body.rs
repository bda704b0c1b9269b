//! A response body whose end tells the breaker what became of the call.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body as _, Frame, SizeHint};
use tonic::Code;
use tonic::body::Body;

use super::super::classify;
use super::Watch;

pub(super) struct WatchedBody {
    inner: Body,
    watch: Watch,
}

impl WatchedBody {
    pub(super) fn wrap(response: http::Response<Body>, mut watch: Watch) -> http::Response<Body> {
        response.map(|inner| {
            if inner.is_end_stream() {
                // Neither messages nor a status: not a gRPC answer.
                watch.finish_with(Code::Unknown);
                inner
            } else {
                Body::new(Self { inner, watch })
            }
        })
    }
}

impl http_body::Body for WatchedBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) => {
                    this.watch.finish_with(classify::status_code(trailers).unwrap_or(Code::Unknown));
                }
                None => this.watch.saw_message(),
            },
            Poll::Ready(Some(Err(status))) => this.watch.finish_with(status.code()),
            // Ended without a status: the peer broke off.
            Poll::Ready(None) => this.watch.finish_with(Code::Unknown),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
