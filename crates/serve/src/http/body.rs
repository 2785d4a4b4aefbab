//! The body of a request that is answered before the body has arrived.
//!
//! A connection with unread bytes is reset when it is closed, and a client that still sends then never sees the answer.
//! So the server reads what the client still sends, within limits, and throws it away.

use axum::Error;
use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;

/// Largest number of bytes that are thrown away.
const DISCARDED_BYTES: u64 = 32 << 20;
/// The client has this time to send them.
const DISCARD_TIME: Duration = Duration::from_secs(5);
/// Largest number of bodies that are thrown away at the same time.
static DISCARDS: Semaphore = Semaphore::const_new(16);

struct State {
    body: Body,
    /// True if a part of the body was asked for. A client that waits for this then sends the body.
    asked: bool,
    /// True if the end of the body was seen.
    ended: bool,
}

/// One of two owners of a body.
pub struct SharedBody(Arc<Mutex<State>>);

impl SharedBody {
    /// Returns two owners of `body`: one for the handler of the request, the other one for [`SharedBody::discard`].
    pub fn new(body: Body) -> (Body, Self) {
        let ended = hyper::body::Body::is_end_stream(&body);
        let state = Arc::new(Mutex::new(State { body, asked: false, ended }));
        (Body::new(Self(state.clone())), Self(state))
    }

    /// Reads the rest of the body and throws it away. The handler has dropped its owner. `waits` is true if the client
    /// sends the body only after the server has asked for it (`Expect: 100-continue`). The function does not wait.
    pub fn discard(self, waits: bool) {
        let needed = {
            let state = self.lock();
            let least = hyper::body::Body::size_hint(&state.body).lower();
            !state.ended && (state.asked || !waits) && least <= DISCARDED_BYTES
        };
        let Some(permit) = needed.then(|| DISCARDS.try_acquire().ok()).flatten() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let discard = async {
                let mut rest = Body::new(self).into_data_stream();
                let mut bytes = 0;
                while let Some(Ok(part)) = rest.next().await
                    && bytes <= DISCARDED_BYTES
                {
                    bytes += part.len() as u64;
                }
            };
            // After this time the connection is closed.
            let _ = tokio::time::timeout(DISCARD_TIME, discard).await;
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hyper::body::Body for SharedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.lock();
        if state.ended {
            return Poll::Ready(None);
        }
        state.asked = true;
        let frame = Pin::new(&mut state.body).poll_frame(context);
        state.ended = matches!(frame, Poll::Ready(None | Some(Err(_))))
            || hyper::body::Body::is_end_stream(&state.body);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.lock().ended
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.lock().body)
    }
}
