//! Qwen3: each head of the queries and keys has a norm. The head size does not depend on the hidden size. Qwen3-MoE has
//! experts.

use super::gated::{ExpertNames, Family, QueryKeyNorms, Windows};
use crate::RopeLayout;

/// The family `qwen3`.
pub(super) static QWEN3: Family = Family {
    name: "qwen3",
    model_types: &["qwen3"],
    layout: RopeLayout::Half,
    query_key_norms: QueryKeyNorms::EachHead,
    windows: Windows::FromBlock,
    ..Family::LLAMA
};

/// The family `qwen3moe`.
pub(super) static QWEN3_MOE: Family =
    Family { name: "qwen3moe", model_types: &["qwen3_moe"], experts: Some(ExpertNames::QWEN), ..QWEN3 };
