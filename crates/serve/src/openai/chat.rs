//! `/v1/chat/completions`.

use super::answer::{Count, Finished, chat_log_probabilities, finished, reason, stopped, timings, usage};
use super::format::constraint;
use super::message::AssistantMessage;
use super::messages::messages;
use super::parameters::{MOST_TOP, Parameters};
use super::tools::Tools;
use super::{Common, identifier, merged, submit, with_warnings};
use crate::http::{ApiError, App, EventStream, Fields, Left, respond};
use crate::service::{Service, now};
use crate::speech::{Delta, Speech, SpeechParser};
use crate::{Answer, Event, Request};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use kvant::model::{Conversation, Ending, Message};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_stream::StreamExt;

/// A parsed request.
struct Chat {
    parameters: Parameters,
    request: Request,
    ignored: Vec<String>,
    /// The end of the rendered prompt, if the answer has parts other than text. Also the names of the tools.
    parts: Option<(String, Arc<[String]>)>,
}

/// Fields that would change the answer.
const REFUSED: &[&str] = &["functions", "function_call", "audio", "prediction", "web_search_options"];

/// Answers a request.
pub async fn completions(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let service = app.service()?;
    let of_request = service.clone();
    let common = Common::of(&extensions);
    let chat = app.blocking(move || parse(&of_request, &body, &common)).await??;
    let Chat { parameters, request, ignored, parts } = chat;
    let prompt_tokens = request.prompt.len();
    let with_log_probabilities = request.log_probabilities.is_some();
    let answers = submit(&service, &[request], parameters.answers)?;
    let head = Head { id: identifier("chatcmpl-"), created: now(), service, parts };
    let response = if parameters.stream {
        let usage = parameters.usage_in_stream;
        EventStream::respond(|stream| head.stream(stream, answers, prompt_tokens, usage))
    } else {
        let mut all = Vec::new();
        for answer in answers {
            all.push(finished(answer).await?);
        }
        respond(StatusCode::OK, &head.whole(&all, prompt_tokens, with_log_probabilities))
    };
    Ok(with_warnings(response, &ignored))
}

fn parse(service: &Service, body: &[u8], common: &Common) -> Result<Chat, ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.refuse(REFUSED)?;
    let parameters = Parameters::read(&mut fields, service)?;
    let tools = Tools::read(&mut fields)?;
    let constraint = constraint(&mut fields, service)?;
    let mut messages = messages(&mut fields)?;
    let speech = service.speech;
    if tools.are_there() && !speech.knows_tools() {
        tools.describe_in(&mut messages);
    }
    let mut conversation = conversation(&mut fields, &messages)?;
    if tools.are_there() && speech.knows_tools() {
        conversation = conversation.tools(&tools.described);
    }
    let rendering = service.template()?.render_conversation(&conversation)?;
    let text = rendering.text();
    let constraint = match (constraint, tools.grammar(speech, service)) {
        (Some(_), Some(_)) => {
            let message = "an answer that must call a tool has no other form";
            return Err(ApiError::parameter("tool_choice", message));
        }
        (None, Some(grammar)) => {
            let constraint = service.constraint(&grammar);
            let constraint = constraint.map_err(|error| ApiError::parameter("tools", error))?;
            Some(match (speech, speech.reasoning_end(text)) {
                (Speech::Marked(_), Some(mark)) => constraint.after(mark),
                _ => constraint,
            })
        }
        (Some(constraint), None) => Some(match speech.reasoning_end(text) {
            Some(mark) => constraint.after(mark),
            None => constraint,
        }),
        (None, None) => None,
    };
    let parts = tools.are_there() || speech.has_parts();
    let parts = parts.then(|| (ending(text).to_owned(), tools.names()));
    // The template writes BOS itself.
    let encoded = service.tokenizer().encode_spans(&rendering.spans(), false);
    let prompt = encoded.map_err(|error| ApiError::invalid(error.to_string()))?;
    if prompt.is_empty() {
        return Err(ApiError::parameter("messages", "the chat template makes no text of them"));
    }
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.integer(&["top_logprobs"], 0)?;
    if top.is_some() && !wanted {
        return Err(ApiError::parameter("top_logprobs", "needs `logprobs`: true"));
    }
    let top = top.unwrap_or(0);
    if top > MOST_TOP {
        return Err(ApiError::parameter("top_logprobs", format!("at most {MOST_TOP}")));
    }
    let request = Request {
        constraint,
        control_tokens: parts.is_some() && service.marks_are_control,
        boundaries: service.boundaries(&conversation, &prompt)?,
        log_probabilities: wanted.then_some(top as usize),
        ..common.request(service, prompt, &parameters)
    };
    Ok(Chat { parameters, request, ignored: fields.ignored(), parts })
}

/// The end of a prompt, as far as it decides how an answer begins.
fn ending(prompt: &str) -> &str {
    let mut from = prompt.len().saturating_sub(256);
    while !prompt.is_char_boundary(from) {
        from -= 1;
    }
    &prompt[from..]
}

/// The inputs of the template.
pub fn conversation<'a>(fields: &mut Fields, messages: &'a [Message]) -> Result<Conversation<'a>, ApiError> {
    // The model continues a last message of its own.
    let own = messages.last().is_some_and(|message| message.role == "assistant");
    let generation = fields.flag("add_generation_prompt")?;
    let ending = match generation {
        Some(true) => Ending::Prompt,
        Some(false) if !own => Ending::Whole,
        _ if own => Ending::Continue,
        _ => Ending::Prompt,
    };
    let mut conversation = Conversation::new(messages).ending(ending);
    for (name, value) in fields.object("chat_template_kwargs")?.unwrap_or_default() {
        conversation = conversation.variable(&name, value);
    }
    if let Some(effort) = fields.text("reasoning_effort")? {
        conversation = conversation.variable("reasoning_effort", effort);
    }
    Ok(conversation)
}

/// What all parts of a response have in common.
struct Head {
    id: String,
    created: u64,
    service: Arc<Service>,
    parts: Option<(String, Arc<[String]>)>,
}

impl Head {
    /// A parser for an answer.
    fn parser(&self) -> Option<SpeechParser> {
        let (prompt, tools) = self.parts.as_ref()?;
        Some(self.service.speech.parser(prompt, tools))
    }

    /// The parts in a piece of an answer, and those that were held back if it is the last piece.
    fn deltas(parser: &mut Option<SpeechParser>, text: String, last: bool) -> Vec<Delta> {
        let Some(parser) = parser else {
            return if text.is_empty() { Vec::new() } else { vec![Delta::Content(text)] };
        };
        let mut deltas = parser.push(&text);
        if last {
            deltas.extend(parser.finish());
        }
        deltas
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.name,
            "system_fingerprint": concat!("kvant-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }

    /// The whole response.
    fn whole(&self, answers: &[Finished], prompt: usize, with_log_probabilities: bool) -> Value {
        let choice = |(index, answer): (usize, &Finished)| {
            let log_probabilities =
                with_log_probabilities.then(|| chat_log_probabilities(&self.service, &answer.tokens));
            let mut message = AssistantMessage::default();
            for delta in Self::deltas(&mut self.parser(), answer.text.clone(), true) {
                message.add(delta);
            }
            let end = if message.has_calls() { "tool_calls" } else { reason(answer.finish) };
            json!({
                "index": index,
                "message": message.to_json(),
                "logprobs": log_probabilities,
                "finish_reason": end,
            })
        };
        let counts: Vec<Count> = answers.iter().map(|answer| answer.count).collect();
        let mut response = self.object("chat.completion", answers.iter().enumerate().map(choice).collect());
        response["usage"] = usage(prompt, &counts);
        response["timings"] = timings(prompt, &counts[0]);
        response
    }

    /// Sends the answers as they come.
    async fn stream(
        self,
        stream: EventStream,
        answers: Vec<Answer>,
        prompt: usize,
        with_usage: bool,
    ) -> Result<(), Left> {
        let chunk = |index: usize, delta: Value, log_probabilities: Option<Value>, end: Option<&str>| {
            let choice = json!({
                "index": index, "delta": delta, "logprobs": log_probabilities, "finish_reason": end,
            });
            self.object("chat.completion.chunk", json!([choice]))
        };
        let mut counts = vec![Count::default(); answers.len()];
        let mut messages: Vec<AssistantMessage> =
            answers.iter().map(|_| AssistantMessage::default()).collect();
        let mut parsers: Vec<Option<SpeechParser>> = answers.iter().map(|_| self.parser()).collect();
        let mut open = answers.len();
        let mut answers = merged(answers);
        while open > 0 {
            let Some((index, event)) = stream.wait(answers.next()).await? else {
                return stream.send(&ApiError::from(stopped()).to_json()).await;
            };
            counts[index].add(&event);
            match event {
                Event::Prompt(_) => {}
                Event::Started { .. } => {
                    let delta = json!({ "role": "assistant", "content": "" });
                    stream.send(&chunk(index, delta, None, None)).await?;
                }
                Event::Piece { token, text } => {
                    let log_probabilities = token.log_probabilities.is_some();
                    let log_probabilities =
                        log_probabilities.then(|| chat_log_probabilities(&self.service, &[token]));
                    let mut log_probabilities = log_probabilities;
                    for delta in Self::deltas(&mut parsers[index], text, false) {
                        let delta = messages[index].add(delta);
                        stream.send(&chunk(index, delta, log_probabilities.take(), None)).await?;
                    }
                    if log_probabilities.is_some() {
                        stream.send(&chunk(index, json!({}), log_probabilities, None)).await?;
                    }
                }
                Event::Ended { text, finish, .. } => {
                    for delta in Self::deltas(&mut parsers[index], text, true) {
                        let delta = messages[index].add(delta);
                        stream.send(&chunk(index, delta, None, None)).await?;
                    }
                    let calls = messages[index].has_calls();
                    let end = if calls { "tool_calls" } else { reason(Some(finish)) };
                    let mut last = chunk(index, json!({}), None, Some(end));
                    last["timings"] = timings(prompt, &counts[index]);
                    stream.send(&last).await?;
                    open -= 1;
                }
                Event::Failed(failure) => return stream.send(&ApiError::from(failure).to_json()).await,
            }
        }
        if with_usage {
            let mut last = self.object("chat.completion.chunk", json!([]));
            last["usage"] = usage(prompt, &counts);
            stream.send(&last).await?;
        }
        stream.done().await
    }
}
