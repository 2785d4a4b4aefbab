//! Streams of server-sent events, and of lines of JSON.
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
/// A client that reads nothing for this time has left.
const READ_TIME: Duration = Duration::from_secs(600);

/// The client left.
#[derive(Debug)]
pub struct Left;

/// The sender of a stream.
pub struct EventStream {
    sender: Sender<Bytes>,
    /// The text that is sent after a long silence.
    comment: Option<&'static str>,
}

impl EventStream {
    /// A response whose server-sent events `work` sends.
    pub fn respond<F: Future<Output = Result<(), Left>> + Send + 'static>(
        work: impl FnOnce(Self) -> F,
    ) -> Response {
        Self::start("text/event-stream", Some(": no event yet\n\n"), work)
    }

    /// A response whose lines of JSON `work` sends.
    pub fn respond_with_lines<F: Future<Output = Result<(), Left>> + Send + 'static>(
        work: impl FnOnce(Self) -> F,
    ) -> Response {
        Self::start("application/x-ndjson", None, work)
    }

    fn start<F: Future<Output = Result<(), Left>> + Send + 'static>(
        kind: &'static str,
        comment: Option<&'static str>,
        work: impl FnOnce(Self) -> F,
    ) -> Response {
        let (sender, receiver) = channel(BUFFERED);
        let work = work(Self { sender, comment });
        // The error is that the client left. Nothing remains to be done then.
        tokio::spawn(async { drop(work.await) });
        let events = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
        let mut response = Response::new(Body::from_stream(events));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
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

    /// Sends an event with a name.
    ///
    /// # Errors
    /// The client left.
    pub async fn send_named(&self, name: &str, data: &Value) -> Result<(), Left> {
        self.write(format!("event: {name}\ndata: {data}\n\n")).await
    }

    /// Sends a line of JSON.
    ///
    /// # Errors
    /// The client left.
    pub async fn send_line(&self, data: &Value) -> Result<(), Left> {
        self.write(format!("{data}\n")).await
    }

    /// Sends the last event, as OpenAI's clients expect it.
    ///
    /// # Errors
    /// The client left.
    pub async fn done(&self) -> Result<(), Left> {
        self.write("data: [DONE]\n\n".to_owned()).await
    }

    async fn write(&self, text: String) -> Result<(), Left> {
        let sent = tokio::time::timeout(READ_TIME, self.sender.send(text.into())).await;
        sent.map_err(|_| Left)?.map_err(|_| Left)
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
                () = self.sender.closed() => return Err(Left),
                () = tokio::time::sleep(SILENCE) => {
                    if let Some(comment) = self.comment {
                        self.write(comment.to_owned()).await?;
                    }
                }
            }
        }
    }
}
