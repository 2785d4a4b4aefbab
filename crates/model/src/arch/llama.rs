//! Llama 1 to 3, Mistral, and other models with the same architecture and the same architecture name. In GGUF files,
//! adjacent elements form a rotary pair. llama.cpp ignores the windows of Mistral; kvant writes their length under the
//! key of other families, and reads it.

use super::gated::Family;

/// The family `llama`.
pub(super) static LLAMA: Family = Family::LLAMA;
