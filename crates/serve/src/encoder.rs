//! A loaded model for vectors of texts.

use crate::engine::Metrics;
use crate::http::ApiError;
use crate::service::{ModelSize, ServiceSettings};
use crate::turn::{encoded, is_list_of_prompts};
use kvant::kernels::Backend;
use kvant::{Embedded, Model, TextEncoder, TextIds};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Largest number of texts in a request.
const MOST_TEXTS: usize = 2048;

/// A model for vectors of texts. Requests run one after the other.
pub struct EncoderService {
    encoder: TextEncoder,
    pub(crate) name: String,
    pub(crate) size: ModelSize,
    /// The largest number of requests that run or wait.
    most: usize,
    /// One request runs, and a limited number of requests waits.
    running: Semaphore,
    open: Semaphore,
    metrics: Metrics,
}

impl EncoderService {
    /// Loads a model.
    ///
    /// # Errors
    /// Errors of reading and of the tokenizer.
    pub fn load(
        model: &Model,
        name: &str,
        backend: &Backend,
        settings: &ServiceSettings,
        metrics: Metrics,
    ) -> Result<Self, kvant::Error> {
        let most = settings.queue + 1;
        Ok(Self {
            encoder: TextEncoder::load(model, backend, settings.run.arithmetic, settings.pooling)?,
            name: name.to_owned(),
            size: ModelSize::of(model),
            most,
            running: Semaphore::new(1),
            open: Semaphore::new(most),
            metrics,
        })
    }

    /// The largest number of tokens of a text.
    pub(crate) fn longest(&self) -> usize {
        self.encoder.longest()
    }

    /// True if a request runs or waits.
    pub(crate) fn is_busy(&self) -> bool {
        self.open.available_permits() < self.most
    }

    /// Waits until no other request runs, and computes the vectors of texts on another thread. `input` is one text or a
    /// list of texts; a text is a string, a list of token ids and strings, or an object with `prompt_string` or parts in
    /// `content`. With `cut`, texts that are too long are cut.
    ///
    /// # Errors
    /// Another form; a text that is too long; too many requests wait.
    pub(crate) async fn encode(
        self: Arc<Self>,
        name: &'static str,
        input: Value,
        cut: bool,
    ) -> Result<Embedded, ApiError> {
        let Ok(_open) = self.open.try_acquire() else { return Err(ApiError::busy()) };
        let _running = self.running.acquire().await.map_err(|_| ApiError::unavailable("the server ends"))?;
        let of_thread = self.clone();
        let encoded = tokio::task::spawn_blocking(move || {
            let texts = of_thread.texts(name, &input, cut)?;
            let embedded = of_thread.encoder.encode_ids(&texts, &());
            let embedded = embedded.map_err(|error| ApiError::parameter(name, error))?;
            of_thread.metrics.embedded(embedded.tokens.iter().sum());
            Ok(embedded)
        });
        encoded.await.map_err(|_| ApiError::server("the request failed"))?
    }

    /// Converts the texts of a request to tokens.
    fn texts(&self, name: &str, input: &Value, cut: bool) -> Result<Vec<TextIds>, ApiError> {
        let texts: Vec<TextIds> = match input {
            Value::Array(values) if is_list_of_prompts(values) => {
                if values.len() > MOST_TEXTS {
                    let message = format!("{} texts, at most {MOST_TEXTS} allowed", values.len());
                    return Err(ApiError::parameter(name, message));
                }
                values.iter().map(|value| self.text(name, value)).collect::<Result<_, _>>()?
            }
            value => vec![self.text(name, value)?],
        };
        let long = |text: &&TextIds| text.cut || text.ids.len() > self.longest();
        if !cut && let Some(text) = texts.iter().find(long) {
            let (tokens, longest) = (text.ids.len(), self.longest());
            let more = if text.cut { "more than " } else { "" };
            let message = format!(
                "the input is too large: {more}{tokens} tokens, and the model reads {longest}; `truncate`: true cuts it"
            );
            return Err(ApiError::parameter(name, message));
        }
        Ok(texts)
    }

    fn text(&self, name: &str, value: &Value) -> Result<TextIds, ApiError> {
        let ids = |text: &str| self.encoder.ids(text).map_err(|error| ApiError::parameter(name, error));
        let wrong = || ApiError::parameter(name, "expected a text, token ids, or a list of these");
        match value {
            Value::String(text) => ids(text),
            // Ids stand for themselves: nothing is added to them.
            Value::Array(_) => {
                let ids = encoded(name, value, self.encoder.tokenizer())?;
                Ok(TextIds { ids, cut: false })
            }
            Value::Object(fields) => match (fields.get("prompt_string"), fields.get("content")) {
                (Some(Value::String(text)), _) => ids(text),
                (None, Some(Value::Array(parts))) => {
                    let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                        (Some("text"), Some(text)) => Ok(text.to_owned()),
                        _ => Err(ApiError::parameter(name, "the model reads parts of the type `text` only")),
                    };
                    ids(&parts.iter().map(part).collect::<Result<String, _>>()?)
                }
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}
