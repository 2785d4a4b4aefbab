//! A loaded model.

use crate::encoder::EncoderService;
use crate::service::Service;
use kvant::model::Tokenizer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// A loaded model.
#[derive(Clone)]
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

    /// The tokenizer of the model.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        match self {
            Self::Speaker(service) => service.tokenizer(),
            Self::Encoder(encoder) => encoder.tokenizer(),
        }
    }

    /// The bytes of the weights and of the memory for states.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Speaker(service) => {
                service.size.weights_bytes + service.engine.settings().state_bytes as u64
            }
            Self::Encoder(encoder) => encoder.size.weights_bytes,
        }
    }

    /// True if somebody besides the caller and the model's slot uses the model, for example a slow client.
    pub(super) fn is_used(&self) -> bool {
        let users = match self {
            Self::Speaker(service) => Arc::strong_count(service),
            Self::Encoder(encoder) => Arc::strong_count(encoder),
        };
        users > 2
    }

    /// A handle on a model that leaves.
    pub(super) fn leaving(&self) -> Leaving {
        match self {
            Self::Speaker(service) => {
                Leaving { model: WeakModel::Speaker(Arc::downgrade(service)), gone: service.gone.flag() }
            }
            Self::Encoder(encoder) => {
                Leaving { model: WeakModel::Encoder(Arc::downgrade(encoder)), gone: encoder.gone.flag() }
            }
        }
    }

    /// True if the engine stopped after an error.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self, Self::Speaker(service) if service.engine.is_stopped())
    }
}

/// A model that leaves.
pub struct Leaving {
    model: WeakModel,
    gone: Arc<AtomicBool>,
}

enum WeakModel {
    Speaker(Weak<Service>),
    Encoder(Weak<EncoderService>),
}

impl Leaving {
    /// True if its memory is free.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The model, if somebody still uses it.
    pub fn come_back(&self) -> Option<Loaded> {
        match &self.model {
            WeakModel::Speaker(service) => service.upgrade().map(Loaded::Speaker),
            WeakModel::Encoder(encoder) => encoder.upgrade().map(Loaded::Encoder),
        }
    }
}
