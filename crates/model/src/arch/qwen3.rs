//! Qwen3, dense: heads of the queries and keys are normed, and their size is apart from the width. GGUF files rotate
//! halves, as `transformers` does.

use super::gated::Family;
use crate::RopeLayout;

/// The family `qwen3`.
pub(super) static QWEN3: Family = Family { name: "qwen3", layout: RopeLayout::Half, query_key_norms: true };
