//! Llama 1 to 3, and what shares their architecture under the same name. GGUF files rotate neighbours.

use super::gated::Family;
use crate::RopeLayout;

/// The family `llama`.
pub(super) static LLAMA: Family =
    Family { name: "llama", layout: RopeLayout::Interleaved, query_key_norms: false };
