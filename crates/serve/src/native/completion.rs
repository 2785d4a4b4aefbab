//! `/completion`: llama.cpp's own form of completions.

use crate::answers::{Count, Finished, all_finished, merged, parsed, stopped, submit, with_warnings};
use crate::http::{ApiError, App, EventStream, Fields, Left, respond};
use crate::openai::{constraint, log_probability_entry, progress, timings};
use crate::service::Service;
use crate::turn::{Common, MOST_TOP, Parameters, prompts};
use crate::{Answer, Event, Request, Token};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use kvant::model::{Finish, Sampling};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_stream::StreamExt;

/// Fields that would change the answer.
const REFUSED: &[&str] = &["lora", "image_data"];

/// A parsed request.
struct Completion {
    parameters: Parameters,
    requests: Vec<Request>,
    with_tokens: bool,
    /// The fields of the response; empty for all of them.
    response_fields: Vec<String>,
    ignored: Vec<String>,
}

/// Answers a request.
pub async fn completion(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (service, parsed) = parsed(&app, &extensions, body, parse).await?;
    let Completion { parameters, requests, with_tokens, response_fields, ignored } = parsed;
    let answers = submit(&service, &requests, parameters.answers)?;
    let stream = parameters.stream;
    let head = Head { service, requests, parameters, with_tokens, response_fields };
    let response = if stream {
        EventStream::respond(|stream| head.stream(stream, answers))
    } else {
        let all = all_finished(answers).await?.into_iter().enumerate();
        let mut all: Vec<Value> = all.map(|(index, answer)| head.whole(index, answer)).collect();
        // One answer stands alone, several in a list.
        let body = if all.len() == 1 { all.remove(0) } else { Value::Array(all) };
        respond(StatusCode::OK, &body)
    };
    Ok(with_warnings(response, &ignored))
}

fn parse(service: &Service, mut fields: Fields, common: &Common) -> Result<Completion, ApiError> {
    fields.refuse(REFUSED)?;
    let with_tokens = fields.flag("return_tokens")?.unwrap_or(false);
    let parameters = Parameters::read(&mut fields, service)?;
    let constraint = constraint(&mut fields, service)?;
    let top = fields.integer(&["n_probs"], 0)?.unwrap_or(0);
    if top > MOST_TOP {
        return Err(ApiError::parameter("n_probs", format!("at most {MOST_TOP}")));
    }
    let after_sampling = fields.flag("post_sampling_probs")?.unwrap_or(false);
    let response_fields = fields.texts("response_fields", 64)?;
    let prompts = prompts(&mut fields, service.tokenizer(), parameters.answers)?;
    let request = |prompt: Vec<u32>| Request {
        log_probabilities: (top > 0).then_some(top as usize),
        after_sampling,
        constraint: constraint.clone(),
        ..common.request(service, prompt, &parameters)
    };
    let requests = prompts.into_iter().map(request).collect();
    Ok(Completion { parameters, requests, with_tokens, response_fields, ignored: fields.ignored() })
}

/// The common part of all answers.
struct Head {
    service: Arc<Service>,
    requests: Vec<Request>,
    parameters: Parameters,
    with_tokens: bool,
    response_fields: Vec<String>,
}

/// The end of an answer.
struct End {
    finish: Option<Finish>,
    stop: Option<String>,
    count: Count,
    has_new_line: bool,
}

impl Head {
    fn request(&self, answer: usize) -> &Request {
        &self.requests[answer / self.parameters.answers]
    }

    /// A part of an answer.
    fn piece(&self, index: usize, text: &str, tokens: &[Token]) -> Value {
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let mut piece = json!({ "index": index, "content": text, "tokens": ids, "stop": false });
        let request = self.request(index);
        if request.log_probabilities.is_some() {
            piece["completion_probabilities"] = probabilities(&self.service, tokens, request.after_sampling);
        }
        piece
    }

    /// A whole answer.
    fn whole(&self, index: usize, answer: Finished) -> Value {
        let Finished { text, tokens, finish, stop, count, .. } = answer;
        let end = End { finish, stop, count, has_new_line: text.contains('\n') };
        let mut whole = self.piece(index, &text, &tokens);
        if !self.with_tokens {
            whole["tokens"] = json!([]);
        }
        self.add_end(&mut whole, index, end);
        if self.response_fields.is_empty() {
            return whole;
        }
        // A path such as `generation_settings/n_predict` is also the name of its field in the response.
        let field = |path: &String| {
            let value = path.split('/').try_fold(&whole, |value, name| value.get(name))?;
            Some((path.clone(), value.clone()))
        };
        Value::Object(self.response_fields.iter().filter_map(field).collect())
    }

    /// Adds what is known at the end of an answer.
    fn add_end(&self, piece: &mut Value, index: usize, end: End) {
        let request = self.request(index);
        let stop_type = match (end.finish, &end.stop) {
            (_, Some(_)) => "word",
            (Some(Finish::Length), None) => "limit",
            (_, None) => "eos",
        };
        // The context ended the answer, not the limit of the request.
        let truncated = end.finish == Some(Finish::Length) && end.count.answer < request.limit;
        let prompt = self.service.tokenizer().pieces(&request.prompt);
        for (name, value) in [
            ("stop", true.into()),
            ("model", self.service.name.as_str().into()),
            ("tokens_predicted", end.count.answer.into()),
            ("tokens_evaluated", request.prompt.len().into()),
            ("tokens_cached", (request.prompt.len() + end.count.answer).into()),
            ("generation_settings", self.settings(request)),
            ("prompt", prompt.into()),
            ("has_new_line", end.has_new_line.into()),
            ("truncated", truncated.into()),
            ("stop_type", stop_type.into()),
            ("stopping_word", end.stop.unwrap_or_default().into()),
            ("timings", timings(request.prompt.len(), &end.count)),
        ] {
            piece[name] = value;
        }
    }

    /// The settings of an answer, with llama.cpp's names.
    fn settings(&self, request: &Request) -> Value {
        let sampling = &request.sampling;
        let bias = |(token, bias): &(u32, f32)| json!({ "token": token, "bias": bias });
        let mut biases: Vec<Value> = sampling.logit_bias.iter().map(bias).collect();
        if request.ignore_end {
            let ends = self.service.tokenizer().end_of_generation().iter();
            biases.extend(ends.map(|token| json!({ "token": token, "bias": null })));
        }
        let limit = self.parameters.limit.unwrap_or(self.service.answer_tokens);
        let mut settings = sampling_settings(sampling);
        for (name, value) in [
            ("stop", json!(request.stop)),
            ("max_tokens", i64::try_from(limit).unwrap_or(-1).into()),
            ("n_predict", i64::try_from(limit).unwrap_or(-1).into()),
            ("ignore_eos", request.ignore_end.into()),
            ("stream", self.parameters.stream.into()),
            ("logit_bias", biases.into()),
            ("n_probs", request.log_probabilities.unwrap_or(0).into()),
            ("post_sampling_probs", request.after_sampling.into()),
        ] {
            settings[name] = value;
        }
        settings
    }

    /// Sends the answers as they come.
    async fn stream(self, stream: EventStream, answers: Vec<Answer>) -> Result<(), Left> {
        let mut counts = vec![Count::default(); answers.len()];
        let mut has_new_line = vec![false; answers.len()];
        let mut open = answers.len();
        let mut answers = merged(answers);
        while open > 0 {
            let Some((index, event)) = stream.wait(answers.next()).await? else {
                return stream.send(&ApiError::from(stopped()).to_json()).await;
            };
            counts[index].add(&event);
            let prompt = self.request(index).prompt.len();
            match event {
                Event::Prompt(_) | Event::Started { .. } | Event::Choices(_) => {}
                Event::Progress { cached_tokens, read, time } => {
                    let mut piece = self.piece(index, "", &[]);
                    piece["prompt_progress"] = progress(prompt, cached_tokens, read, time);
                    piece["timings"] = timings(read, &counts[index]);
                    stream.send(&piece).await?;
                }
                Event::Piece { token, text } => {
                    has_new_line[index] |= text.contains('\n');
                    let mut piece = self.piece(index, &text, &[token]);
                    if self.parameters.timings_per_token {
                        piece["timings"] = timings(prompt, &counts[index]);
                    }
                    stream.send(&piece).await?;
                }
                Event::Ended { text, finish, stop, .. } => {
                    let has_new_line = has_new_line[index] || text.contains('\n');
                    let end = End { finish: Some(finish), stop, count: counts[index], has_new_line };
                    let mut last = self.piece(index, &text, &[]);
                    self.add_end(&mut last, index, end);
                    stream.send(&last).await?;
                    open -= 1;
                }
                Event::Failed(failure) => return stream.send(&ApiError::from(failure).to_json()).await,
            }
        }
        // llama.cpp's own form has no last event of its own.
        Ok(())
    }
}

/// The settings for the choice of tokens, with llama.cpp's names.
pub fn sampling_settings(sampling: &Sampling) -> Value {
    json!({
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "dynatemp_range": sampling.dynamic_temperature.range,
        "dynatemp_exponent": sampling.dynamic_temperature.exponent,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "top_n_sigma": sampling.top_n_sigma,
        "xtc_probability": sampling.xtc.probability,
        "xtc_threshold": sampling.xtc.threshold,
        "typical_p": sampling.typical_p,
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "dry_multiplier": sampling.dry.multiplier,
        "dry_base": sampling.dry.base,
        "dry_allowed_length": sampling.dry.allowed_length,
        "dry_penalty_last_n": sampling.dry.penalty_last_n,
        "mirostat": sampling.mirostat.version,
        "mirostat_tau": sampling.mirostat.target_entropy,
        "mirostat_eta": sampling.mirostat.learning_rate,
    })
}

/// The log probabilities of tokens with their ids. After sampling, they are probabilities.
fn probabilities(service: &Service, tokens: &[Token], after_sampling: bool) -> Value {
    let one = |id: u32, value: f32| {
        let mut entry = log_probability_entry(service, id, value);
        entry["id"] = id.into();
        if after_sampling && let Some(entry) = entry.as_object_mut() {
            entry.remove("logprob");
            entry.insert("prob".to_owned(), value.exp().into());
        }
        entry
    };
    let entry = |token: &Token| {
        let known = token.log_probabilities.as_ref()?;
        let mut entry = one(token.id, known.token);
        let top = if after_sampling { "top_probs" } else { "top_logprobs" };
        entry[top] = known.top.iter().map(|(id, value)| one(*id, *value)).collect();
        Some(entry)
    };
    tokens.iter().filter_map(entry).collect()
}
