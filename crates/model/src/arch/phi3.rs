//! Phi-3 and Phi-4: one map for queries, keys and values, one map for gate and up, LongRoPE. llama.cpp ignores the
//! windows of Phi-3.

use super::gated::Family;
use crate::RopeLayout;

/// The family `phi3`.
pub(super) static PHI3: Family =
    Family { name: "phi3", model_types: &["phi3"], layout: RopeLayout::Half, fused: true, ..Family::LLAMA };
