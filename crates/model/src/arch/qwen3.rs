//! Qwen3, dense. Each head of the queries and keys has a norm. The head size does not depend on the hidden size. In
//! GGUF files, as in `transformers`, elements `i` and `i + head_size / 2` form a rotary pair.

use super::gated::Family;
use crate::RopeLayout;

/// The family `qwen3`.
pub(super) static QWEN3: Family = Family { name: "qwen3", layout: RopeLayout::Half, query_key_norms: true };
