//! Qwen3-Next and Qwen3.5: three of four blocks have a gated delta net instead of an attention, and the attentions have a
//! gate.

use super::gated::{DeltaNetNames, ExpertNames, Family, SetEntry};
use super::qwen2::SHARED_EXPERT;
use super::qwen3::QWEN3;
use crate::Spec;
use kvant_io::{Array, Value};
use kvant_kernels::HeadOrder;

/// The family `qwen35`.
pub(super) static QWEN35: Family = Family {
    name: "qwen35",
    model_types: &["qwen3_5_text", "qwen3_5"],
    norms_add_one: true,
    has_predictors: true,
    feed_forward_norm: "post_attention_norm",
    gated_attention: true,
    rotated_part: 0.25,
    delta_net: Some(DeltaNetNames { order: HeadOrder::Tiled, fused: false }),
    set_gguf: set_rope_sections,
    ignored_prefixes: &["mtp.", "model.visual."],
    ..QWEN3
};

/// The family `qwen35moe`.
pub(super) static QWEN35_MOE: Family = Family {
    name: "qwen35moe",
    model_types: &["qwen3_5_moe_text", "qwen3_5_moe"],
    experts: Some(NEXT_EXPERTS),
    ..QWEN35
};

/// The family `qwen3next`.
pub(super) static QWEN3_NEXT: Family = Family {
    name: "qwen3next",
    model_types: &["qwen3_next"],
    delta_net: Some(DeltaNetNames { order: HeadOrder::Grouped, fused: true }),
    experts: Some(NEXT_EXPERTS),
    set_gguf: |_, _| {},
    ..QWEN35
};

const NEXT_EXPERTS: ExpertNames = ExpertNames {
    shared: Some(SHARED_EXPERT),
    normalized_key: Some(("norm_topk_prob", true)),
    ..ExpertNames::QWEN
};

/// Sets the number of rotary pairs that rotate by the position of text, and by row and column of an image. The three
/// kinds alternate. All positions of a text are equal, so that only models of images depend on these numbers.
fn set_rope_sections(spec: &Spec, set: SetEntry) {
    if let Some(rope) = spec.attentions().find_map(|attention| attention.rope.as_ref()) {
        let pairs = rope.rotated / 2;
        let sections = [pairs.div_ceil(3), (pairs + 1) / 3, pairs / 3, 0].map(|pairs| pairs as i32);
        set("rope.dimension_sections", Value::Array(Array::I32(sections.to_vec())));
    }
}
