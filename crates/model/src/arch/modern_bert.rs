//! ModernBERT: an encoder with rotary positions, gated feed-forward networks, and windows in most blocks.
//!
//! Source: Warner et al., Smarter, Better, Faster, Longer, arXiv 2412.13663; `transformers`' `models/modernbert`;
//! llama.cpp's `src/models/modern-bert.cpp`. The first block has no norm before its attention. Layer norms have no bias.
//! Not supported: heads of classifiers.

use super::rope_settings::{self, RopeContext, Ropes};
use super::settings::Settings;
use super::{Architecture, check_blocks, embedding_rows, in_block, text_vector, window};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, Expansion, FeedForward, Head, Norm,
    NormKind, OutputSpec, Pooling, Projections, Rope, RopeLayout, Slot, Source, Span, Spec, Sublayer,
    VectorSlot,
};
use kvant_io::{Array, Checkpoint, Meta, Value};

/// The family.
pub(super) struct ModernBert;

/// Names of the linear maps and norms outside the blocks, without suffix: GGUF, Hugging Face.
const OUTER_NAMES: [(&str, &str); 3] = [
    ("token_embd", "embeddings.tok_embeddings"),
    ("token_embd_norm", "embeddings.norm"),
    ("output_norm", "final_norm"),
];

/// Names of the linear maps and norms of a block, without suffix: GGUF, Hugging Face.
const BLOCK_NAMES: [(&str, &str); 6] = [
    ("attn_norm", "attn_norm"),
    ("attn_qkv", "attn.Wqkv"),
    ("attn_output", "attn.Wo"),
    ("ffn_norm", "mlp_norm"),
    ("ffn_up", "mlp.Wi"),
    ("ffn_down", "mlp.Wo"),
];

/// The distance of blocks without a window, unless a setting says the opposite.
const FULL_EACH: usize = 3;

struct Sizes {
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    vocabulary: usize,
    context: usize,
    norm_epsilon: f32,
    activation: Activation,
    /// For each block, its rotary embedding and its span.
    layers: Vec<(Rope, Span)>,
}

impl Architecture for ModernBert {
    fn name(&self) -> &'static str {
        "modern-bert"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["modernbert"]
    }

    fn spec(&self, checkpoint: &dyn Checkpoint) -> Result<Spec, Error> {
        let path = checkpoint.path();
        let (settings, sizes) = match checkpoint.meta() {
            Meta::Gguf(metadata) => {
                let settings = Settings::Gguf(path, metadata);
                (settings, sizes_from_gguf(settings, checkpoint)?)
            }
            Meta::HuggingFace(folder) => {
                let settings = Settings::Json(path, &folder.config);
                (settings, sizes_from_json(settings, checkpoint)?)
            }
        };
        if !sizes.hidden.is_multiple_of(sizes.heads) {
            let expected = format!("a divisor of {}", sizes.hidden);
            return Err(settings.error("heads", expected, sizes.heads.to_string()));
        }
        for (rope, _) in &sizes.layers {
            rope_settings::check_rotated(&settings, rope, sizes.hidden / sizes.heads)?;
        }
        let mut spec = build(&sizes);
        spec.text_vector = text_vector::read(settings, checkpoint, self.name(), &spec, Some(Pooling::Mean))?;
        Ok(spec)
    }

    fn hugging_face_source(
        &self,
        checkpoint: &dyn Checkpoint,
        _: &Spec,
        name: &str,
    ) -> Result<Source, Error> {
        if let Some(source) = text_vector::source(checkpoint, name) {
            return Ok(source);
        }
        let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
        let of = |names: &[(&str, &'static str)], base: &str| {
            names.iter().find(|(gguf, _)| *gguf == base).map(|(_, name)| *name)
        };
        let bare = match of(&OUTER_NAMES, base) {
            Some(name) => format!("{name}.{suffix}"),
            None => {
                let (index, map) = in_block(base);
                format!("layers.{index}.{}.{suffix}", of(&BLOCK_NAMES, map).unwrap_or(map))
            }
        };
        // A checkpoint with a head has the prefix.
        Ok(Source::Plain(if checkpoint.info(&bare).is_some() { bare } else { format!("model.{bare}") }))
    }

    fn may_ignore(&self, _: &Spec, name: &str) -> bool {
        // The head of the training.
        ["head.", "decoder."].iter().any(|head| name.starts_with(head))
    }

    fn lost_in_llama_cpp(&self, spec: &Spec) -> Vec<String> {
        text_vector::lost(spec)
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let mut entries = vec![("general.architecture".to_owned(), Value::String(self.name().into()))];
        let mut set = |key: &str, value: Value| entries.push((format!("{}.{key}", self.name()), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        if let (Some(attention), Some(network)) = (spec.attentions().next(), spec.feed_forwards().next()) {
            set("feed_forward_length", count(network.down.columns));
            set("attention.head_count", count(attention.heads));
            let silu = network.activation == Activation::Silu;
            set("hidden_activation", Value::String(if silu { "silu" } else { "gelu" }.into()));
        }
        if let Some(norm) = &spec.output.norm {
            set("attention.layer_norm_epsilon", Value::F32(norm.epsilon));
        }
        set("attention.causal", Value::Bool(false));
        if let Some(positions) = window(spec) {
            set("attention.sliding_window", count(2 * (positions - 1)));
            let windowed = spec.attentions().map(|attention| attention.span != Span::Full).collect();
            set("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
        }
        let rope_of = |with_window: bool| {
            let found = spec.attentions().filter(|a| (a.span != Span::Full) == with_window);
            found.filter_map(|a| a.rope.as_ref()).next()
        };
        rope_settings::to_gguf(rope_of(false), rope_of(true), &mut set);
        set("vocab_size", count(spec.vocabulary));
        text_vector::to_gguf(spec, &mut set);
        entries
    }
}

/// Returns the rotary embedding and the span of each block. `window` is the number of positions before and after a
/// position together, and `windowed` says which blocks have a window.
fn layers(
    blocks: usize,
    window: Option<usize>,
    ropes: &Ropes,
    windowed: impl Fn(usize) -> bool,
) -> Vec<(Rope, Span)> {
    let layer = |index| match window {
        Some(positions) if windowed(index) => (ropes.windowed.clone(), Span::Window(positions / 2 + 1)),
        _ => (ropes.full.clone(), Span::Full),
    };
    (0..blocks).map(layer).collect()
}

fn activation(settings: Settings, key: &str) -> Result<Activation, Error> {
    match settings.optional_text(key)? {
        None | Some("gelu") => Ok(Activation::Gelu),
        Some("silu") => Ok(Activation::Silu),
        Some(other) => Err(settings.error(key, "gelu or silu", other)),
    }
}

/// Returns the flags of all blocks. Without a list, all blocks but each n-th have a window; the first has none.
fn windows(
    settings: Settings,
    listed: Option<Vec<bool>>,
    full_each: Option<usize>,
    blocks: usize,
) -> Result<impl Fn(usize) -> bool, Error> {
    if let Some(found) = listed.as_ref().filter(|listed| listed.len() != blocks) {
        let expected = format!("one entry for each of {blocks} blocks");
        return Err(settings.error("list of attentions", expected, found.len().to_string()));
    }
    let full_each = full_each.unwrap_or(FULL_EACH);
    Ok(move |index: usize| match &listed {
        Some(listed) => listed[index],
        None => !index.is_multiple_of(full_each),
    })
}

fn sizes_from_gguf(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Sizes, Error> {
    let key = |key: &str| format!("modern-bert.{key}");
    let hidden = settings.count(&key("embedding_length"))?;
    let heads = settings.count(&key("attention.head_count"))?;
    let context = settings.count(&key("context_length"))?;
    let blocks = settings.count(&key("block_count"))?;
    check_blocks(&settings, blocks, checkpoint)?;
    let of = RopeContext { context, ..RopeContext::new(hidden / heads, RopeLayout::Half) };
    let ropes = rope_settings::from_gguf(settings, checkpoint, "modern-bert", Some(10_000.0), of)?;
    let pattern = key("attention.sliding_window_pattern");
    let is_list = settings.is_list(&pattern);
    let listed = if is_list { settings.optional_flags(&pattern)? } else { None };
    let full_each = if is_list { None } else { settings.optional_count(&pattern)? };
    let windowed = windows(settings, listed, full_each, blocks)?;
    let window = settings.optional_length(&key("attention.sliding_window"))?;
    Ok(Sizes {
        hidden,
        feed_forward: settings.count(&key("feed_forward_length"))?,
        heads,
        vocabulary: embedding_rows(checkpoint, "modern-bert")?,
        context,
        norm_epsilon: settings.positive(&key("attention.layer_norm_epsilon"), 1e-5)?,
        activation: activation(settings, &key("hidden_activation"))?,
        layers: layers(blocks, window, &ropes, windowed),
    })
}

fn sizes_from_json(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Sizes, Error> {
    for key in ["norm_bias", "attention_bias", "mlp_bias"] {
        if settings.flag(key)? {
            return Err(settings.error(key, "false: GGUF has no such bias", "true"));
        }
    }
    let hidden = settings.count("hidden_size")?;
    let heads = settings.count("num_attention_heads")?;
    let context = settings.optional_count("max_position_embeddings")?.unwrap_or(8192);
    let blocks = settings.count("num_hidden_layers")?;
    check_blocks(&settings, blocks, checkpoint)?;
    let of = RopeContext {
        context,
        theta_key: "global_rope_theta",
        ..RopeContext::new(hidden / heads, RopeLayout::Half)
    };
    let mut ropes = rope_settings::from_json(settings, of)?;
    if settings.section("rope_parameters")?.is_none() {
        ropes.full.theta = settings.positive("global_rope_theta", 160_000.0)?;
        ropes.windowed.theta = settings.positive("local_rope_theta", 10_000.0)?;
    }
    let flag = |kind: &str| match kind {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(settings.error("layer_types", "full_attention or sliding_attention", other)),
    };
    let kinds = settings.optional_texts("layer_types")?;
    let listed = kinds.map(|kinds| kinds.into_iter().map(flag).collect()).transpose()?;
    let full_each = settings.optional_count("global_attn_every_n_layers")?;
    let windowed = windows(settings, listed, full_each, blocks)?;
    let window = settings.optional_count("local_attention")?.unwrap_or(128);
    Ok(Sizes {
        hidden,
        feed_forward: settings.count("intermediate_size")?,
        heads,
        vocabulary: settings.count("vocab_size")?,
        context,
        norm_epsilon: settings.positive("norm_eps", 1e-5)?,
        activation: activation(settings, "hidden_activation")?,
        layers: layers(blocks, Some(window), &ropes, windowed),
    })
}

fn build(sizes: &Sizes) -> Spec {
    let &Sizes { hidden, feed_forward, heads, vocabulary, context, norm_epsilon, .. } = sizes;
    let norm = |name: String| Norm {
        kind: NormKind::Layer,
        weight: VectorSlot { name: format!("{name}.weight"), length: hidden },
        bias: None,
        epsilon: norm_epsilon,
    };
    let slot = |name: String, rows, columns| Slot { name, rows, columns, bias: false, experts: None };
    let head_size = hidden / heads;
    let blocks = sizes.layers.iter().enumerate().map(|(i, (rope, span))| {
        let map = |name: &str, rows, columns| slot(format!("blk.{i}.{name}"), rows, columns);
        let attention = Attention {
            heads,
            kv_heads: heads,
            head_size,
            projections: Projections::Fused(map("attn_qkv", 3 * hidden, hidden)),
            gated: false,
            value_norm: None,
            query_norm: None,
            key_norm: None,
            rope: Some(rope.clone()),
            causal: false,
            span: *span,
            scale: 1.0 / (head_size as f32).sqrt(),
            softcap: None,
            sinks: None,
            output: map("attn_output", hidden, hidden),
        };
        let network = FeedForward {
            expansion: Expansion::FusedGated(map("ffn_up", 2 * feed_forward, hidden)),
            activation: sizes.activation,
            factor: None,
            down: map("ffn_down", hidden, feed_forward),
        };
        let mut of_attention =
            Sublayer::pre_norm(norm(format!("blk.{i}.attn_norm")), Body::Attention(attention));
        if i == 0 {
            of_attention.before = None;
        }
        let of_network = Sublayer::pre_norm(norm(format!("blk.{i}.ffn_norm")), Body::FeedForward(network));
        BlockSpec { sublayers: vec![of_attention, of_network], scale: None }
    });
    Spec {
        architecture: "modern-bert",
        vocabulary,
        hidden,
        context,
        embedding: EmbeddingSpec {
            norm: Some(norm("token_embd_norm".into())),
            ..EmbeddingSpec::of(slot("token_embd".into(), vocabulary, hidden))
        },
        blocks: blocks.collect(),
        output: OutputSpec {
            norm: Some(norm("output_norm".into())),
            head: Head::None,
            scale: 1.0,
            softcap: None,
        },
        text_vector: None,
    }
}
