//! `/v1/responses`. Responses are not stored.

mod items;
mod request;

pub use request::parse as parse_response;

use crate::answers::{Count, finished, parsed, stopped, with_warnings};
use crate::http::{ApiError, App, EventStream, Left, respond};
use crate::openai::{progress, timings};
use crate::random::identifier;
use crate::service::{Service, now};
use crate::speech::Delta;
use crate::turn::{PartReader, Parts, Turn};
use crate::{Answer, Event};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use items::Items;
use kvant::model::Finish;
use request::{Parsed, parse};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio_stream::StreamExt;

/// Answers a request.
pub async fn responses(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (service, parsed) = parsed(&app, &extensions, body, parse).await?;
    let Parsed { turn: Turn { request, parts }, stream, timings_per_token, repeated, ignored } = parsed;
    let prompt = request.prompt.len();
    let answer = service.engine.submit(request)?;
    let head = Head { id: identifier("resp_"), created: now(), service, parts, prompt, repeated };
    let response = if stream {
        EventStream::respond(move |stream| head.stream(stream, answer, timings_per_token))
    } else {
        let finished = finished(answer).await?;
        let mut output = Output::new(&head.parts);
        let last = finished.pieces.len().saturating_sub(1);
        for (index, piece) in finished.pieces.into_iter().enumerate() {
            drop(output.add(piece, index == last));
        }
        respond(StatusCode::OK, &head.ended(&output, finished.finish, &finished.count))
    };
    Ok(with_warnings(response, &ignored))
}

/// Counts the tokens of a request's prompt.
pub async fn input_tokens(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (_, parsed) = parsed(&app, &extensions, body, parse).await?;
    let count =
        json!({ "object": "response.input_tokens", "input_tokens": parsed.turn.request.prompt.len() });
    Ok(respond(StatusCode::OK, &count))
}

/// The common part of a whole response and of a stream.
struct Head {
    id: String,
    created: u64,
    service: Arc<Service>,
    parts: Parts,
    /// Tokens of the prompt.
    prompt: usize,
    /// Fields of the request.
    repeated: Map<String, Value>,
}

impl Head {
    /// The response before its end.
    fn response(&self, status: &str) -> Value {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "max_output_tokens": null,
            "max_tool_calls": null,
            "model": self.service.name,
            "output": [],
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "prompt_cache_key": null,
            "reasoning": { "effort": null, "summary": null },
            "safety_identifier": null,
            "service_tier": "default",
            "store": false,
            "temperature": self.service.sampling.temperature,
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": self.service.sampling.top_p,
            "truncation": "disabled",
            "usage": null,
            "user": null,
            "metadata": {},
        });
        if let Some(fields) = response.as_object_mut() {
            fields.extend(self.repeated.clone());
        }
        response
    }

    /// The response at its end.
    fn ended(&self, output: &Output, finish: Option<Finish>, count: &Count) -> Value {
        let cut = finish == Some(Finish::Length);
        let mut response = self.response(if cut { "incomplete" } else { "completed" });
        if cut {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        response["output"] = output.items.to_json(cut);
        response["usage"] = json!({
            "input_tokens": self.prompt,
            "input_tokens_details": { "cached_tokens": count.cached, "cache_write_tokens": 0 },
            "output_tokens": count.answer,
            "output_tokens_details": { "reasoning_tokens": output.reasoning_tokens },
            "total_tokens": self.prompt + count.answer,
        });
        response
    }

    /// Sends the answer as it comes.
    async fn stream(
        self,
        stream: EventStream,
        mut answer: Answer,
        timings_per_token: bool,
    ) -> Result<(), Left> {
        let mut stream = Numbered { stream, next: 0 };
        let mut output = Output::new(&self.parts);
        let mut count = Count::default();
        for kind in ["response.created", "response.in_progress"] {
            stream.send(json!({ "type": kind, "response": self.response("in_progress") })).await?;
        }
        loop {
            let event = stream.stream.wait(answer.next()).await?.unwrap_or(Event::Failed(stopped()));
            count.add(&event);
            match event {
                Event::Prompt(_) | Event::Choices(_) | Event::Started { .. } => {}
                Event::Progress { cached_tokens, read, time } => {
                    let mut event =
                        json!({ "type": "response.in_progress", "response": self.response("in_progress") });
                    event["prompt_progress"] = progress(self.prompt, cached_tokens, read, time);
                    stream.send(event).await?;
                }
                Event::Piece { text, .. } => {
                    for mut event in output.add(text, false) {
                        if timings_per_token {
                            event["timings"] = timings(self.prompt, &count);
                        }
                        stream.send(event).await?;
                    }
                }
                Event::Ended { text, finish, .. } => {
                    let mut events = output.add(text, true);
                    events.extend(output.items.close(finish == Finish::Length));
                    for event in events {
                        stream.send(event).await?;
                    }
                    let response = self.ended(&output, Some(finish), &count);
                    let kind = format!("response.{}", response["status"].as_str().unwrap_or_default());
                    let times = timings(self.prompt, &count);
                    return stream
                        .send(json!({ "type": kind, "response": response, "timings": times }))
                        .await;
                }
                Event::Failed(failure) => {
                    let error = ApiError::from(failure).to_json();
                    let mut response = self.response("failed");
                    response["error"] =
                        json!({ "code": "server_error", "message": error["error"]["message"] });
                    return stream.send(json!({ "type": "response.failed", "response": response })).await;
                }
            }
        }
    }
}

/// The output so far.
struct Output {
    reader: PartReader,
    items: Items,
    reasoning_tokens: usize,
}

impl Output {
    fn new(parts: &Parts) -> Self {
        Self { reader: parts.reader(), items: Items::default(), reasoning_tokens: 0 }
    }

    /// Adds the text that became final with a token, and returns the events. `last` marks the end of the answer, which is
    /// no token.
    fn add(&mut self, text: String, last: bool) -> Vec<Value> {
        let deltas = self.reader.read(text, last);
        let reasons = deltas.iter().any(|delta| matches!(delta, Delta::Reasoning(_)));
        self.reasoning_tokens += usize::from(reasons && !last);
        deltas.into_iter().flat_map(|delta| self.items.add(delta)).collect()
    }
}

/// A stream whose events have numbers and names.
struct Numbered {
    stream: EventStream,
    next: u64,
}

impl Numbered {
    async fn send(&mut self, mut event: Value) -> Result<(), Left> {
        event["sequence_number"] = self.next.into();
        self.next += 1;
        self.stream.send_named(event["type"].as_str().unwrap_or_default(), &event).await
    }
}
