//! Qwen3, dense. Each head of the queries and keys has a norm. The head size does not depend on the hidden size.

use super::gated::{Family, QueryKeyNorms, Windows};
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
