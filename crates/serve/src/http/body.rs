//! The body of a request that is answered before the body has arrived.
//!
//! A connection with unread bytes is reset when it is closed, and a client that still sends then never sees the answer.
//! So the server reads what the client still sends, within limits, and throws it away.

use axum::Error;
use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_stream::StreamExt;

/// Largest number of bytes that are thrown away.
const DISCARDED_BYTES: usize = 64 << 20;
/// The client has this time to send them.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// A body, and whether its end was seen.
struct State {
    body: Body,
    ended: bool,
}

/// One of two owners of a body.
pub struct SharedBody(Arc<Mutex<State>>);

impl SharedBody {
    /// Returns two owners of `body`: one for the handler of the request, the other one for [`SharedBody::discard`].
    pub fn new(body: Body) -> (Body, Self) {
        let ended = hyper::body::Body::is_end_stream(&body);
        let state = Arc::new(Mutex::new(State { body, ended }));
        (Body::new(Self(state.clone())), Self(state))
    }

    /// Reads the rest of the body and throws it away. The handler has dropped its owner. The function does not wait.
    pub fn discard(self) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).ended {
            return;
        }
        tokio::spawn(tokio::time::timeout(DISCARD_TIME, async move {
            let mut rest = Body::new(self).into_data_stream();
            let mut bytes = 0;
            while let Some(Ok(part)) = rest.next().await
                && bytes <= DISCARDED_BYTES
            {
                bytes += part.len();
            }
        }));
    }
}

impl hyper::body::Body for SharedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut state.body).poll_frame(context);
        state.ended = matches!(frame, Poll::Ready(None | Some(Err(_))))
            || hyper::body::Body::is_end_stream(&state.body);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.0.lock().unwrap_or_else(PoisonError::into_inner).body)
    }
}
