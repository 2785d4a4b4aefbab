//! The time in which the body of a request must arrive.

use axum::Error;
use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body that is an error if it has not arrived at its end time.
pub struct ArrivingBody {
    body: Body,
    /// The end time; `None` after it.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl ArrivingBody {
    /// A body that must arrive before `end` is ready.
    pub fn new(body: Body, end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { body, end: Some(Box::pin(end)) }
    }
}

impl hyper::body::Body for ArrivingBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let ended = self.end.as_mut().is_none_or(|end| end.as_mut().poll(context).is_ready());
        if ended {
            self.end = None;
            return Poll::Ready(Some(Err(Error::new(io::Error::from(io::ErrorKind::TimedOut)))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}
