//! `/v1/completions`, with `echo` and `logprobs` over the prompt, so that evaluation programs can judge the model.

use super::answer::{FINGERPRINT, finite, progress, reason, timings, usage};
use super::format::constraint;
use crate::answers::{Count, Finished, all_finished, merged, parsed, stopped, submit, with_warnings};
use crate::http::{ApiError, App, EventStream, Fields, Left, respond};
use crate::random::identifier;
use crate::service::{Service, now};
use crate::turn::{Common, MOST_TOP, Parameters, prompts};
use crate::{Answer, Event, Request, Token};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::str::Chars;
use std::sync::Arc;
use tokio_stream::StreamExt;

/// Fields that would change the answer.
const REFUSED: &[&str] = &["suffix", "use_beam_search"];

/// A parsed request.
struct Completion {
    parameters: Parameters,
    requests: Vec<Request>,
    echo: bool,
    ignored: Vec<String>,
}

/// Answers a request.
pub async fn completions(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (service, parsed) = parsed(&app, &extensions, body, parse).await?;
    let Completion { parameters, requests, echo, ignored } = parsed;
    let answers = submit(&service, &requests, parameters.answers)?;
    let prompts = requests.into_iter().map(|request| request.prompt).collect();
    let head =
        Head { id: identifier("cmpl-"), created: now(), service, prompts, each: parameters.answers, echo };
    let response = if parameters.stream {
        let usage = parameters.usage_in_stream;
        EventStream::respond(|stream| head.stream(stream, answers, usage))
    } else {
        respond(StatusCode::OK, &head.whole(all_finished(answers).await?))
    };
    Ok(with_warnings(response, &ignored))
}

/// Parses a request, and returns the number of tokens of its prompts.
///
/// # Errors
/// Fields of another form.
pub fn parse_completion(service: &Service, fields: Fields, common: &Common) -> Result<usize, ApiError> {
    let parsed = parse(service, fields, common)?;
    Ok(parsed.requests.iter().map(|request| request.prompt.len()).sum())
}

fn parse(service: &Service, mut fields: Fields, common: &Common) -> Result<Completion, ApiError> {
    fields.refuse(REFUSED)?;
    let mut parameters = Parameters::read(&mut fields, service)?;
    // OpenAI's default. llama.cpp's own name has no limit.
    parameters.limit = parameters.limit.or(Some(16));
    if let Some(best) = fields.integer(&["best_of"], 1)?
        && best != parameters.answers as i64
    {
        return Err(ApiError::not_supported("best_of", "only the value of `n` is possible"));
    }
    let constraint = constraint(&mut fields, service)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let top = match fields.take("logprobs") {
        None | Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) => Some(0),
        Some(value) => {
            let top = value.as_u64().filter(|top| *top <= MOST_TOP as u64);
            let expected = || format!("expected a whole number from 0 to {MOST_TOP}");
            Some(top.ok_or_else(|| ApiError::parameter("logprobs", expected()))? as usize)
        }
    };
    let prompts = prompts(&mut fields, service.tokenizer(), parameters.answers)?;
    let request = |prompt: Vec<u32>| Request {
        log_probabilities: top,
        prompt_log_probabilities: top.filter(|_| echo),
        constraint: constraint.clone(),
        ..common.request(service, prompt, &parameters)
    };
    let requests = prompts.into_iter().map(request).collect();
    Ok(Completion { requests, parameters, echo, ignored: fields.ignored() })
}

/// The common part of a whole response and of a stream.
struct Head {
    id: String,
    created: u64,
    service: Arc<Service>,
    prompts: Vec<Vec<u32>>,
    /// Number of answers to each prompt.
    each: usize,
    echo: bool,
}

impl Head {
    fn object(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.service.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    /// The prompt of an answer.
    fn prompt(&self, answer: usize) -> &[u32] {
        &self.prompts[answer / self.each]
    }

    /// The text of a prompt, without control tokens that the tokenizer adds.
    fn prompt_text(&self, answer: usize) -> String {
        self.service.tokenizer().decode(self.prompt(answer))
    }

    /// The start of the text.
    fn start(&self) -> TextPlace {
        TextPlace { characters: 0, skips_space: self.echo && self.service.tokenizer().adds_space() }
    }

    fn usage(&self, counts: &[Count]) -> Value {
        let mut all = usage(self.prompts.iter().map(Vec::len).sum(), counts);
        let cached: usize = counts.iter().step_by(self.each).map(|count| count.cached).sum();
        all["prompt_tokens_details"]["cached_tokens"] = cached.into();
        all
    }

    /// The whole response.
    fn whole(&self, answers: Vec<Finished>) -> Value {
        let counts: Vec<Count> = answers.iter().map(|answer| answer.count).collect();
        let choice = |(index, answer): (usize, Finished)| {
            let Finished { prompt, mut text, tokens, end, finish, .. } = answer;
            if self.echo {
                text.insert_str(0, &self.prompt_text(index));
            }
            // The last token has no text. Evaluation programs count it.
            let tokens: Vec<Token> = prompt.into_iter().chain(tokens).chain(end).collect();
            json!({
                "index": index,
                "text": text,
                "logprobs": log_probabilities(&self.service, &tokens, &mut self.start()),
                "finish_reason": reason(finish),
            })
        };
        let mut response = self.object(answers.into_iter().enumerate().map(choice).collect());
        response["usage"] = self.usage(&counts);
        response["timings"] = timings(self.prompt(0).len(), &counts[0]);
        response
    }

    /// Sends the answers as they come.
    async fn stream(self, stream: EventStream, answers: Vec<Answer>, with_usage: bool) -> Result<(), Left> {
        let chunk = |index: usize, text: String, log_probabilities: Value, end: Option<&str>| {
            self.object(json!([{
                "index": index, "text": text, "logprobs": log_probabilities, "finish_reason": end,
            }]))
        };
        let mut counts = vec![Count::default(); answers.len()];
        let mut places = vec![self.start(); answers.len()];
        let text = |answer: usize| if self.echo { self.prompt_text(answer) } else { String::new() };
        let echoes: Vec<String> = (0..answers.len()).map(text).collect();
        // What was not sent yet.
        let mut echoes: Vec<Chars> = echoes.iter().map(|text| text.chars()).collect();
        let mut open = answers.len();
        let mut answers = merged(answers);
        while open > 0 {
            let Some((index, event)) = stream.wait(answers.next()).await? else {
                return stream.send(&ApiError::from(stopped()).to_json()).await;
            };
            counts[index].add(&event);
            match event {
                Event::Started { .. } if self.echo && places[index].characters == 0 => {
                    let text = echoes[index].as_str().to_owned();
                    places[index].characters = text.chars().count();
                    stream.send(&chunk(index, text, Value::Null, None)).await?;
                }
                Event::Started { .. } | Event::Choices(_) => {}
                Event::Progress { cached_tokens, read, time } => {
                    let mut chunk = chunk(index, String::new(), Value::Null, None);
                    chunk["prompt_progress"] = progress(self.prompt(index).len(), cached_tokens, read, time);
                    stream.send(&chunk).await?;
                }
                Event::Prompt(tokens) => {
                    let before = places[index].characters;
                    let values = log_probabilities(&self.service, &tokens, &mut places[index]);
                    let text = echoes[index].by_ref().take(places[index].characters - before).collect();
                    stream.send(&chunk(index, text, values, None)).await?;
                }
                Event::Piece { token, text } => {
                    let tokens = [token];
                    let values = log_probabilities(&self.service, &tokens, &mut places[index]);
                    if !text.is_empty() || !values.is_null() {
                        stream.send(&chunk(index, text, values, None)).await?;
                    }
                }
                Event::Ended { text, finish, end, .. } => {
                    let end = end.as_slice();
                    let values = log_probabilities(&self.service, end, &mut places[index]);
                    let mut last = chunk(index, text, values, Some(reason(Some(finish))));
                    last["timings"] = timings(self.prompt(index).len(), &counts[index]);
                    stream.send(&last).await?;
                    open -= 1;
                }
                Event::Failed(failure) => return stream.send(&ApiError::from(failure).to_json()).await,
            }
        }
        if with_usage {
            let mut last = self.object(json!([]));
            last["usage"] = self.usage(&counts);
            stream.send(&last).await?;
        }
        stream.done().await
    }
}

/// A place in the text of a prompt and its answer.
#[derive(Clone, Copy, Debug)]
struct TextPlace {
    /// The number of characters before the place. A character that a token cuts belongs to its first token.
    characters: usize,
    /// True if the text leaves out a first space.
    skips_space: bool,
}

impl TextPlace {
    /// Moves behind the bytes of a token, and returns the number of characters before the one in which the token begins.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let skips = self.skips_space && !bytes.is_empty();
        self.skips_space &= !skips;
        let bytes = bytes.strip_prefix(b" ").filter(|_| skips).unwrap_or(bytes);
        let is_first = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
        let inside = bytes.first().is_some_and(|byte| !is_first(byte));
        let place = self.characters.saturating_sub(usize::from(inside));
        self.characters += bytes.iter().filter(|byte| is_first(byte)).count();
        place
    }
}

/// The log probabilities of tokens in the form of completions; `null` if the request wants none. `place` is the place of
/// the first token, and becomes that behind the last one. Control tokens have no text there.
fn log_probabilities(service: &Service, tokens: &[Token], place: &mut TextPlace) -> Value {
    let offsets: Vec<usize> =
        tokens.iter().map(|token| place.pass(&service.tokenizer().bytes(token.id, false))).collect();
    if tokens.iter().all(|token| token.log_probabilities.is_none()) {
        return Value::Null;
    }
    let (mut texts, mut values, mut top) = (Vec::new(), Vec::new(), Vec::new());
    for token in tokens {
        texts.push(service.tokenizer().piece(token.id));
        let known = token.log_probabilities.as_ref();
        values.push(known.map(|known| finite(known.token)));
        top.push(known.map(|known| {
            // The token itself is always there, as in OpenAI's answers.
            let own = (token.id, known.token);
            let entry = |(id, value): &(u32, f32)| (service.tokenizer().piece(*id), finite(*value).into());
            known.top.iter().chain([&own]).map(entry).collect::<Map<String, Value>>()
        }));
    }
    json!({ "tokens": texts, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets })
}
