//! Llama 1 to 3, Mistral, Mixtral, and other models with the same architecture and the same architecture name. In GGUF
//! files, adjacent elements form a rotary pair. llama.cpp ignores the windows of Mistral; kvant writes their length under
//! the key of other families, and reads it.

use super::gated::{ExpertLayout, ExpertNames, Family};

/// The family `llama`.
pub(super) static LLAMA: Family = Family {
    model_types: &["llama", "mistral", "mixtral"],
    experts: Some(ExpertNames {
        count: "num_local_experts",
        feed_forward: None,
        prefix: "block_sparse_moe",
        layout: ExpertLayout::Separate(["w1", "w3", "w2"]),
        normalized_key: None,
        ..ExpertNames::QWEN
    }),
    ..Family::LLAMA
};
