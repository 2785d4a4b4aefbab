//! BERT and XLM-RoBERTa: encoders with learned positions, biases, and norms of the residual stream.
//!
//! Source: Devlin et al., BERT, arXiv 1810.04805; `transformers`' `models/bert` and `xlm_roberta`; llama.cpp's
//! `src/models/bert.cpp` and `conversion/bert.py`. XLM-RoBERTa counts positions from the padding token's id plus 1 on. A
//! GGUF omits the rows before. Not supported: heads of classifiers, decoders, relative positions.

use super::settings::Settings;
use super::{Architecture, check_blocks, embedding_rows, in_block, text_vector};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, Expansion, FeedForward, Head, Norm,
    NormKind, OutputSpec, Pooling, Projections, Slot, Source, Span, Spec, Sublayer, VectorSlot,
};
use kvant_io::{Checkpoint, Meta, Value};

/// The family.
pub(super) struct Bert;

/// The value of `model_type` of the family member whose positions have an offset.
const XLM_ROBERTA: &str = "xlm-roberta";

/// Names of the linear maps and norms, without suffix: GGUF, Hugging Face.
const OUTER_NAMES: [(&str, &str); 4] = [
    ("token_embd", "embeddings.word_embeddings"),
    ("position_embd", "embeddings.position_embeddings"),
    ("token_types", "embeddings.token_type_embeddings"),
    ("token_embd_norm", "embeddings.LayerNorm"),
];

/// Names of the linear maps and norms of a block, without suffix: GGUF, Hugging Face.
const BLOCK_NAMES: [(&str, &str); 8] = [
    ("attn_q", "attention.self.query"),
    ("attn_k", "attention.self.key"),
    ("attn_v", "attention.self.value"),
    ("attn_output", "attention.output.dense"),
    ("attn_output_norm", "attention.output.LayerNorm"),
    ("ffn_up", "intermediate.dense"),
    ("ffn_down", "output.dense"),
    ("layer_output_norm", "output.LayerNorm"),
];

/// The prefixes of all names in checkpoints that were saved with a head.
const PREFIXES: [&str; 3] = ["", "bert.", "roberta."];

struct Sizes {
    hidden: usize,
    layers: usize,
    feed_forward: usize,
    heads: usize,
    vocabulary: usize,
    context: usize,
    norm_epsilon: f32,
    activation: Activation,
    /// The number of token types; 0 if there is no table of them.
    types: usize,
}

impl Architecture for Bert {
    fn name(&self) -> &'static str {
        "bert"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["bert", XLM_ROBERTA]
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
                (settings, sizes_from_json(settings)?)
            }
        };
        check_blocks(&settings, sizes.layers, checkpoint)?;
        if !sizes.hidden.is_multiple_of(sizes.heads) {
            let expected = format!("a divisor of {}", sizes.hidden);
            return Err(settings.error("heads", expected, sizes.heads.to_string()));
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
        let from = hugging_face_name(checkpoint, name);
        let Meta::HuggingFace(folder) = checkpoint.meta() else { return Ok(Source::Plain(from)) };
        let skip = offset(Settings::Json(checkpoint.path(), &folder.config))?;
        Ok(match skip {
            skip if skip > 0 && name == "position_embd.weight" => Source::RowsFrom { name: from, skip },
            _ => Source::Plain(from),
        })
    }

    fn may_ignore(&self, _: &Spec, name: &str) -> bool {
        // The heads of the training: the masked tokens, the next sentence. The pooler belongs to the second.
        let bare = PREFIXES.iter().filter_map(|prefix| name.strip_prefix(prefix)).min_by_key(|n| n.len());
        let bare = bare.unwrap_or(name);
        let heads = ["pooler.", "cls.predictions.", "cls.seq_relationship.", "lm_head."];
        bare == "embeddings.position_ids" || heads.iter().any(|head| bare.starts_with(head))
    }

    fn lost_in_llama_cpp(&self, spec: &Spec) -> Vec<String> {
        text_vector::lost(spec)
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let mut entries = vec![("general.architecture".to_owned(), Value::String(self.name().into()))];
        if let Some(types) = &spec.embedding.types {
            entries.push(("tokenizer.ggml.token_type_count".to_owned(), count(types.rows)));
        }
        let mut set = |key: &str, value: Value| entries.push((format!("{}.{key}", self.name()), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        if let (Some(attention), Some(network)) = (spec.attentions().next(), spec.feed_forwards().next()) {
            set("feed_forward_length", count(network.down.columns));
            set("attention.head_count", count(attention.heads));
        }
        if let Some(norm) = &spec.embedding.norm {
            set("attention.layer_norm_epsilon", Value::F32(norm.epsilon));
        }
        set("attention.causal", Value::Bool(false));
        set("vocab_size", count(spec.vocabulary));
        text_vector::to_gguf(spec, &mut set);
        entries
    }
}

/// Returns the name of the tensor `name` in a Hugging Face checkpoint.
fn hugging_face_name(checkpoint: &dyn Checkpoint, name: &str) -> String {
    let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
    let of = |names: &[(&str, &'static str)], base: &str| {
        names.iter().find(|(gguf, _)| *gguf == base).map(|(_, name)| *name)
    };
    let mapped = match of(&OUTER_NAMES, base) {
        Some(name) => name.to_owned(),
        None => {
            let (index, map) = in_block(base);
            format!("encoder.layer.{index}.{}", of(&BLOCK_NAMES, map).unwrap_or(map))
        }
    };
    // The first checkpoints have TensorFlow's names of the vectors of norms.
    let older = if suffix == "bias" { "beta" } else { "gamma" };
    let spellings =
        PREFIXES.iter().flat_map(|prefix| [suffix, older].map(|suffix| format!("{prefix}{mapped}.{suffix}")));
    spellings.clone().find(|name| checkpoint.info(name).is_some()).unwrap_or(format!("{mapped}.{suffix}"))
}

/// The number of rows of a Hugging Face checkpoint's position table before the row of position 0.
fn offset(settings: Settings) -> Result<usize, Error> {
    if settings.optional_text("model_type")? != Some(XLM_ROBERTA) {
        return Ok(0);
    }
    // `transformers` assumes the padding token 1.
    match settings.optional_number("pad_token_id")? {
        None => Ok(2),
        Some(_) => Ok(settings.optional_length("pad_token_id")?.unwrap_or(0) + 1),
    }
}

fn sizes_from_gguf(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Sizes, Error> {
    let key = |key: &str| format!("bert.{key}");
    if settings.flag(&key("attention.causal"))? {
        return Err(settings.error(&key("attention.causal"), "false", "true"));
    }
    let hidden = settings.count(&key("embedding_length"))?;
    Ok(Sizes {
        hidden,
        layers: settings.count(&key("block_count"))?,
        feed_forward: settings.optional_count(&key("feed_forward_length"))?.unwrap_or(4 * hidden),
        heads: settings.count(&key("attention.head_count"))?,
        vocabulary: embedding_rows(checkpoint, "bert")?,
        context: settings.count(&key("context_length"))?,
        norm_epsilon: settings.positive(&key("attention.layer_norm_epsilon"), 1e-12)?,
        activation: Activation::Gelu,
        types: checkpoint.info("token_types.weight").map_or(0, |info| info.shape.rows()),
    })
}

fn sizes_from_json(settings: Settings) -> Result<Sizes, Error> {
    for (key, required) in [("is_decoder", false), ("add_cross_attention", false)] {
        if settings.optional_flag(key)?.unwrap_or(required) != required {
            return Err(settings.error(key, "false: this version reads encoders", "true"));
        }
    }
    if let Some(kind) = settings.optional_text("position_embedding_type")?
        && kind != "absolute"
    {
        return Err(settings.error("position_embedding_type", "absolute", kind));
    }
    let activation = match settings.optional_text("hidden_act")? {
        None | Some("gelu") => Activation::Gelu,
        Some(other) => return Err(settings.error("hidden_act", "gelu", other)),
    };
    let hidden = settings.count("hidden_size")?;
    let positions = settings.optional_count("max_position_embeddings")?.unwrap_or(512);
    let skip = offset(settings)?;
    let context = positions.checked_sub(skip).filter(|context| *context > 0).ok_or_else(|| {
        let expected = format!("more than {skip}, because positions begin there");
        settings.error("max_position_embeddings", expected, positions.to_string())
    })?;
    Ok(Sizes {
        hidden,
        layers: settings.count("num_hidden_layers")?,
        feed_forward: settings.optional_count("intermediate_size")?.unwrap_or(4 * hidden),
        heads: settings.count("num_attention_heads")?,
        vocabulary: settings.count("vocab_size")?,
        context,
        norm_epsilon: settings.positive("layer_norm_eps", 1e-12)?,
        activation,
        types: settings.optional_length("type_vocab_size")?.unwrap_or(2),
    })
}

fn build(sizes: &Sizes) -> Spec {
    let &Sizes { hidden, feed_forward, heads, vocabulary, context, norm_epsilon, .. } = sizes;
    let table =
        |name: &str, rows| Slot { name: name.into(), rows, columns: hidden, bias: false, experts: None };
    let norm = |name: String| Norm {
        kind: NormKind::Layer,
        weight: VectorSlot { name: format!("{name}.weight"), length: hidden },
        bias: Some(VectorSlot { name: format!("{name}.bias"), length: hidden }),
        epsilon: norm_epsilon,
    };
    let head_size = hidden / heads;
    let blocks = (0..sizes.layers).map(|i| {
        let map = |name: &str, rows, columns| Slot {
            name: format!("blk.{i}.{name}"),
            rows,
            columns,
            bias: true,
            experts: None,
        };
        let attention = Attention {
            heads,
            kv_heads: heads,
            head_size,
            projections: Projections::Separate {
                query: map("attn_q", hidden, hidden),
                key: map("attn_k", hidden, hidden),
                value: map("attn_v", hidden, hidden),
            },
            gated: false,
            value_norm: None,
            query_norm: None,
            key_norm: None,
            rope: None,
            causal: false,
            span: Span::Full,
            scale: 1.0 / (head_size as f32).sqrt(),
            softcap: None,
            sinks: None,
            output: map("attn_output", hidden, hidden),
        };
        let feed_forward = FeedForward {
            expansion: Expansion::Plain(map("ffn_up", feed_forward, hidden)),
            activation: sizes.activation,
            factor: None,
            down: map("ffn_down", hidden, feed_forward),
        };
        let norm = |name: &str| norm(format!("blk.{i}.{name}"));
        BlockSpec {
            sublayers: vec![
                Sublayer::post_norm(Body::Attention(attention), norm("attn_output_norm")),
                Sublayer::post_norm(Body::FeedForward(feed_forward), norm("layer_output_norm")),
            ],
            scale: None,
        }
    });
    Spec {
        architecture: "bert",
        vocabulary,
        hidden,
        context,
        embedding: EmbeddingSpec {
            positions: Some(table("position_embd", context)),
            types: (sizes.types > 0).then(|| table("token_types", sizes.types)),
            norm: Some(norm("token_embd_norm".into())),
            ..EmbeddingSpec::of(table("token_embd", vocabulary))
        },
        blocks: blocks.collect(),
        output: OutputSpec { norm: None, head: Head::None, scale: 1.0, softcap: None },
        text_vector: None,
    }
}
