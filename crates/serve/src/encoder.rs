//! A loaded model for vectors of texts.

use crate::engine::Metrics;
use crate::gone::Gone;
use crate::http::ApiError;
use crate::service::{ModelSize, ServiceSettings};
use crate::turn::{encoded, is_list_of_prompts};
use kvant::kernels::Backend;
use kvant::model::Tokenizer;
use kvant::{Embedded, Model, Progress, TextEncoder, TextIds};
use serde_json::Value;
use std::sync::{Arc, Weak};
use tokio::sync::Semaphore;

/// Largest number of texts in a request.
const MOST_TEXTS: usize = 2048;

/// Work that ends when its client leaves.
struct Work {
    client: Weak<()>,
}

impl Progress for Work {
    fn at(&self, _done: u64, _total: u64, _what: &str) {}

    fn stop(&self) -> bool {
        self.client.strong_count() == 0
    }
}

/// A model for vectors of texts. Requests run one after the other.
pub struct EncoderService {
    encoder: TextEncoder,
    pub(crate) name: String,
    pub(crate) size: ModelSize,
    /// One request runs, and a limited number of requests waits.
    running: Arc<Semaphore>,
    open: Arc<Semaphore>,
    metrics: Metrics,
    // The last field: it is dropped after all memory is free.
    pub(crate) gone: Gone,
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
            running: Semaphore::new(1).into(),
            open: Semaphore::new(most).into(),
            metrics,
            gone: Gone::default(),
        })
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        self.encoder.tokenizer()
    }

    /// The largest number of tokens of a text.
    pub(crate) fn longest(&self) -> usize {
        self.encoder.longest()
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
        let Ok(open) = self.open.clone().try_acquire_owned() else { return Err(ApiError::busy()) };
        let running = self.running.clone().acquire_owned().await;
        let running = running.map_err(|_| ApiError::unavailable("the server ends"))?;
        let client = Arc::new(());
        let work = Work { client: Arc::downgrade(&client) };
        let of_thread = self.clone();
        // The thread holds the permits, because it works on for a moment after the client left.
        let encoded = tokio::task::spawn_blocking(move || {
            let _permits = (open, running);
            let texts = of_thread.texts(name, &input, cut)?;
            let embedded = of_thread.encoder.encode_ids(&texts, &work);
            let embedded = embedded.map_err(|error| ApiError::parameter(name, error))?;
            of_thread.metrics.embedded(embedded.tokens.iter().sum());
            Ok(embedded)
        });
        let encoded = encoded.await.map_err(|_| ApiError::server("the request failed"));
        drop(client);
        encoded?
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
        if !cut && texts.iter().any(|text| text.cut) {
            let longest = self.longest();
            let message =
                format!("the input is too large: the model reads {longest} tokens; `truncate`: true cuts it");
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
                let mut ids = encoded(name, value, self.encoder.tokenizer())?;
                let cut = ids.len() > self.longest();
                ids.truncate(self.longest());
                Ok(TextIds { ids, cut })
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

/// Refuses another number of elements than the vectors have.
///
/// # Errors
/// `dimensions` is given and differs.
pub(crate) fn expect_dimension(embedded: &Embedded, dimensions: Option<i64>) -> Result<(), ApiError> {
    if dimensions.is_none_or(|dimensions| dimensions == embedded.dimension as i64) {
        return Ok(());
    }
    let message = format!("the vectors of this model have {} elements", embedded.dimension);
    Err(ApiError::not_supported("dimensions", message))
}
