//! LFM2: most blocks have a short convolution instead of an attention; the attentions have norms of queries and keys.
//! LFM2-MoE has experts with a corrected sigmoid choice after some dense blocks.
//!
//! Source: `transformers`' `models/lfm2` and `lfm2_moe`; llama.cpp's `src/models/lfm2.cpp` and `conversion/lfm2.py`.

use super::gated::{ExpertLayout, ExpertNames, Family, QueryKeyNorms, Sizes};
use super::settings::{LARGEST_DIMENSION, Settings};
use crate::{Error, RopeLayout};

/// The family `lfm2`.
pub(super) static LFM2: Family = Family {
    name: "lfm2",
    model_types: &["lfm2"],
    layout: RopeLayout::Half,
    query_key_norms: QueryKeyNorms::EachHead,
    output_norm: "token_embd_norm",
    names: &[
        ("token_embd_norm", "embedding_norm"),
        ("attn_norm", "operator_norm"),
        ("attn_q_norm", "self_attn.q_layernorm"),
        ("attn_k_norm", "self_attn.k_layernorm"),
        ("attn_output", "self_attn.out_proj"),
        ("ffn_norm", "ffn_norm"),
        ("ffn_gate", "feed_forward.w1"),
        ("ffn_up", "feed_forward.w3"),
        ("ffn_down", "feed_forward.w2"),
        ("shortconv.in_proj", "conv.in_proj"),
        ("shortconv.conv", "conv.conv"),
        ("shortconv.out_proj", "conv.out_proj"),
    ],
    feed_forward,
    short_convolution: true,
    tied: true,
    adjust,
    ..Family::LLAMA
};

/// The family `lfm2moe`.
pub(super) static LFM2_MOE: Family = Family {
    name: "lfm2moe",
    model_types: &["lfm2_moe"],
    feed_forward: Family::LLAMA.feed_forward,
    experts: Some(ExpertNames {
        leading_dense: ("num_dense_layers", 2),
        prefix: "feed_forward",
        correction: "expert_bias",
        layout: ExpertLayout::Separate(["w1", "w3", "w2"]),
        sigmoid: true,
        normalized_key: Some(("norm_topk_prob", true)),
        ..ExpertNames::QWEN
    }),
    adjust: adjust_experts,
    ..LFM2
};

/// Reads the inner length of the feed-forward networks. The settings have the length for networks of two maps; the
/// networks have three, so that their length is two thirds of it, rounded up.
fn feed_forward(settings: Settings) -> Result<usize, Error> {
    let length = match settings.optional_count("block_ff_dim")? {
        Some(length) => length,
        None => settings.count("intermediate_size")?,
    };
    if settings.optional_flag("block_auto_adjust_ff_dim")? == Some(false) {
        return Ok(length);
    }
    let factor = settings.positive("block_ffn_dim_multiplier", 1.0)?;
    let multiple = settings.optional_count("block_multiple_of")?.unwrap_or(256);
    let adjusted = f64::from(factor) * (2 * length / 3) as f64;
    if adjusted > LARGEST_DIMENSION as f64 {
        return Err(settings.error(
            "block_ffn_dim_multiplier",
            "a length of at most 2^28",
            adjusted.to_string(),
        ));
    }
    Ok((adjusted as usize).next_multiple_of(multiple))
}

/// Reads the setting of the norms, which has a name of its own in `config.json`.
fn adjust(_: &Family, settings: Settings, sizes: &mut Sizes) -> Result<(), Error> {
    if let Settings::Json(..) = settings {
        sizes.norm_epsilon = settings.positive("norm_eps", 1e-5)?;
    }
    Ok(())
}

/// Like [`adjust`]. llama.cpp always divides the strengths of a token's experts by their sum, and GGUF has no key for it.
fn adjust_experts(family: &Family, settings: Settings, sizes: &mut Sizes) -> Result<(), Error> {
    adjust(family, settings, sizes)?;
    for key in ["norm_topk_prob", "use_expert_bias"] {
        if settings.optional_flag(key)? == Some(false) {
            return Err(settings.error(key, "true, because GGUF has no key for other values", "false"));
        }
    }
    if let Some(experts) = &mut sizes.experts {
        experts.normalized = true;
    }
    Ok(())
}
