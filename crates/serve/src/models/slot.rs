//! The place of one model.

use super::loaded::Loaded;
use crate::service::ModelSize;
use kvant::Model;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// The place of one model: its files, and the loaded model if there is one.
pub struct Slot {
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) size: ModelSize,
    /// Seconds since 1970.
    pub(crate) created: u64,
    loaded: RwLock<Option<Loaded>>,
    /// The last use.
    used: AtomicU64,
}

/// A loaded model with its last use.
pub struct Resident {
    pub loaded: Loaded,
    pub used: u64,
}

impl Resident {
    /// True if the model answers requests now.
    pub fn is_busy(&self) -> bool {
        match &self.loaded {
            Loaded::Speaker(service) => !service.engine.is_idle(),
            Loaded::Encoder(encoder) => encoder.is_busy(),
        }
    }
}

impl Slot {
    pub fn new(name: String, model: Model, created: u64) -> Self {
        let size = ModelSize::of(&model);
        Self { name, model, size, created, loaded: RwLock::new(None), used: AtomicU64::new(0) }
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

    pub fn use_at(&self, time: u64) {
        self.used.store(time, Ordering::Relaxed);
    }
}
