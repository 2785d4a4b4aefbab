//! State that all handlers share.

use super::error::ApiError;
use super::keys::Keys;
use crate::encoder::EncoderService;
use crate::service::Service;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Number of threads that render and encode texts.
const ENCODERS: usize = 4;

/// Size of a body that needs no memory of its own, in bytes.
const SMALL_BODY: usize = 64 << 10;
/// Memory for large bodies at the same time, in units of [`SMALL_BODY`]: 128 MiB.
const LARGE_BODIES: usize = 2048;

/// A loaded model.
pub enum Loaded {
    /// A language model.
    Speaker(Arc<Service>),
    /// A model for vectors of texts.
    Encoder(Arc<EncoderService>),
}

impl Loaded {
    /// The name of the model in answers.
    pub fn name(&self) -> &str {
        match self {
            Self::Speaker(service) => &service.name,
            Self::Encoder(encoder) => &encoder.name,
        }
    }
}

/// State that all handlers share.
pub struct App {
    loaded: OnceLock<Loaded>,
    keys: Keys,
    encoders: Semaphore,
    /// Memory for large bodies, in units of [`SMALL_BODY`].
    bodies: Semaphore,
}

impl App {
    /// A server without a model.
    pub fn new(keys: Keys) -> Self {
        Self {
            loaded: OnceLock::new(),
            keys,
            encoders: Semaphore::new(ENCODERS),
            bodies: Semaphore::new(LARGE_BODIES),
        }
    }

    /// Sets the model. Only the first call has an effect.
    pub fn set(&self, loaded: Loaded) -> &Loaded {
        self.loaded.get_or_init(|| loaded)
    }

    /// Returns the loaded model.
    ///
    /// # Errors
    /// It is not loaded yet.
    pub fn loaded(&self) -> Result<&Loaded, ApiError> {
        self.loaded.get().ok_or_else(|| ApiError::unavailable("Loading model"))
    }

    /// Returns the model for vectors of texts.
    ///
    /// # Errors
    /// It is not loaded yet, or it is a language model.
    pub fn encoder(&self) -> Result<Arc<EncoderService>, ApiError> {
        match self.loaded()? {
            Loaded::Encoder(encoder) => Ok(encoder.clone()),
            Loaded::Speaker(_) => {
                Err(ApiError::not_supported("model", "it writes text, and gives no vectors"))
            }
        }
    }

    /// Returns the language model.
    ///
    /// # Errors
    /// It is not loaded yet, or it is a model for vectors.
    pub fn service(&self) -> Result<Arc<Service>, ApiError> {
        match self.loaded()? {
            Loaded::Speaker(service) => Ok(service.clone()),
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

    /// The keys of clients.
    pub fn keys(&self) -> &Keys {
        &self.keys
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
