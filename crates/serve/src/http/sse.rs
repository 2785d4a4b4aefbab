//! Streams of server-sent events.
//!
//! A task of its own sends the events. If the client leaves, the task ends, and with it the work for the client.

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Number of events that wait for a slow client.
const BUFFERED: usize = 16;
/// After this time without an event, a comment is sent, so that neither a proxy nor the client gives up.
const SILENCE: Duration = Duration::from_secs(15);

/// The client left.
#[derive(Debug)]
pub struct Left;

/// The sender of a stream.
pub struct EventStream(Sender<Bytes>);

impl EventStream {
    /// A response whose events `work` sends.
    pub fn respond<F: Future<Output = Result<(), Left>> + Send + 'static>(
        work: impl FnOnce(Self) -> F,
    ) -> Response {
        let (sender, receiver) = channel(BUFFERED);
        let work = work(Self(sender));
        // The error is that the client left. Nothing remains to be done then.
        tokio::spawn(async { drop(work.await) });
        let events = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
        let mut response = Response::new(Body::from_stream(events));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    /// Sends an event.
    ///
    /// # Errors
    /// The client left.
    pub async fn send(&self, data: &Value) -> Result<(), Left> {
        self.write(format!("data: {data}\n\n")).await
    }

    /// Sends the last event, as OpenAI's clients expect it.
    ///
    /// # Errors
    /// The client left.
    pub async fn done(&self) -> Result<(), Left> {
        self.write("data: [DONE]\n\n".to_owned()).await
    }

    async fn write(&self, text: String) -> Result<(), Left> {
        self.0.send(text.into()).await.map_err(|_| Left)
    }

    /// Waits for `event`.
    ///
    /// # Errors
    /// The client left.
    pub async fn wait<T>(&self, event: impl Future<Output = T>) -> Result<T, Left> {
        let mut event = std::pin::pin!(event);
        loop {
            tokio::select! {
                event = &mut event => return Ok(event),
                () = self.0.closed() => return Err(Left),
                () = tokio::time::sleep(SILENCE) => self.write(": no event yet\n\n".to_owned()).await?,
            }
        }
    }
}
