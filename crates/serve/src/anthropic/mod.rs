//! `/v1/messages` and `/v1/messages/count_tokens`, as Anthropic's clients speak them.

mod request;

pub use request::parse as parse_messages;

use crate::answers::{Count, finished, parsed, stopped, with_warnings};
use crate::http::{ApiError, App, EventStream, Fields, Left, respond};
use crate::random::identifier;
use crate::service::Service;
use crate::speech::Delta;
use crate::turn::{Common, Parts, Turn};
use crate::{Answer, Event};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use kvant::model::Finish;
use request::{Parsed, parse};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_stream::StreamExt;

/// An error in Anthropic's form.
pub fn error(error: &ApiError) -> Value {
    let mut body = error.to_json();
    body["type"] = "error".into();
    body
}

/// Counts the tokens of a conversation.
pub async fn count_tokens(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let parse = |service: &Service, fields: Fields, common: &Common| parse(service, fields, common, true);
    let (_, parsed) = parsed(&app, &extensions, body, parse).await?;
    let count = parsed.turn.request.prompt.len();
    Ok(with_warnings(respond(StatusCode::OK, &json!({ "input_tokens": count })), &parsed.ignored))
}

/// Answers a conversation.
pub async fn messages(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let parse = |service: &Service, fields: Fields, common: &Common| parse(service, fields, common, false);
    let (service, parsed) = parsed(&app, &extensions, body, parse).await?;
    let Parsed { turn: Turn { request, parts }, stream, ignored } = parsed;
    let prompt = request.prompt.len();
    let answer = service.engine.submit(request)?;
    let head = Head { id: identifier("msg_"), service, parts, prompt };
    let response = if stream {
        EventStream::respond(|stream| head.stream(stream, answer))
    } else {
        let finished = finished(answer).await?;
        let mut blocks = Blocks::default();
        let deltas = head.parts.reader().read(finished.text, true);
        deltas.into_iter().for_each(|delta| drop(blocks.add(delta)));
        let mut message = head.message(&finished.count);
        message["content"] = blocks.to_json();
        let (reason, stop) = blocks.reason(finished.finish, finished.stop);
        message["stop_reason"] = reason.into();
        message["stop_sequence"] = stop.into();
        respond(StatusCode::OK, &message)
    };
    Ok(with_warnings(response, &ignored))
}

/// The common part of a whole message and of a stream.
struct Head {
    id: String,
    service: Arc<Service>,
    parts: Parts,
    /// Tokens of the prompt.
    prompt: usize,
}

impl Head {
    fn message(&self, count: &Count) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.service.name,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": self.usage(count),
        })
    }

    fn usage(&self, count: &Count) -> Value {
        json!({
            "input_tokens": self.prompt - count.cached,
            "cache_read_input_tokens": count.cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": count.answer,
        })
    }

    /// Sends the answer as it comes.
    async fn stream(self, stream: EventStream, mut answer: Answer) -> Result<(), Left> {
        let mut count = Count::default();
        let mut reader = self.parts.reader();
        let mut blocks = Blocks::default();
        loop {
            let Some(event) = stream.wait(answer.next()).await? else {
                return stream.send_named("error", &error(&stopped().into())).await;
            };
            count.add(&event);
            match event {
                Event::Prompt(_) | Event::Progress { .. } | Event::Choices(_) => {}
                Event::Started { .. } => {
                    let start = json!({ "type": "message_start", "message": self.message(&count) });
                    stream.send_named("message_start", &start).await?;
                }
                Event::Piece { text, .. } => {
                    for delta in reader.read(text, false) {
                        send_all(&stream, blocks.add(delta)).await?;
                    }
                }
                Event::Ended { text, finish, stop, .. } => {
                    for delta in reader.read(text, true) {
                        send_all(&stream, blocks.add(delta)).await?;
                    }
                    send_all(&stream, blocks.close()).await?;
                    let (reason, stop) = blocks.reason(Some(finish), stop);
                    let last = json!({
                        "type": "message_delta",
                        "delta": { "stop_reason": reason, "stop_sequence": stop },
                        "usage": self.usage(&count),
                    });
                    stream.send_named("message_delta", &last).await?;
                    return stream.send_named("message_stop", &json!({ "type": "message_stop" })).await;
                }
                Event::Failed(failure) => {
                    return stream.send_named("error", &error(&failure.into())).await;
                }
            }
        }
    }
}

/// Sends events under the names in their field `type`.
async fn send_all(stream: &EventStream, events: Vec<Value>) -> Result<(), Left> {
    for event in events {
        stream.send_named(event["type"].as_str().unwrap_or_default(), &event).await?;
    }
    Ok(())
}

/// The blocks of a message so far.
#[derive(Default)]
struct Blocks {
    blocks: Vec<Block>,
    /// True if the last block is not closed.
    open: bool,
}

enum Block {
    Text(String),
    Thinking(String),
    ToolUse { id: String, name: String, arguments: String },
}

impl Block {
    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "type": "text", "text": text }),
            Self::Thinking(text) => json!({ "type": "thinking", "thinking": text, "signature": "" }),
            Self::ToolUse { id, name, arguments } => {
                // The client needs an object. If the answer was cut, its arguments are incomplete.
                let input = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        }
    }
}

impl Blocks {
    /// Adds a part, and returns the events of a stream.
    fn add(&mut self, delta: Delta) -> Vec<Value> {
        let fits = matches!(
            (&delta, self.blocks.last()),
            (Delta::Content(_), Some(Block::Text(_)))
                | (Delta::Reasoning(_), Some(Block::Thinking(_)))
                | (Delta::Arguments(_), _)
        );
        let mut events = Vec::new();
        if !fits {
            events = self.close();
            let block = match &delta {
                Delta::Content(_) => Block::Text(String::new()),
                Delta::Reasoning(_) => Block::Thinking(String::new()),
                Delta::Call { name, .. } => {
                    let (id, arguments) = (identifier("toolu_"), String::new());
                    Block::ToolUse { id, name: name.clone(), arguments }
                }
                Delta::Arguments(_) => return events,
            };
            let index = self.blocks.len();
            events.push(
                json!({ "type": "content_block_start", "index": index, "content_block": block.to_json() }),
            );
            self.blocks.push(block);
            self.open = true;
        }
        let delta = match (delta, self.blocks.last_mut()) {
            (Delta::Content(more), Some(Block::Text(text))) => {
                text.push_str(&more);
                json!({ "type": "text_delta", "text": more })
            }
            (Delta::Reasoning(more), Some(Block::Thinking(text))) => {
                text.push_str(&more);
                json!({ "type": "thinking_delta", "thinking": more })
            }
            (Delta::Arguments(more), Some(Block::ToolUse { arguments, .. })) => {
                arguments.push_str(&more);
                json!({ "type": "input_json_delta", "partial_json": more })
            }
            _ => return events,
        };
        let index = self.blocks.len() - 1;
        events.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
        events
    }

    /// Closes the last block.
    fn close(&mut self) -> Vec<Value> {
        if !std::mem::take(&mut self.open) {
            return Vec::new();
        }
        vec![json!({ "type": "content_block_stop", "index": self.blocks.len() - 1 })]
    }

    fn to_json(&self) -> Value {
        self.blocks.iter().map(Block::to_json).collect()
    }

    /// The reason of the end, and the stop text.
    fn reason(&self, finish: Option<Finish>, stop: Option<String>) -> (&'static str, Option<String>) {
        let calls = self.blocks.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        match finish {
            Some(Finish::Length) => ("max_tokens", None),
            _ if stop.is_some() => ("stop_sequence", stop),
            _ if calls => ("tool_use", None),
            _ => ("end_turn", None),
        }
    }
}
