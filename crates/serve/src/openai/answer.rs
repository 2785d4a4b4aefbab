//! Answers of the engine in OpenAI's form.

use crate::Token;
use crate::answers::Count;
use crate::service::Service;
use kvant::model::{Finish, LogProbabilities};
use serde_json::{Value, json};
use std::time::Duration;

/// The version of this server, in the form of llama.cpp's: `b`, a number, and a text.
pub const FINGERPRINT: &str = concat!("b1-kvant-", env!("CARGO_PKG_VERSION"));

/// The progress of reading a prompt, in the form of llama.cpp's server.
pub fn progress(total: usize, cached: usize, read: usize, time: Duration) -> Value {
    json!({ "total": total, "cache": cached, "processed": read, "time_ms": 1e3 * time.as_secs_f64() })
}

/// The usage of several answers to one prompt.
pub fn usage(prompt: usize, counts: &[Count]) -> Value {
    let answer: usize = counts.iter().map(|count| count.answer).sum();
    let cached = counts.first().map_or(0, |count| count.cached);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

/// The times of an answer, as llama.cpp's server gives them.
pub fn timings(prompt: usize, count: &Count) -> Value {
    let read = prompt.saturating_sub(count.cached);
    let rate = |tokens: usize, time: Duration| {
        let seconds = time.as_secs_f64();
        let (each, rate) = if seconds > 0.0 && tokens > 0 {
            (1e3 * seconds / tokens as f64, tokens as f64 / seconds)
        } else {
            (0.0, 0.0)
        };
        (1e3 * seconds, each, rate)
    };
    let (prompt_ms, prompt_each, prompt_rate) = rate(read, count.prefill);
    // The time between n tokens is that of n − 1 steps.
    let (answer_ms, answer_each, answer_rate) = rate(count.answer.saturating_sub(1), count.decode);
    json!({
        "cache_n": count.cached,
        "prompt_n": read,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_each,
        "prompt_per_second": prompt_rate,
        "predicted_n": count.answer,
        "predicted_ms": answer_ms,
        "predicted_per_token_ms": answer_each,
        "predicted_per_second": answer_rate,
    })
}

/// The log probabilities of tokens, in the form of chat completions.
pub fn chat_log_probabilities(service: &Service, tokens: &[Token]) -> Value {
    let one = |id: u32, value: f32| log_probability_entry(service, id, value);
    let content: Vec<Value> = tokens
        .iter()
        .filter_map(|token| {
            let LogProbabilities { token: own, top } = token.log_probabilities.as_ref()?;
            let mut entry = one(token.id, *own);
            entry["top_logprobs"] = top.iter().map(|(id, value)| one(*id, *value)).collect();
            Some(entry)
        })
        .collect();
    json!({ "content": content, "refusal": null })
}

/// A token with its log probability.
pub fn log_probability_entry(service: &Service, id: u32, log_probability: f32) -> Value {
    let bytes = service.tokenizer().bytes(id, true);
    json!({
        "token": String::from_utf8_lossy(&bytes),
        "logprob": finite(log_probability),
        "bytes": bytes,
    })
}

/// A log probability that JSON can express. OpenAI's smallest one stands for minus infinity.
pub fn finite(log_probability: f32) -> f32 {
    log_probability.max(-9999.0)
}

/// The reason of the end in OpenAI's words.
pub fn reason(finish: Option<Finish>) -> &'static str {
    finish.map_or("stop", Finish::name)
}
