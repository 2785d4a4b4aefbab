//! Matrices of integer codes, and activations in eight bits, as plain data.

pub(crate) mod activations;
pub(crate) mod layout;
pub(crate) mod matrix;
pub(crate) mod outliers;
mod pack;
pub(crate) mod packed_activations;
