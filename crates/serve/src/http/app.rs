//! State that all handlers share.

use super::error::ApiError;
use super::fields::Fields;
use super::keys::Keys;
use crate::encoder::EncoderService;
use crate::models::{Loaded, Models};
use crate::service::{Service, now};
use axum::body::Bytes;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// Number of threads that render and encode texts.
const ENCODERS: usize = 4;

/// Size of a body that needs no memory of its own, in bytes.
const SMALL_BODY: usize = 64 << 10;
/// Memory for large bodies at the same time, in units of [`SMALL_BODY`]: 128 MiB.
const LARGE_BODIES: usize = 2048;

/// State that all handlers share.
pub struct App {
    models: OnceLock<Arc<Models>>,
    keys: Keys,
    encoders: Semaphore,
    /// Memory for large bodies, in units of [`SMALL_BODY`].
    bodies: Semaphore,
    /// Seconds since 1970.
    started: u64,
    /// True when the server ends.
    ends: watch::Sender<bool>,
}

impl App {
    /// A server without a model.
    pub fn new(keys: Keys) -> Self {
        Self {
            models: OnceLock::new(),
            keys,
            encoders: Semaphore::new(ENCODERS),
            bodies: Semaphore::new(LARGE_BODIES),
            started: now(),
            ends: watch::Sender::new(false),
        }
    }

    /// Ends the server: requests that have not arrived are refused, and running ones are answered.
    pub fn end(&self) {
        self.ends.send_replace(true);
        if let Some(models) = self.models.get() {
            models.drain();
        }
    }

    /// True when the server ends.
    pub fn is_ending(&self) -> bool {
        *self.ends.borrow()
    }

    /// Waits until the server ends.
    pub fn ends(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ends = self.ends.subscribe();
        async move { drop(ends.wait_for(|ends| *ends).await) }
    }

    /// Sets the models. Only the first call has an effect.
    pub fn set(&self, models: Arc<Models>) {
        self.models.get_or_init(|| models);
    }

    /// Returns the models.
    ///
    /// # Errors
    /// The first one is not loaded yet.
    pub fn models(&self) -> Result<&Arc<Models>, ApiError> {
        self.models.get().ok_or_else(|| ApiError::unavailable("Loading model"))
    }

    /// Returns a model. It is loaded if it is not there. Without a name, it is the first model.
    ///
    /// # Errors
    /// The server is not ready; a name that no model has; errors of loading.
    pub async fn model(&self, name: Option<&str>) -> Result<Loaded, ApiError> {
        self.models()?.get(name).await
    }

    /// Returns a model for vectors of texts. It is loaded if it is not there. Without a name, it is the first model.
    ///
    /// # Errors
    /// The server is not ready; a name that no model has; a language model; errors of loading.
    pub async fn encoder(&self, name: Option<&str>) -> Result<Arc<EncoderService>, ApiError> {
        match self.model(name).await? {
            Loaded::Encoder(encoder) => Ok(encoder),
            Loaded::Speaker(_) => {
                Err(ApiError::not_supported("model", "it writes text, and gives no vectors"))
            }
        }
    }

    /// Returns a language model. It is loaded if it is not there. Without a name, it is the first model.
    ///
    /// # Errors
    /// The server is not ready; a name that no model has; a model for vectors; errors of loading.
    pub async fn service(&self, name: Option<&str>) -> Result<Arc<Service>, ApiError> {
        match self.model(name).await? {
            Loaded::Speaker(service) => Ok(service),
            Loaded::Encoder(_) => Err(ApiError::not_supported(
                "model",
                "it gives vectors of texts (/v1/embeddings), and no text",
            )),
        }
    }

    /// Takes memory for a body of at most `bytes` bytes. Small bodies need none, because the number of connections limits
    /// them.
    ///
    /// # Errors
    /// All memory for large bodies is taken.
    pub fn memory_for_body(&self, bytes: usize) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        let units = bytes.div_ceil(SMALL_BODY);
        if units <= 1 {
            return Ok(None);
        }
        let taken = self.bodies.try_acquire_many(u32::try_from(units).unwrap_or(u32::MAX));
        taken.map(Some).map_err(|_| ApiError::unavailable("too many large requests arrive; try again later"))
    }

    /// The start of the server, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// The keys of clients.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Parses the fields of a body on another thread, because a body can be large.
    ///
    /// # Errors
    /// A body that is not a JSON object.
    pub async fn fields(&self, body: Bytes) -> Result<Fields, ApiError> {
        self.blocking(move || Fields::parse(&body)).await?
    }

    /// Runs work that takes noticeable time on another thread.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let stopped = |_| ApiError::server("the request failed");
        let permit = self.encoders.acquire().await.map_err(|_| ApiError::unavailable("the server ends"))?;
        let done = tokio::task::spawn_blocking(work).await.map_err(stopped);
        drop(permit);
        done
    }
}
