//! gpt-oss: experts with biases and a clamped SwiGLU, attention sinks, windows in every other block, YaRN without rounded
//! ends of the ramp.
//!
//! Source: `transformers`' `models/gpt_oss`; llama.cpp's `src/models/openai-moe.cpp` and `conversion/gpt_oss.py`. GGUF has
//! no key for the numbers of the activation, nor for YaRN's rounding, which llama.cpp always applies.

use super::gated::{ExpertLayout, ExpertNames, Family, Sizes, Windows};
use super::settings::Settings;
use crate::{Activation, Error, RopeLayout};
use kvant_kernels::ClampedSwiglu;

/// The numbers of the activation in all published models.
const SWIGLU: ClampedSwiglu = ClampedSwiglu { alpha: 1.702, limit: 7.0 };

/// The family `gpt-oss`.
pub(super) static GPT_OSS: Family = Family {
    name: "gpt-oss",
    model_types: &["gpt_oss"],
    layout: RopeLayout::Half,
    activation: Activation::ClampedSwiglu(SWIGLU),
    feed_forward_norm: "post_attention_norm",
    sinks: true,
    yarn_rounded: false,
    windows: Windows::AllButEach(2),
    windows_in_llama_cpp: |_| true,
    experts: Some(ExpertNames {
        count: "num_local_experts",
        feed_forward: Some("intermediate_size"),
        router: "router",
        layout: ExpertLayout::Stacked,
        normalized_key: None,
        ..ExpertNames::QWEN
    }),
    adjust,
    ..Family::LLAMA
};

fn adjust(_: &Family, settings: Settings, _: &mut Sizes) -> Result<(), Error> {
    let Settings::Json(..) = settings else { return Ok(()) };
    for (key, expected) in [("swiglu_alpha", SWIGLU.alpha), ("swiglu_limit", SWIGLU.limit)] {
        let found = settings.positive(key, expected)?;
        if found != expected {
            let expected = format!("{expected}, because GGUF has no key for other values");
            return Err(settings.error(key, expected, found.to_string()));
        }
    }
    if settings.section("rope_parameters")?.or(settings.section("rope_scaling")?).is_none() {
        return Err(settings.error("rope_scaling", "the settings of the rotary embedding", "nothing"));
    }
    Ok(())
}
