//! A response body that holds something until the response is over.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body as _, Frame, SizeHint};
use tonic::body::Body;

/// Gives `guard` back when the body has ended, failed or been dropped, whichever comes first.
pub(super) struct GuardedBody<G> {
    inner: Body,
    guard: Option<G>,
}

impl<G: Send + Unpin + 'static> GuardedBody<G> {
    /// Wraps the body of `response`; an empty body gives the guard back at once.
    pub(super) fn wrap(response: http::Response<Body>, guard: G) -> http::Response<Body> {
        response.map(|inner| {
            if inner.is_end_stream() { inner } else { Body::new(Self { inner, guard: Some(guard) }) }
        })
    }
}

impl<G: Unpin> http_body::Body for GuardedBody<G> {
    type Data = <Body as http_body::Body>::Data;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        let over = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(None | Some(Err(_))) => true,
        };
        if over {
            self.guard = None;
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
