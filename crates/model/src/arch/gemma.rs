//! Gemma 1 to 3, text, and EmbeddingGemma: an embedding with a factor, norms that add 1, GELU gates. Gemma 2 and 3 have norms after the
//! sublayers and windows, Gemma 2 soft caps, Gemma 3 norms of queries and keys and two rotary embeddings.
//!
//! Source: `transformers`' `models/gemma`, `gemma2` and `gemma3`; llama.cpp's `src/models/gemma*.cpp`. GGUF has no key for
//! the scale of attention. llama.cpp uses another scale for the models of 27 B parameters, which it knows by their number
//! of blocks. If a checkpoint has a third scale, its queries are scaled instead.

use super::gated::{Family, QueryKeyNorms, SetEntry, Sizes, SublayerNorms, Windows};
use super::settings::Settings;
use crate::{Activation, Error, RopeLayout, Spec};
use kvant_io::Value;

/// The family `gemma`.
pub(super) static GEMMA: Family = Family {
    name: "gemma",
    model_types: &["gemma"],
    layout: RopeLayout::Half,
    norms_add_one: true,
    activation: Activation::GeluTanh,
    tied: true,
    adjust: |_, _, sizes| {
        sizes.embedding_scale = (sizes.hidden as f32).sqrt();
        Ok(())
    },
    ..Family::LLAMA
};

/// The family `gemma2`.
pub(super) static GEMMA2: Family = Family {
    name: "gemma2",
    model_types: &["gemma2"],
    sublayer_norms: SublayerNorms::Both,
    windows: Windows::AllButEach(2),
    windows_in_llama_cpp: |_| true,
    adjust,
    set_gguf: set_softcaps,
    query_factor: |settings, spec| query_factor(settings, spec, GEMMA2_BLOCKS_27B),
    ..GEMMA
};

/// The family `gemma3`.
pub(super) static GEMMA3: Family = Family {
    name: "gemma3",
    model_types: &["gemma3_text"],
    query_key_norms: QueryKeyNorms::EachHead,
    windows: Windows::AllButEach(6),
    windowed_theta: Some(10_000.0),
    query_factor: |settings, spec| query_factor(settings, spec, GEMMA3_BLOCKS_27B),
    ..GEMMA2
};

/// The family `gemma-embedding`: Gemma 3 with attention in both directions.
pub(super) static GEMMA_EMBEDDING: Family = Family {
    name: "gemma-embedding",
    causal: false,
    query_factor: |settings, spec| query_factor(settings, spec, usize::MAX),
    ..GEMMA3
};

const GEMMA2_BLOCKS_27B: usize = 46;
const GEMMA3_BLOCKS_27B: usize = 62;

fn adjust(family: &Family, settings: Settings, sizes: &mut Sizes) -> Result<(), Error> {
    (GEMMA.adjust)(family, settings, sizes)?;
    let blocks_27b = match family.name {
        "gemma2" => GEMMA2_BLOCKS_27B,
        "gemma3" => GEMMA3_BLOCKS_27B,
        _ => usize::MAX,
    };
    sizes.attention_scale =
        scale_in_gguf(sizes.hidden, sizes.heads, sizes.head_size, sizes.layers.len() == blocks_27b);
    let cap = |key: &str| {
        let key = match settings {
            Settings::Json(..) => key.to_owned(),
            Settings::Gguf(..) => format!("{}.{key}", family.name),
        };
        settings.optional_positive(&key)
    };
    sizes.attention_softcap = cap("attn_logit_softcapping")?;
    sizes.logit_softcap = cap("final_logit_softcapping")?;
    Ok(())
}

/// The scale that llama.cpp uses.
fn scale_in_gguf(hidden: usize, heads: usize, head_size: usize, is_27b: bool) -> f32 {
    1.0 / (if is_27b { hidden / heads } else { head_size } as f32).sqrt()
}

/// Returns the checkpoint's own scale divided by the scale that llama.cpp uses.
fn query_factor(settings: Settings, spec: &Spec, blocks_27b: usize) -> Result<f32, Error> {
    let Some(attention) = spec.attentions().next() else { return Ok(1.0) };
    let is_27b = spec.blocks.len() == blocks_27b;
    let scale = scale_in_gguf(spec.hidden, attention.heads, attention.head_size, is_27b);
    let own = 1.0 / settings.positive("query_pre_attn_scalar", attention.head_size as f32)?.sqrt();
    Ok(if (own / scale - 1.0).abs() < 1e-6 { 1.0 } else { own / scale })
}

fn set_softcaps(spec: &Spec, set: SetEntry) {
    if let Some(cap) = spec.attentions().find_map(|attention| attention.softcap) {
        set("attn_logit_softcapping", Value::F32(cap));
    }
    if let Some(cap) = spec.output.softcap {
        set("final_logit_softcapping", Value::F32(cap));
    }
}
