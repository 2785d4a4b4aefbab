//! GPT-2: layer norms with biases, learned positions, one linear map for queries, keys and values, GELU without a gate.
//!
//! Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019); `transformers`' `models/gpt2`
//! and llama.cpp's `src/models/gpt2.cpp` for names. A Hugging Face checkpoint stores each weight matrix as `in × out`.
//! Not supported: cross attention, and attention scales that differ between layers.

use super::settings::Settings;
use super::{Architecture, check_blocks, embedding_rows, has_other_head, in_block};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, FeedForward, Norm, NormKind, OutputSpec,
    Projections, Slot, Source, Spec, Sublayer, VectorSlot,
};
use kvant_io::{Checkpoint, Meta, Value};

/// The family `gpt2`.
pub struct Gpt2;

/// Names of the linear maps and norms of a block, without suffix: GGUF, Hugging Face.
const MAPS: [(&str, &str); 6] = [
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

struct Sizes {
    hidden: usize,
    layers: usize,
    feed_forward: usize,
    heads: usize,
    vocabulary: usize,
    context: usize,
    norm_epsilon: f32,
}

impl Architecture for Gpt2 {
    fn name(&self) -> &'static str {
        "gpt2"
    }

    fn spec(&self, checkpoint: &dyn Checkpoint) -> Result<Spec, Error> {
        let path = checkpoint.path();
        let (settings, sizes, head) = match checkpoint.meta() {
            Meta::Gguf(metadata) => {
                let settings = Settings::Gguf(path, metadata);
                (settings, sizes_from_gguf(settings, checkpoint)?, checkpoint.info("output.weight").is_some())
            }
            Meta::HuggingFace(folder) => {
                let settings = Settings::Json(path, &folder.config);
                let tied = settings.optional_flag("tie_word_embeddings")?.unwrap_or(true);
                let head = !tied || has_other_head(checkpoint, ["transformer.wte.weight", "wte.weight"])?;
                (settings, sizes_from_json(settings)?, head)
            }
        };
        check_blocks(&settings, sizes.layers, checkpoint)?;
        if !sizes.hidden.is_multiple_of(sizes.heads) {
            let expected = format!("a divisor of the width {}", sizes.hidden);
            return Err(settings.error("heads", expected, sizes.heads.to_string()));
        }
        Ok(build(&sizes, head))
    }

    fn hugging_face_source(&self, checkpoint: &dyn Checkpoint, _: &Spec, name: &str) -> Source {
        let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
        let (bare, transposed) = match base {
            "token_embd" => ("wte".to_owned(), false),
            "position_embd" => ("wpe".to_owned(), false),
            "output_norm" => ("ln_f".to_owned(), false),
            "output" => return Source::Plain(format!("lm_head.{suffix}")),
            _ => {
                let (index, map) = in_block(base);
                let name = MAPS.iter().find(|(gguf, _)| *gguf == map).map_or(map, |(_, name)| name);
                // Names with a dot are linear maps; the norms `ln_1` and `ln_2` have none.
                (format!("h.{index}.{name}"), suffix == "weight" && name.contains('.'))
            }
        };
        let bare = format!("{bare}.{suffix}");
        // The first checkpoints were saved from the model without its head. Their names lack the prefix.
        let from = if checkpoint.info(&bare).is_some() { bare } else { format!("transformer.{bare}") };
        if transposed { Source::Transpose(from) } else { Source::Plain(from) }
    }

    fn may_ignore(&self, spec: &Spec, name: &str) -> bool {
        // Older versions of `transformers` saved the causal masks.
        name.ends_with(".attn.bias")
            || name.ends_with(".attn.masked_bias")
            || (spec.output.head.is_none() && name == "lm_head.weight")
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let mut entries = vec![("general.architecture".to_owned(), Value::String("gpt2".into()))];
        let mut set = |key: &str, value: Value| entries.push((format!("gpt2.{key}"), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        if let (Some(attention), Some(feed_forward)) = (spec.attentions().next(), spec.feed_forwards().next())
        {
            set("attention.head_count", count(attention.heads));
            set("feed_forward_length", count(feed_forward.up.rows));
        }
        set("attention.layer_norm_epsilon", Value::F32(spec.output.norm.epsilon));
        set("vocab_size", count(spec.vocabulary));
        entries
    }
}

fn sizes_from_gguf(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Sizes, Error> {
    let hidden = settings.count("gpt2.embedding_length")?;
    Ok(Sizes {
        hidden,
        layers: settings.count("gpt2.block_count")?,
        feed_forward: settings.optional_count("gpt2.feed_forward_length")?.unwrap_or(4 * hidden),
        heads: settings.count("gpt2.attention.head_count")?,
        vocabulary: embedding_rows(checkpoint, "gpt2")?,
        context: settings.count("gpt2.context_length")?,
        norm_epsilon: settings.positive("gpt2.attention.layer_norm_epsilon", 1e-5)?,
    })
}

fn sizes_from_json(settings: Settings) -> Result<Sizes, Error> {
    match settings.optional_text("activation_function")? {
        None | Some("gelu_new" | "gelu_pytorch_tanh") => {}
        Some(other) => return Err(settings.error("activation_function", "gelu_new", other)),
    }
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if settings.flag(key)? {
            return Err(settings.error(key, "false (not built yet)", "true"));
        }
    }
    if settings.optional_flag("scale_attn_weights")? == Some(false) {
        return Err(settings.error("scale_attn_weights", "true (not built yet)", "false"));
    }
    let hidden = settings.count("n_embd")?;
    Ok(Sizes {
        hidden,
        layers: settings.count("n_layer")?,
        feed_forward: settings.optional_count("n_inner")?.unwrap_or(4 * hidden),
        heads: settings.count("n_head")?,
        vocabulary: settings.count("vocab_size")?,
        context: settings.count("n_positions")?,
        norm_epsilon: settings.positive("layer_norm_epsilon", 1e-5)?,
    })
}

fn build(sizes: &Sizes, head: bool) -> Spec {
    let &Sizes { hidden, feed_forward, heads, vocabulary, context, norm_epsilon, .. } = sizes;
    let slot = |name: &str, rows, columns| Slot { name: name.into(), rows, columns, bias: false };
    let vector = |name: String| VectorSlot { name, length: hidden };
    let norm = |name: String| Norm {
        kind: NormKind::Layer,
        weight: vector(format!("{name}.weight")),
        bias: Some(vector(format!("{name}.bias"))),
        epsilon: norm_epsilon,
    };
    let head_size = hidden / heads;
    let blocks = (0..sizes.layers).map(|i| {
        let map =
            |name: &str, rows, columns| Slot { name: format!("blk.{i}.{name}"), rows, columns, bias: true };
        let norm = |name: &str| Some(norm(format!("blk.{i}.{name}")));
        let attention = Attention {
            heads,
            kv_heads: heads,
            head_size,
            projections: Projections::Fused(map("attn_qkv", 3 * hidden, hidden)),
            query_norm: None,
            key_norm: None,
            rope: None,
            scale: 1.0 / (head_size as f32).sqrt(),
            output: map("attn_output", hidden, hidden),
        };
        let feed_forward = FeedForward {
            gate: None,
            up: map("ffn_up", feed_forward, hidden),
            down: map("ffn_down", hidden, feed_forward),
            activation: Activation::GeluTanh,
        };
        BlockSpec {
            sublayers: vec![
                Sublayer { before: norm("attn_norm"), body: Body::Attention(attention) },
                Sublayer { before: norm("ffn_norm"), body: Body::FeedForward(feed_forward) },
            ],
        }
    });
    Spec {
        architecture: "gpt2",
        vocabulary,
        hidden,
        context,
        embedding: EmbeddingSpec {
            tokens: slot("token_embd", vocabulary, hidden),
            positions: Some(slot("position_embd", context, hidden)),
        },
        blocks: blocks.collect(),
        output: OutputSpec {
            norm: norm("output_norm".into()),
            head: head.then(|| slot("output", vocabulary, hidden)),
        },
    }
}
