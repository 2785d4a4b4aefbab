//! The interfaces of OpenAI.

mod answer;
mod chat;
mod completions;
mod format;
mod message;
mod messages;
mod models;
mod parameters;
mod tools;

pub use chat::{completions as chat_completions, conversation};
pub use completions::completions;
pub use messages::messages;
pub use models::{model, models};

use crate::http::{ApiError, Client};
use crate::service::Service;
use crate::{Answer, Request};
use axum::http::{Extensions, HeaderValue};
use axum::response::Response;
use kvant::model::Sampling;
use parameters::Parameters;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio_stream::StreamMap;

/// The part of a request that does not stand in its body.
struct Common {
    client: Arc<str>,
}

impl Common {
    fn of(extensions: &Extensions) -> Self {
        Self { client: extensions.get::<Client>().map_or_else(|| "".into(), |client| client.0.clone()) }
    }

    /// A request to the engine.
    fn request(&self, service: &Service, prompt: Vec<u32>, parameters: &Parameters) -> Request {
        let context = service.engine.settings().context;
        Request {
            stop: parameters.stop.clone(),
            ignore_end: parameters.ignore_end,
            client: self.client.clone(),
            deadline: service.timeout.map(|timeout| Instant::now() + timeout),
            ..Request::new(prompt, parameters.limit.unwrap_or(context), parameters.sampling.clone())
        }
    }
}

/// Submits each request `count` times, with seeds that follow each other. The answers to one request follow each other.
fn submit(service: &Service, requests: &[Request], count: usize) -> Result<Vec<Answer>, ApiError> {
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
fn merged(answers: Vec<Answer>) -> StreamMap<usize, Answer> {
    answers.into_iter().enumerate().collect()
}

/// Returns an identifier that no other response has.
fn identifier(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{prefix}{random:016x}{:08x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Names the fields that were ignored in a header of the response.
fn with_warnings(mut response: Response, ignored: &[String]) -> Response {
    if !ignored.is_empty() {
        let names: String =
            ignored.join(", ").chars().filter(|c| (' '..='~').contains(c)).take(512).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("ignored: {names}")) {
            response.headers_mut().insert("warnings", value);
        }
    }
    response
}
