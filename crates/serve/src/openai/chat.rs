//! `/v1/chat/completions`.

use super::answer::{FINGERPRINT, chat_log_probabilities, progress, timings, usage};
use super::format::constraint;
use super::message::AssistantMessage;
use super::messages::messages;
use crate::answers::{Count, Finished, all_finished, merged, parsed, stopped, submit, with_warnings};
use crate::http::{ApiError, App, EventStream, Fields, Left, respond};
use crate::random::identifier;
use crate::service::{Service, now};
use crate::turn::{Common, Inputs, MOST_TOP, Parameters, PartReader, Parts, Tools, Turn};
use crate::{Answer, Event};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use kvant::model::{Ending, Message};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio_stream::StreamExt;

/// Fields that would change the answer.
const REFUSED: &[&str] = &["functions", "function_call", "audio", "prediction", "web_search_options"];

/// Answers a request.
pub async fn completions(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (service, (turn, parameters, ignored)) = parsed(&app, &extensions, body, parse).await?;
    let Turn { request, parts } = turn;
    let prompt_tokens = request.prompt.len();
    let with_log_probabilities = request.log_probabilities.is_some();
    let prompt = parameters.verbose.then(|| service.tokenizer().pieces(&request.prompt));
    let answers = submit(&service, &[request], parameters.answers)?;
    let head = Head { id: identifier("chatcmpl-"), created: now(), service, parts, prompt };
    let response = if parameters.stream {
        EventStream::respond(|stream| head.stream(stream, answers, prompt_tokens, parameters))
    } else {
        let all = all_finished(answers).await?;
        respond(StatusCode::OK, &head.whole(&all, prompt_tokens, with_log_probabilities))
    };
    Ok(with_warnings(response, &ignored))
}

/// Counts the tokens of a request's prompt.
pub async fn input_tokens(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (_, (turn, ..)) = parsed(&app, &extensions, body, parse).await?;
    let count = json!({ "object": "response.input_tokens", "input_tokens": turn.request.prompt.len() });
    Ok(respond(StatusCode::OK, &count))
}

/// Parses a request. Also returns the names of the fields that were ignored.
pub fn parse(
    service: &Service,
    mut fields: Fields,
    common: &Common,
) -> Result<(Turn, Parameters, Vec<String>), ApiError> {
    fields.refuse(REFUSED)?;
    let parameters = Parameters::read(&mut fields, service)?;
    let tools = Tools::read(&mut fields)?;
    let constraint = constraint(&mut fields, service)?;
    let messages = messages(&mut fields)?;
    let (ending, variables) = rendering(&mut fields, &messages)?;
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.integer(&["top_logprobs"], 0)?;
    if top.is_some() && !wanted {
        return Err(ApiError::parameter("top_logprobs", "needs `logprobs`: true"));
    }
    let top = top.unwrap_or(0);
    if top > MOST_TOP {
        return Err(ApiError::parameter("top_logprobs", format!("at most {MOST_TOP}")));
    }
    let inputs = Inputs { messages, tools, ending, variables, constraint };
    let mut turn = Turn::new(service, common, &parameters, inputs)?;
    turn.request.log_probabilities = wanted.then_some(top as usize);
    Ok((turn, parameters, fields.ignored()))
}

/// Reads the end of the rendering, and other variables of the template.
pub fn rendering(
    fields: &mut Fields,
    messages: &[Message],
) -> Result<(Ending, Map<String, Value>), ApiError> {
    // The model continues a last message of its own.
    let own = messages.last().is_some_and(|message| message.role == "assistant");
    let generation = fields.flag("add_generation_prompt")?;
    let continues = fields.flag("continue_final_message")?;
    let before = messages.len().checked_sub(2).map(|index| &messages[index].role);
    if own && generation != Some(true) && before.is_some_and(|role| role == "assistant") {
        let message = "two messages of the assistant stand at the end; the model can continue one";
        return Err(ApiError::parameter("messages", message));
    }
    let ending = match (generation, continues) {
        (Some(true), Some(true)) => {
            let message = "the prompt either continues the last message or begins a new one";
            return Err(ApiError::parameter("continue_final_message", message));
        }
        (_, Some(true)) if !own => {
            return Err(ApiError::parameter("continue_final_message", "the last message is not the model's"));
        }
        (_, Some(true)) => Ending::Continue,
        (Some(true), _) => Ending::Prompt,
        (Some(false), _) if !own => Ending::Whole,
        (_, None) if own => Ending::Continue,
        (Some(false), _) => Ending::Whole,
        (None, _) => Ending::Prompt,
    };
    let mut variables = fields.object("chat_template_kwargs")?.unwrap_or_default();
    if let Some(effort) = fields.text("reasoning_effort")? {
        variables.insert("reasoning_effort".to_owned(), effort.into());
    }
    Ok((ending, variables))
}

/// The common part of a whole response and of a stream.
struct Head {
    id: String,
    created: u64,
    service: Arc<Service>,
    parts: Parts,
    /// The prompt as the model reads it, if the request wants it.
    prompt: Option<String>,
}

impl Head {
    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    /// The whole response.
    fn whole(&self, answers: &[Finished], prompt: usize, with_log_probabilities: bool) -> Value {
        let choice = |(index, answer): (usize, &Finished)| {
            let log_probabilities =
                with_log_probabilities.then(|| chat_log_probabilities(&self.service, &answer.tokens));
            let mut message = AssistantMessage::default();
            for delta in self.parts.reader().read(answer.text.clone(), true) {
                message.add(delta);
            }
            json!({
                "index": index,
                "message": message.to_json(),
                "logprobs": log_probabilities,
                "finish_reason": message.reason(answer.finish),
            })
        };
        let counts: Vec<Count> = answers.iter().map(|answer| answer.count).collect();
        let mut response = self.object("chat.completion", answers.iter().enumerate().map(choice).collect());
        response["usage"] = usage(prompt, &counts);
        response["timings"] = timings(prompt, &counts[0]);
        if let Some(prompt) = &self.prompt {
            response["__verbose"] = json!({ "prompt": prompt });
        }
        response
    }

    /// Sends the answers as they come.
    async fn stream(
        self,
        stream: EventStream,
        answers: Vec<Answer>,
        prompt: usize,
        parameters: Parameters,
    ) -> Result<(), Left> {
        let chunk = |index: usize, delta: Value, log_probabilities: Option<Value>, end: Option<&str>| {
            let choice = json!({
                "index": index, "delta": delta, "logprobs": log_probabilities, "finish_reason": end,
            });
            let mut chunk = self.object("chat.completion.chunk", json!([choice]));
            if parameters.usage_in_stream {
                chunk["usage"] = Value::Null;
            }
            chunk
        };
        let mut counts = vec![Count::default(); answers.len()];
        let mut messages: Vec<AssistantMessage> =
            answers.iter().map(|_| AssistantMessage::default()).collect();
        let mut readers: Vec<PartReader> = answers.iter().map(|_| self.parts.reader()).collect();
        let mut begun = vec![false; answers.len()];
        let mut open = answers.len();
        let mut answers = merged(answers);
        while open > 0 {
            let Some((index, event)) = stream.wait(answers.next()).await? else {
                return stream.send(&ApiError::from(stopped()).to_json()).await;
            };
            counts[index].add(&event);
            let begins = matches!(event, Event::Started { .. } | Event::Progress { .. });
            if begins && !std::mem::replace(&mut begun[index], true) {
                let delta = json!({ "role": "assistant", "content": null });
                stream.send(&chunk(index, delta, None, None)).await?;
            }
            let times = parameters.timings_per_token.then(|| timings(prompt, &counts[index]));
            match event {
                Event::Prompt(_) | Event::Choices(_) | Event::Started { .. } => {}
                Event::Progress { cached_tokens, read, time } => {
                    let mut chunk = chunk(index, json!({}), None, None);
                    chunk["prompt_progress"] = progress(prompt, cached_tokens, read, time);
                    chunk["timings"] = timings(read, &counts[index]);
                    stream.send(&chunk).await?;
                }
                Event::Piece { token, text } => {
                    let log_probabilities = token.log_probabilities.is_some();
                    let log_probabilities =
                        log_probabilities.then(|| chat_log_probabilities(&self.service, &[token]));
                    let mut log_probabilities = log_probabilities;
                    for delta in readers[index].read(text, false) {
                        let delta = messages[index].add(delta);
                        let mut chunk = chunk(index, delta, log_probabilities.take(), None);
                        if let Some(times) = &times {
                            chunk["timings"] = times.clone();
                        }
                        stream.send(&chunk).await?;
                    }
                    if log_probabilities.is_some() {
                        stream.send(&chunk(index, json!({}), log_probabilities, None)).await?;
                    }
                }
                Event::Ended { text, finish, .. } => {
                    for delta in readers[index].read(text, true) {
                        let delta = messages[index].add(delta);
                        stream.send(&chunk(index, delta, None, None)).await?;
                    }
                    let end = messages[index].reason(Some(finish));
                    let mut last = chunk(index, json!({}), None, Some(end));
                    last["timings"] = timings(prompt, &counts[index]);
                    stream.send(&last).await?;
                    open -= 1;
                }
                Event::Failed(failure) => return stream.send(&ApiError::from(failure).to_json()).await,
            }
        }
        if parameters.usage_in_stream {
            let mut last = self.object("chat.completion.chunk", json!([]));
            last["usage"] = usage(prompt, &counts);
            last["timings"] = timings(prompt, &counts[0]);
            stream.send(&last).await?;
        }
        stream.done().await
    }
}
