//! A response body that ends with DEADLINE_EXCEEDED when its time is over.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::deadline::Deadline;

/// Ends the inner body at a deadline: drops it, so that its work stops, and sends the status as trailers.
pub(super) struct DeadlineBody {
    /// `None` once it has ended.
    inner: Option<Body>,
    sleep: Pin<Box<Sleep>>,
    deadline: Deadline,
}

impl DeadlineBody {
    pub(super) fn wrap(response: http::Response<Body>, deadline: Deadline) -> http::Response<Body> {
        response.map(|inner| {
            if inner.is_end_stream() {
                return inner;
            }
            let sleep = Box::pin(tokio::time::sleep_until(deadline.at));
            Body::new(Self { inner: Some(inner), sleep, deadline })
        })
    }
}

impl http_body::Body for DeadlineBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // The clock first: a body that always has data would never let the deadline be seen.
        if this.sleep.as_mut().poll(cx).is_ready() {
            this.inner = None;
            let status = Status::from(this.deadline.exceeded());
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(match status.add_header(&mut trailers) {
                Ok(()) => Ok(Frame::trailers(trailers)),
                Err(status) => Err(status),
            }));
        }
        let polled = Pin::new(inner).poll_frame(cx);
        let over = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(None | Some(Err(_))) => true,
        };
        if over {
            this.inner = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // Unknown on purpose: the trailers of a deadline may come instead of the rest.
        SizeHint::default()
    }
}
