//! Llama 1 to 3, and other models with the same architecture and the same architecture name. In GGUF files, adjacent
//! elements form a rotary pair.

use super::gated::Family;
use crate::RopeLayout;

/// The family `llama`.
pub(super) static LLAMA: Family =
    Family { name: "llama", layout: RopeLayout::Interleaved, query_key_norms: false };
