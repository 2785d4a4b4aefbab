//! Data types for matrices of integer codes and for activations in eight bits.

pub(crate) mod activations;
pub(crate) mod layout;
pub(crate) mod matrix;
pub(crate) mod outliers;
mod pack;
pub(crate) mod packed_activations;
