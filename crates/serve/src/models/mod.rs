//! The models of a server. A model is loaded when the first request needs it. When the loaded models take more memory
//! than the limit, the one that was used longest ago leaves.
//!
//! A model that leaves answers its running requests first. Its memory is free before another model is loaded.

mod loaded;
mod slot;

pub use loaded::Loaded;
pub(crate) use slot::Slot;

use crate::encoder::EncoderService;
use crate::engine::ServerMetrics;
use crate::http::ApiError;
use crate::service::{Service, ServiceSettings, Surroundings, now};
use kvant::Model;
use kvant::kernels::Backend;
use kvant::model::Sampling;
use slot::Resident;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A model that is in use for this time stays, and the request for another one is refused.
const LEAVING_TIME: Duration = Duration::from_secs(60);
/// A model that leaves is asked at these intervals if its requests have ended.
const LEAVING_INTERVAL: Duration = Duration::from_millis(10);

/// A change of the model's own settings for the choice of tokens.
pub type SamplingChange = dyn Fn(Sampling) -> Sampling + Send + Sync;

/// A model that the server can load, with its name in requests and answers.
pub struct NamedModel {
    /// The name.
    pub name: String,
    /// The opened files.
    pub model: Model,
}

/// The models of a server.
pub struct Models {
    slots: Vec<Slot>,
    backend: Backend,
    settings: ServiceSettings,
    sampling: Box<SamplingChange>,
    /// Largest memory of all loaded models: weights and states, in bytes.
    limit: u64,
    metrics: ServerMetrics,
    /// One model is loaded at a time.
    loading: Arc<Mutex<()>>,
    /// Counts uses. A larger number is a later use.
    clock: AtomicU64,
    draining: AtomicBool,
}

impl Models {
    /// The models of a server. None is loaded yet. `sampling` changes the models' own settings for the choice of tokens;
    /// `limit` is the largest memory of weights and states of all loaded models, in bytes.
    ///
    /// # Errors
    /// No model; two models with one name; a model that exceeds the limit.
    pub fn new(
        models: Vec<NamedModel>,
        backend: Backend,
        settings: ServiceSettings,
        sampling: Box<SamplingChange>,
        limit: u64,
    ) -> Result<Self, ModelsError> {
        if models.is_empty() {
            return Err(ModelsError::None);
        }
        let created = now();
        let mut slots: Vec<Slot> = Vec::with_capacity(models.len());
        for NamedModel { name, model } in models {
            if slots.iter().any(|slot| slot.name == name) {
                return Err(ModelsError::Twice(name));
            }
            let slot = Slot::new(name, model, created);
            let states = settings.state_bytes.filter(|_| !slot.model.gives_vectors() && !settings.embedding);
            let bytes = slot.size.weights_bytes.saturating_add(states.map_or(0, |bytes| bytes as u64));
            if bytes > limit {
                return Err(ModelsError::Large { name: slot.name, bytes, limit });
            }
            slots.push(slot);
        }
        Ok(Self {
            metrics: ServerMetrics::new(slots.len()),
            slots,
            backend,
            settings,
            sampling,
            limit,
            loading: Arc::default(),
            clock: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        })
    }

    /// All models.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The metrics of all models. They outlive the models' engines.
    pub(crate) fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }

    /// The largest memory of all loaded models, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the place of a model. A server with one model accepts every name.
    ///
    /// # Errors
    /// A name that no model has.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<usize, ApiError> {
        let Some(name) = name else { return Ok(0) };
        match self.slots.iter().position(|slot| slot.has_name(name)) {
            Some(index) => Ok(index),
            None if self.slots.len() == 1 => Ok(0),
            None => Err(ApiError::no_model(name)),
        }
    }

    /// Returns a model that is loaded, without a wait: the first one that is.
    ///
    /// # Errors
    /// No model is loaded.
    pub(crate) fn any_loaded(&self) -> Result<Loaded, ApiError> {
        let loaded = self.slots.iter().find_map(Slot::loaded);
        loaded.ok_or_else(|| ApiError::unavailable("Loading model"))
    }

    /// Returns a model, and loads it if it is not there.
    ///
    /// # Errors
    /// A name that no model has; errors of loading; other models are in use and leave no room; the server ends.
    pub(crate) async fn get(self: &Arc<Self>, name: Option<&str>) -> Result<Loaded, ApiError> {
        let index = self.find(name)?;
        if self.draining.load(Ordering::Acquire) {
            return Err(ApiError::unavailable("the server is about to end"));
        }
        if let Some(loaded) = self.used(index) {
            return Ok(loaded);
        }
        let slot = &self.slots[index];
        let failed = || {
            let name = &slot.name;
            let message =
                format!("the model `{name}` cannot be loaded; the log of the server has the reason");
            ApiError::server(message)
        };
        // A client that leaves while it waits for its turn loads nothing.
        let turn = self.loading.clone().lock_owned().await;
        if slot.has_failed() {
            return Err(failed());
        }
        // Loading goes on if the client leaves now: another request may wait for the model.
        let models = self.clone();
        let loaded = tokio::spawn(async move {
            let _turn = turn;
            models.load(index).await
        });
        loaded.await.map_err(|_| failed())?.map_err(|error| match error {
            LoadError::NoRoom => ApiError::unavailable("other models are in use; try again later"),
            LoadError::Model(error) => {
                tracing::error!(model = slot.name, %error, "a model cannot be loaded");
                failed()
            }
        })
    }

    /// Loads the first model.
    ///
    /// # Errors
    /// Errors of loading.
    pub async fn load_first(self: Arc<Self>) -> Result<Loaded, kvant::Error> {
        match self.load(0).await {
            Ok(loaded) => Ok(loaded),
            Err(LoadError::Model(error)) => Err(error),
            // There is no other model yet.
            Err(LoadError::NoRoom) => Err(kvant::quant::Error::Interrupted.into()),
        }
    }

    /// Returns a model if it is loaded, and notes the use.
    fn used(&self, index: usize) -> Option<Loaded> {
        let loaded = self.slots[index].loaded()?;
        self.slots[index].use_at(self.clock.fetch_add(1, Ordering::Relaxed));
        Some(loaded)
    }

    /// Loads a model, unless another request has done it. The caller holds the lock `loading`.
    async fn load(self: Arc<Self>, index: usize) -> Result<Loaded, LoadError> {
        if let Some(loaded) = self.used(index) {
            return Ok(loaded);
        }
        let weights = self.slots[index].size.weights_bytes;
        let states = self.settings.state_bytes.map_or(0, |bytes| bytes as u64);
        self.make_room(weights.saturating_add(states), None).await?;
        let models = self.clone();
        let loaded = match tokio::task::spawn_blocking(move || models.load_now(index)).await {
            Ok(loaded) => loaded,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let loaded = loaded.map_err(|error| {
            self.slots[index].fail();
            LoadError::Model(error)
        })?;
        self.slots[index].set(loaded.clone());
        self.used(index);
        tracing::info!(model = loaded.name(), bytes = loaded.bytes(), "a model was loaded");
        // The memory for states is known only now. If no other model can leave, the next request that loads one waits.
        let _ = self.make_room(0, Some(index)).await;
        Ok(loaded)
    }

    /// Loads a model on this thread.
    fn load_now(&self, index: usize) -> Result<Loaded, kvant::Error> {
        let slot = &self.slots[index];
        let (model, settings) = (&slot.model, &self.settings);
        let metrics = self.metrics.of(&slot.name);
        if model.gives_vectors() || settings.embedding {
            let encoder = EncoderService::load(model, &slot.name, &self.backend, settings, metrics)?;
            return Ok(Loaded::Encoder(encoder.into()));
        }
        let surroundings = Surroundings {
            name: &slot.name,
            backend: self.backend.clone(),
            models: self.slots.len(),
            state_limit: usize::try_from(self.limit - slot.size.weights_bytes).unwrap_or(usize::MAX),
            metrics,
        };
        Ok(Loaded::Speaker(Service::load(model, surroundings, settings, &self.sampling)?.into()))
    }

    /// Makes room for `bytes` more bytes: models leave, those that nobody uses first, then those that were used longest
    /// ago. The model `kept` stays.
    ///
    /// # Errors
    /// A model is in use for a longer time than a request may wait.
    async fn make_room(&self, bytes: u64, kept: Option<usize>) -> Result<(), LoadError> {
        loop {
            let others = self.slots.iter().enumerate().filter(|(index, _)| Some(*index) != kept);
            let residents: Vec<(usize, Resident)> =
                others.filter_map(|(index, slot)| Some((index, slot.resident()?))).collect();
            let own = kept.and_then(|index| self.slots[index].loaded()).map_or(0, |loaded| loaded.bytes());
            let sum: u64 = residents.iter().map(|(_, resident)| resident.loaded.bytes()).sum();
            let fits = sum.saturating_add(own).saturating_add(bytes) <= self.limit;
            let least =
                residents.into_iter().min_by_key(|(_, resident)| (resident.loaded.is_used(), resident.used));
            let Some((index, resident)) = least.filter(|_| !fits) else { return Ok(()) };
            let slot = &self.slots[index];
            slot.clear();
            let leaving = resident.loaded.leaving();
            drop(resident);
            let begin = Instant::now();
            while !leaving.is_gone() {
                if begin.elapsed() > LEAVING_TIME
                    && let Some(loaded) = leaving.come_back()
                {
                    slot.set(loaded);
                    return Err(LoadError::NoRoom);
                }
                tokio::time::sleep(LEAVING_INTERVAL).await;
            }
            tracing::info!(model = slot.name, "a model left");
        }
    }

    /// Accepts no more requests. Those that are open are answered.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}

/// The reason why a model was not loaded.
enum LoadError {
    /// Other models are in use.
    NoRoom,
    Model(kvant::Error),
}

/// The reason why a server cannot have these models.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// No model.
    #[error("no model")]
    None,
    /// Two models with one name.
    #[error("two models have the name `{0}`; NAME=MODEL gives another one")]
    Twice(String),
    /// A model that is too large.
    #[error("`{name}` takes {bytes} bytes for weights and states, and the limit of all models is {limit}")]
    Large {
        /// The name of the model.
        name: String,
        /// Bytes of its weights and of the given memory for states.
        bytes: u64,
        /// The limit for all loaded models, in bytes.
        limit: u64,
    },
}
