//! Qwen2 and Qwen2.5: queries, keys and values have biases. Qwen2-MoE has experts, and an expert that all tokens use.

use super::gated::{ExpertNames, Family, SharedExpert, SharedLength, Windows};
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
        shared: Some(SHARED_EXPERT),
        normalized: false,
        normalized_key: Some(("norm_topk_prob", false)),
        ..ExpertNames::QWEN
    }),
    ..QWEN2
};

/// The shared expert of Qwen2-MoE and of Qwen3-Next.
pub(super) const SHARED_EXPERT: SharedExpert = SharedExpert {
    prefix: "mlp.shared_expert",
    length: SharedLength::Setting("shared_expert_intermediate_size"),
    factor: true,
};
