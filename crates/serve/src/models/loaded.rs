//! A loaded model.

use crate::encoder::EncoderService;
use crate::service::Service;
use std::sync::Arc;

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

    /// The bytes of the weights and of the memory for states.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Speaker(service) => {
                service.size.weights_bytes + service.engine.settings().state_bytes as u64
            }
            Self::Encoder(encoder) => encoder.size.weights_bytes,
        }
    }

    /// True if the engine stopped after an error.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self, Self::Speaker(service) if service.engine.is_stopped())
    }
}
