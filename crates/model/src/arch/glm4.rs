//! GLM-4.5 to 4.7 with experts, and their small versions: experts with a corrected sigmoid choice, a shared expert, dense
//! first blocks, half of each head rotated, norms of queries and keys in some models.
//!
//! Source: `transformers`' `models/glm4_moe`; llama.cpp's `src/models/glm4-moe.cpp` and `conversion/glm.py`. Left out: the
//! blocks after the last block, which predict further tokens.

use super::gated::{ExpertNames, Family, QueryKeyNorms, SharedExpert, SharedLength, Sizes};
use super::settings::Settings;
use crate::{Error, RopeLayout};

/// The family `glm4moe`.
pub(super) static GLM4_MOE: Family = Family {
    name: "glm4moe",
    model_types: &["glm4_moe"],
    layout: RopeLayout::Half,
    query_key_norms: QueryKeyNorms::EachHeadIfUsed,
    feed_forward_norm: "post_attention_norm",
    experts: Some(ExpertNames {
        count: "n_routed_experts",
        shared: Some(SharedExpert {
            prefix: "mlp.shared_experts",
            length: SharedLength::Times("n_shared_experts"),
            factor: false,
        }),
        leading_dense: ("first_k_dense_replace", 1),
        sigmoid: true,
        normalized_key: Some(("norm_topk_prob", true)),
        ..ExpertNames::QWEN
    }),
    has_predictors: true,
    adjust,
    ..Family::LLAMA
};

/// Rejects settings without the rotated part of the heads, because the default of `transformers` is not that of other
/// families.
fn adjust(_: &Family, settings: Settings, _: &mut Sizes) -> Result<(), Error> {
    let Settings::Json(..) = settings else { return Ok(()) };
    let key = "partial_rotary_factor";
    let inner =
        settings.section("rope_parameters")?.map(|section| section.optional_number(key)).transpose()?;
    match inner.flatten().or(settings.optional_number(key)?) {
        Some(_) => Ok(()),
        None => Err(settings.error(key, "the rotated part of a head", "nothing")),
    }
}
