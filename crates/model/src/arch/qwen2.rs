//! Qwen2 and Qwen2.5: queries, keys and values have biases. Qwen2-MoE has experts, and an expert that all tokens use.

use super::gated::{ExpertLayout, ExpertNames, Family, Windows};
use crate::RopeLayout;

/// The family `qwen2`.
pub(super) static QWEN2: Family = Family {
    name: "qwen2",
    model_types: &["qwen2"],
    layout: RopeLayout::Half,
    windows: Windows::FromBlock,
    ..Family::LLAMA
};

/// The family `qwen2moe`.
pub(super) static QWEN2_MOE: Family = Family {
    name: "qwen2moe",
    model_types: &["qwen2_moe"],
    experts: Some(ExpertNames {
        shared_feed_forward: Some("shared_expert_intermediate_size"),
        normalized: false,
        normalized_key: Some(("norm_topk_prob", false)),
        ..QWEN_EXPERTS
    }),
    ..QWEN2
};

/// The experts of Qwen3-MoE.
pub(super) const QWEN_EXPERTS: ExpertNames = ExpertNames {
    count: "num_experts",
    feed_forward: Some("moe_intermediate_size"),
    shared_feed_forward: None,
    prefix: "mlp",
    router: "gate",
    layout: ExpertLayout::Separate(["gate_proj", "up_proj", "down_proj"]),
    normalized: true,
    normalized_key: Some(("norm_topk_prob", false)),
};
