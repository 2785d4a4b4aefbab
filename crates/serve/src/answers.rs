//! Answers of the engine, for all interfaces: submission, merged events, the whole of a finished answer.

use crate::http::{ApiError, App, Fields};
use crate::service::Service;
use crate::turn::Common;
use crate::{Answer, Event, Failure, Request, Token};
use axum::body::Bytes;
use axum::http::{Extensions, HeaderValue};
use axum::response::Response;
use kvant::model::{Finish, Sampling};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_stream::{StreamExt, StreamMap};

/// Parses a request on another thread, because rendering and encoding take noticeable time. Also returns the model that the
/// request names.
///
/// # Errors
/// Errors of [`App::service`] and of `parse`.
pub async fn parsed<T: Send + 'static>(
    app: &App,
    extensions: &Extensions,
    body: Bytes,
    parse: impl FnOnce(&Service, Fields, &Common) -> Result<T, ApiError> + Send + 'static,
) -> Result<(Arc<Service>, T), ApiError> {
    let mut fields = app.fields(body).await?;
    let service = app.service(fields.text("model")?.as_deref()).await?;
    let of_request = service.clone();
    let common = Common::of(extensions);
    let parsed = app.blocking(move || parse(&of_request, fields, &common)).await??;
    Ok((service, parsed))
}

/// A finished answer.
#[derive(Default)]
pub struct Finished {
    /// The tokens of the prompt, if the request wants their log probabilities.
    pub prompt: Vec<Token>,
    /// The log probabilities of the request's choices.
    pub choices: Vec<f32>,
    pub text: String,
    /// The texts that became final with each token, and at the end.
    pub pieces: Vec<String>,
    pub tokens: Vec<Token>,
    pub end: Option<Token>,
    pub finish: Option<Finish>,
    /// The stop text that ended the answer, if one did.
    pub stop: Option<String>,
    pub count: Count,
}

/// Numbers of tokens and times of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub cached: usize,
    pub answer: usize,
    pub prefill: Duration,
    pub decode: Duration,
    /// The time of the first token.
    first: Option<Instant>,
}

impl Count {
    /// Adds the times and numbers of an event.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Started { cached_tokens, prefill, .. } => {
                self.cached = *cached_tokens;
                self.prefill = *prefill;
                self.first = Some(Instant::now());
            }
            Event::Progress { cached_tokens, time, .. } => {
                self.cached = *cached_tokens;
                self.prefill = *time;
            }
            Event::Piece { .. } => {
                self.answer += 1;
                self.decode = self.first.map_or_else(Duration::default, |first| first.elapsed());
            }
            Event::Ended { tokens, decode, .. } => {
                self.answer = *tokens;
                self.decode = *decode;
            }
            Event::Prompt(_) | Event::Choices(_) | Event::Failed(_) => {}
        }
    }
}

/// Waits for the end of an answer.
///
/// # Errors
/// [`Failure`].
pub async fn finished(mut answer: Answer) -> Result<Finished, ApiError> {
    let mut finished = Finished::default();
    while let Some(event) = answer.next().await {
        finished.count.add(&event);
        match event {
            Event::Started { .. } | Event::Progress { .. } => {}
            Event::Choices(values) => finished.choices = values,
            Event::Prompt(tokens) => finished.prompt.extend(tokens),
            Event::Piece { token, text } => {
                finished.tokens.push(token);
                finished.text.push_str(&text);
                finished.pieces.push(text);
            }
            Event::Ended { text, finish, stop, end, .. } => {
                finished.text.push_str(&text);
                finished.pieces.push(text);
                finished.finish = Some(finish);
                finished.end = end;
                finished.stop = stop;
                return Ok(finished);
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
    }
    Err(stopped().into())
}

/// Waits for the end of all answers.
///
/// # Errors
/// The [`Failure`] of one of them.
pub async fn all_finished(answers: Vec<Answer>) -> Result<Vec<Finished>, ApiError> {
    let mut all = Vec::with_capacity(answers.len());
    for answer in answers {
        all.push(finished(answer).await?);
    }
    Ok(all)
}

/// The failure of an answer without a last event.
pub fn stopped() -> Failure {
    Failure::Network("the engine stopped".to_owned())
}

/// Submits each request `count` times, with seeds that follow each other. The answers to one request follow each other.
pub fn submit(service: &Service, requests: &[Request], count: usize) -> Result<Vec<Answer>, ApiError> {
    let mut answers = Vec::new();
    for request in requests {
        for index in 0..count as u64 {
            let seed = request.sampling.seed.wrapping_add(index);
            let sampling = Sampling { seed, ..request.sampling.clone() };
            answers.push(service.engine.submit(Request { sampling, ..request.clone() })?);
        }
    }
    Ok(answers)
}

/// Merges the events of answers. Each event has the index of its answer.
pub fn merged(answers: Vec<Answer>) -> StreamMap<usize, Answer> {
    answers.into_iter().enumerate().collect()
}

/// Names the fields that were ignored in a header of the response.
pub fn with_warnings(mut response: Response, ignored: &[String]) -> Response {
    if !ignored.is_empty() {
        let names: String =
            ignored.join(", ").chars().filter(|c| (' '..='~').contains(c)).take(512).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("ignored: {names}")) {
            response.headers_mut().insert("warnings", value);
        }
    }
    response
}
