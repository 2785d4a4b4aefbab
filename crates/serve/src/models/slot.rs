//! The place of one model.

use super::loaded::Loaded;
use crate::service::ModelSize;
use jiff::Timestamp;
use kvant::Model;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A model that cannot be loaded is tried again after this time.
const FAILURE_TIME: Duration = Duration::from_secs(30);

/// The place of one model: its files, and the loaded model if there is one.
pub struct Slot {
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) size: ModelSize,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The time of the last change of the model's file or folder, if the system tells it.
    pub(crate) modified: Option<Timestamp>,
    loaded: RwLock<Option<Loaded>>,
    /// The last use.
    used: AtomicU64,
    /// The time of the last failure to load the model.
    failed: Mutex<Option<Instant>>,
}

/// A loaded model with its last use.
pub struct Resident {
    pub loaded: Loaded,
    pub used: u64,
}

impl Slot {
    pub fn new(name: String, model: Model, created: u64) -> Self {
        let size = ModelSize::of(&model);
        let modified = model.path().metadata().and_then(|metadata| metadata.modified()).ok();
        let modified = modified.and_then(|time| Timestamp::try_from(time).ok());
        Self {
            name,
            model,
            size,
            created,
            modified,
            loaded: RwLock::new(None),
            used: AtomicU64::new(0),
            failed: Mutex::new(None),
        }
    }

    /// True if the model has this name. Ollama's `:latest` may follow it.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.name == name || name.strip_suffix(":latest") == Some(&self.name)
    }

    /// The model, if it is loaded.
    pub(crate) fn loaded(&self) -> Option<Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model with its last use, if it is loaded.
    pub fn resident(&self) -> Option<Resident> {
        Some(Resident { loaded: self.loaded()?, used: self.used.load(Ordering::Relaxed) })
    }

    pub fn set(&self, loaded: Loaded) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
    }

    pub fn clear(&self) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that the model cannot be loaded.
    pub fn fail(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// True if the model could not be loaded a short time ago.
    pub fn has_failed(&self) -> bool {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|time| time.elapsed() < FAILURE_TIME)
    }

    pub fn use_at(&self, time: u64) {
        self.used.store(time, Ordering::Relaxed);
    }
}
