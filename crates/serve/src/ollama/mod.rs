//! Ollama's paths, for programs that speak nothing else.

mod embed;
mod models;
mod request;

pub use embed::{embed, embeddings};
pub use models::{processes, show, tags, version};
pub use request::{Kind, parse as parse_ollama};

use crate::answers::{Count, finished, parsed, stopped, with_warnings};
use crate::http::{ApiError, App, EventStream, Fields, Left, respond};
use crate::service::{Service, timestamp};
use crate::speech::{Delta, is_json};
use crate::turn::{Common, Parts, Turn};
use crate::{Answer, Event};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use kvant::model::Finish;
use request::{Parsed, parse};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;

/// An error in Ollama's form: a text.
pub fn error(error: &ApiError) -> Value {
    json!({ "error": error.message() })
}

/// Answers a conversation.
pub async fn chat(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    answer(app, &extensions, body, Kind::Chat).await
}

/// Continues a prompt.
pub async fn generate(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    answer(app, &extensions, body, Kind::Generate).await
}

async fn answer(
    app: Arc<App>,
    extensions: &Extensions,
    body: Bytes,
    kind: Kind,
) -> Result<Response, ApiError> {
    let begin = Instant::now();
    let parse =
        move |service: &Service, fields: Fields, common: &Common| parse(service, fields, common, kind);
    let (service, parsed) = parsed(&app, extensions, body, parse).await?;
    let Parsed { turn, stream, ignored } = parsed;
    let Some(Turn { request, parts }) = turn else {
        // A request without a prompt only loads the model.
        let head = Head { service, kind, parts: Parts::Text, prompt: 0, begin };
        return Ok(respond(StatusCode::OK, &head.last(&Message::default(), None, &Count::default())));
    };
    let prompt = request.prompt.len();
    let answer = service.engine.submit(request)?;
    let head = Head { service, kind, parts, prompt, begin };
    let response = if stream {
        EventStream::respond_with_lines(|stream| head.stream(stream, answer))
    } else {
        let finished = finished(answer).await?;
        let mut message = Message::default();
        for delta in head.parts.reader().read(finished.text, true) {
            message.add(delta);
        }
        message.end(finished.finish);
        respond(StatusCode::OK, &head.last(&message, finished.finish, &finished.count))
    };
    Ok(with_warnings(response, &ignored))
}

/// A message, or the part of one that an event adds.
#[derive(Default)]
struct Message {
    content: String,
    thinking: String,
    /// Names and arguments.
    calls: Vec<(String, String)>,
}

impl Message {
    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Content(text) => self.content.push_str(&text),
            Delta::Reasoning(text) => self.thinking.push_str(&text),
            Delta::Call { name, .. } => self.calls.push((name, String::new())),
            Delta::Arguments(text) => {
                if let Some((_, arguments)) = self.calls.last_mut() {
                    arguments.push_str(&text);
                }
            }
        }
    }

    /// Removes a last call that was cut.
    fn end(&mut self, finish: Option<Finish>) {
        let is_whole = |(_, arguments): &(String, String)| is_json(arguments);
        if finish == Some(Finish::Length) && !self.calls.last().is_none_or(is_whole) {
            self.calls.pop();
        }
    }

    fn is_empty(&self) -> bool {
        self.content.is_empty() && self.thinking.is_empty()
    }
}

/// The common part of all lines of an answer.
struct Head {
    service: Arc<Service>,
    kind: Kind,
    parts: Parts,
    /// Tokens of the prompt.
    prompt: usize,
    begin: Instant,
}

impl Head {
    /// A line with a part of the answer.
    fn line(&self, message: &Message, done: bool) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("model".to_owned(), self.service.name.as_str().into());
        line.insert("created_at".to_owned(), timestamp().into());
        match self.kind {
            Kind::Generate => {
                line.insert("response".to_owned(), message.content.as_str().into());
                if !message.thinking.is_empty() {
                    line.insert("thinking".to_owned(), message.thinking.as_str().into());
                }
            }
            Kind::Chat => {
                let mut fields = json!({ "role": "assistant", "content": message.content });
                if !message.thinking.is_empty() {
                    fields["thinking"] = message.thinking.as_str().into();
                }
                if !message.calls.is_empty() {
                    let call = |(name, arguments): &(String, String)| {
                        let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
                        json!({ "function": { "name": name, "arguments": arguments } })
                    };
                    fields["tool_calls"] = message.calls.iter().map(call).collect();
                }
                line.insert("message".to_owned(), fields);
            }
        }
        line.insert("done".to_owned(), done.into());
        line
    }

    /// The last line. Without a reason of the end, the model was only loaded.
    fn last(&self, message: &Message, finish: Option<Finish>, count: &Count) -> Value {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut line = self.line(message, true);
        line.insert("done_reason".to_owned(), finish.map_or("load", Finish::name).into());
        for (name, value) in [
            ("total_duration", nanoseconds(self.begin.elapsed())),
            ("load_duration", 0),
            ("prompt_eval_count", self.prompt as u64),
            ("prompt_eval_duration", nanoseconds(count.prefill)),
            ("eval_count", count.answer as u64),
            ("eval_duration", nanoseconds(count.decode)),
        ] {
            line.insert(name.to_owned(), value.into());
        }
        Value::Object(line)
    }

    /// Sends the answer as it comes. Calls are sent at the end, because their arguments are objects.
    async fn stream(self, stream: EventStream, mut answer: Answer) -> Result<(), Left> {
        let mut reader = self.parts.reader();
        let mut count = Count::default();
        let mut calls = Message::default();
        loop {
            let Some(event) = stream.wait(answer.next()).await? else {
                return stream.send_line(&error(&stopped().into())).await;
            };
            count.add(&event);
            let (text, finish) = match event {
                Event::Prompt(_) | Event::Progress { .. } | Event::Choices(_) | Event::Started { .. } => {
                    continue;
                }
                Event::Piece { text, .. } => (text, None),
                Event::Ended { text, finish, .. } => (text, Some(finish)),
                Event::Failed(failure) => {
                    return stream.send_line(&error(&failure.into())).await;
                }
            };
            let mut piece = Message::default();
            for delta in reader.read(text, finish.is_some()) {
                match delta {
                    Delta::Call { .. } | Delta::Arguments(_) => calls.add(delta),
                    Delta::Content(_) | Delta::Reasoning(_) => piece.add(delta),
                }
            }
            if !piece.is_empty() {
                stream.send_line(&Value::Object(self.line(&piece, false))).await?;
            }
            if finish.is_some() {
                calls.end(finish);
                if !calls.calls.is_empty() {
                    stream.send_line(&Value::Object(self.line(&calls, false))).await?;
                }
                return stream.send_line(&self.last(&Message::default(), finish, &count)).await;
            }
        }
    }
}
