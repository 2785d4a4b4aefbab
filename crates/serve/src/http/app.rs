//! State that all handlers share.

use super::error::ApiError;
use super::keys::Keys;
use crate::service::Service;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

/// Number of threads that render and encode texts.
const ENCODERS: usize = 4;

/// State that all handlers share.
pub struct App {
    service: OnceLock<Arc<Service>>,
    keys: Keys,
    encoders: Semaphore,
}

impl App {
    /// A server without a model.
    pub fn new(keys: Keys) -> Self {
        Self { service: OnceLock::new(), keys, encoders: Semaphore::new(ENCODERS) }
    }

    /// Sets the model. Only the first call has an effect.
    pub fn set_service(&self, service: Service) -> &Service {
        self.service.get_or_init(|| Arc::new(service))
    }

    /// Returns the loaded model.
    ///
    /// # Errors
    /// It is not loaded yet.
    pub fn service(&self) -> Result<Arc<Service>, ApiError> {
        self.service.get().cloned().ok_or_else(|| ApiError::unavailable("Loading model"))
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
