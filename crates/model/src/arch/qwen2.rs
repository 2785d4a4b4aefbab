//! Qwen2 and Qwen2.5, dense. Queries, keys and values have biases.

use super::gated::{Family, Windows};
use crate::RopeLayout;

/// The family `qwen2`.
pub(super) static QWEN2: Family = Family {
    name: "qwen2",
    model_types: &["qwen2"],
    layout: RopeLayout::Half,
    windows: Windows::FromBlock,
    ..Family::LLAMA
};
