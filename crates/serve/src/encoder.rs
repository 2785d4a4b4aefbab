//! A loaded model for vectors of texts.

use crate::http::ApiError;
use crate::service::{ServiceSettings, model_name, now};
use kvant::kernels::Backend;
use kvant::{Embedded, Model, TextEncoder};
use tokio::sync::Semaphore;

/// A model for vectors of texts. Requests run one after the other.
pub struct EncoderService {
    encoder: TextEncoder,
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// One request runs, and a limited number of requests waits.
    running: Semaphore,
    open: Semaphore,
}

impl EncoderService {
    /// Loads a model.
    ///
    /// # Errors
    /// Errors of reading and of the tokenizer.
    pub fn load(model: &Model, backend: &Backend, settings: &ServiceSettings) -> Result<Self, kvant::Error> {
        Ok(Self {
            encoder: TextEncoder::load(model, backend, settings.run.arithmetic, None)?,
            name: model_name(model, settings),
            created: now(),
            running: Semaphore::new(1),
            open: Semaphore::new(settings.queue + 1),
        })
    }

    /// The largest number of tokens of a text.
    pub(crate) fn longest(&self) -> usize {
        self.encoder.longest()
    }

    /// Waits until no other request runs, and computes the vectors of texts on another thread.
    pub(crate) async fn encode(self: std::sync::Arc<Self>, texts: Vec<String>) -> Result<Embedded, ApiError> {
        let Ok(_open) = self.open.try_acquire() else { return Err(ApiError::busy()) };
        let _running = self.running.acquire().await.map_err(|_| ApiError::unavailable("the server ends"))?;
        let of_thread = self.clone();
        let encoded = tokio::task::spawn_blocking(move || {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            of_thread.encoder.encode(&texts, &())
        });
        let encoded = encoded.await.map_err(|_| ApiError::server("the request failed"))?;
        encoded.map_err(|error| ApiError::invalid(error.to_string()))
    }
}
