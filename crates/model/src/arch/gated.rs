//! Decoders with RMS norms, rotary positions and gated feed-forward networks: Llama and similar families.
//!
//! Pre-norm blocks of grouped-query attention and a gated feed-forward network; attention and feed-forward biases if
//! the file has them; any head size; tied or untied head. A [`Family`] holds the differences between the families.
//! Source: `transformers`' `models/llama` and `models/qwen3`; llama.cpp's `src/models` and its `conversion` scripts for
//! names and row order. Not supported: sliding windows and experts.

use super::settings::Settings;
use super::{Architecture, check_blocks, embedding_rows, has_other_head, in_block};
use crate::weights::ROPE_FACTORS;
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, FeedForward, Norm, NormKind, OutputSpec,
    Projections, Rope, RopeLayout, RopeScaling, Slot, Source, Spec, Sublayer, VectorSlot,
};
use kvant_io::{Checkpoint, Meta, Value};

/// The properties in which the families differ.
pub(super) struct Family {
    /// The family's name in GGUF and in `config.json`.
    pub name: &'static str,
    /// The elements of a head that form a rotary pair in the family's GGUF files. `transformers` always pairs element
    /// `i` with element `i + head_size / 2`.
    pub layout: RopeLayout,
    /// True if each head of the queries and keys has a norm.
    pub query_key_norms: bool,
}

/// Names of the linear maps and norms of a block, without suffix: GGUF, Hugging Face.
const MAPS: [(&str, &str); 9] = [
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The network's sizes, read from GGUF metadata or from `config.json`.
struct Sizes {
    hidden: usize,
    layers: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    vocabulary: usize,
    context: usize,
    norm_epsilon: f32,
    rope: Rope,
    tied: bool,
}

impl Architecture for Family {
    fn name(&self) -> &'static str {
        self.name
    }

    fn spec(&self, checkpoint: &dyn Checkpoint) -> Result<Spec, Error> {
        let path = checkpoint.path();
        let (settings, sizes) = match checkpoint.meta() {
            Meta::Gguf(metadata) => {
                let settings = Settings::Gguf(path, metadata);
                (settings, self.sizes_from_gguf(settings, checkpoint)?)
            }
            Meta::HuggingFace(folder) => {
                let settings = Settings::Json(path, &folder.config);
                let mut sizes = self.sizes_from_json(settings)?;
                sizes.tied = sizes.tied
                    && !has_other_head(checkpoint, ["model.embed_tokens.weight", "embed_tokens.weight"])?;
                (settings, sizes)
            }
        };
        check(&settings, &sizes, checkpoint)?;
        let has_bias = |name: &str| match checkpoint.meta() {
            Meta::Gguf(_) => checkpoint.info(&format!("{name}.bias")).is_some(),
            Meta::HuggingFace(_) => checkpoint.info(&hugging_face_name(&format!("{name}.bias"))).is_some(),
        };
        Ok(self.build(sizes, has_bias))
    }

    fn hugging_face_source(&self, checkpoint: &dyn Checkpoint, spec: &Spec, name: &str) -> Source {
        let mut from = hugging_face_name(name);
        // Some checkpoints were saved from the model without its head. Their names lack the prefix.
        if checkpoint.info(&from).is_none()
            && let Some(bare) = from.strip_prefix("model.").filter(|bare| checkpoint.info(bare).is_some())
        {
            from = bare.to_owned();
        }
        let heads = match (self.layout, spec.attentions().next(), name.split('.').nth(2)) {
            (RopeLayout::Interleaved, Some(a), Some("attn_q")) => a.heads,
            (RopeLayout::Interleaved, Some(a), Some("attn_k")) => a.kv_heads,
            _ => return Source::Plain(from),
        };
        Source::PermuteHeads { name: from, heads }
    }

    fn may_ignore(&self, spec: &Spec, name: &str) -> bool {
        name == ROPE_FACTORS
            || name.ends_with("rotary_emb.inv_freq")
            || (spec.output.head.is_none() && (name == "lm_head.weight" || name == "output.weight"))
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let mut entries = vec![("general.architecture".to_owned(), Value::String(self.name.into()))];
        let mut set = |key: &str, value: Value| entries.push((format!("{}.{key}", self.name), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        if let (Some(feed_forward), Some(attention)) = (spec.feed_forwards().next(), spec.attentions().next())
        {
            set("feed_forward_length", count(feed_forward.up.rows));
            set("attention.head_count", count(attention.heads));
            set("attention.head_count_kv", count(attention.kv_heads));
            set("attention.key_length", count(attention.head_size));
            set("attention.value_length", count(attention.head_size));
        }
        set("attention.layer_norm_rms_epsilon", Value::F32(spec.output.norm.epsilon));
        let ropes = spec.ropes();
        if let Some(rope) = ropes.first() {
            set("rope.freq_base", Value::F32(rope.theta));
            set("rope.dimension_count", count(rope.rotated));
        }
        set("vocab_size", count(spec.vocabulary));
        let Some(rope) = ropes.first() else { return entries };
        match &rope.scaling {
            RopeScaling::None | RopeScaling::Factors(_) => {}
            RopeScaling::Linear(factor) => {
                set("rope.scaling.type", Value::String("linear".into()));
                set("rope.scaling.factor", Value::F32(*factor));
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
                set("rope.scaling.type", Value::String("yarn".into()));
                set("rope.scaling.factor", Value::F32(*factor));
                set("rope.scaling.original_context_length", count(*original_context));
                set("rope.scaling.yarn_beta_fast", Value::F32(*beta_fast));
                set("rope.scaling.yarn_beta_slow", Value::F32(*beta_slow));
                // llama.cpp multiplies this key's value by YaRN's default factor, which it computes from the context
                // extension factor.
                let default_factor = yarn_attention_factor(*factor);
                if (attention_factor / default_factor - 1.0).abs() > 1e-6 {
                    set("rope.scaling.attn_factor", Value::F32(attention_factor / default_factor));
                }
            }
        }
        entries
    }
}

/// YaRN's default factor of the sines and cosines (arXiv 2309.00071, equation 22).
fn yarn_attention_factor(factor: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

fn hugging_face_name(name: &str) -> String {
    let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
    let mapped = match base {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (index, map) = in_block(base);
            let map = match map {
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                other => MAPS.iter().find(|(gguf, _)| *gguf == other).map_or(other, |(_, name)| name),
            };
            format!("model.layers.{index}.{map}")
        }
    };
    format!("{mapped}.{suffix}")
}

impl Family {
    fn sizes_from_gguf(&self, settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Sizes, Error> {
        let key = |key: &str| format!("{}.{key}", self.name);
        let hidden = settings.count(&key("embedding_length"))?;
        let heads = settings.count(&key("attention.head_count"))?;
        let head_size = match settings.optional_count(&key("attention.key_length"))? {
            Some(size) => size,
            None => hidden / heads,
        };
        if let Some(value_size) = settings.optional_count(&key("attention.value_length"))?
            && value_size != head_size
        {
            return Err(settings.error(
                &key("attention.value_length"),
                head_size.to_string(),
                value_size.to_string(),
            ));
        }
        if settings.optional_count(&key("expert_count")).is_ok_and(|n| n.is_some()) {
            return Err(settings.error(&key("expert_count"), "no experts (not built yet)", "experts"));
        }
        let rotated = settings.optional_count(&key("rope.dimension_count"))?.unwrap_or(head_size);
        let theta = settings.positive(&key("rope.freq_base"), 10_000.0)?;
        let context = settings.count(&key("context_length"))?;
        // Older files have only the divisor, without a scaling type.
        let old_factor = settings.positive(&key("rope.scale_linear"), 1.0)?;
        let factor = settings.positive(&key("rope.scaling.factor"), old_factor)?;
        let scaling = match settings.optional_text(&key("rope.scaling.type"))? {
            None | Some("none") if factor == 1.0 => RopeScaling::None,
            Some("none") => RopeScaling::None,
            None | Some("linear") => RopeScaling::Linear(factor),
            Some("yarn") => RopeScaling::Yarn {
                factor,
                original_context: settings
                    .optional_count(&key("rope.scaling.original_context_length"))?
                    .unwrap_or(context),
                beta_fast: settings.positive(&key("rope.scaling.yarn_beta_fast"), 32.0)?,
                beta_slow: settings.positive(&key("rope.scaling.yarn_beta_slow"), 1.0)?,
                attention_factor: settings.positive(&key("rope.scaling.attn_factor"), 1.0)?
                    * yarn_attention_factor(factor),
            },
            Some(other) => {
                return Err(settings.error(&key("rope.scaling.type"), "none, linear or yarn", other));
            }
        };
        let scaling = match checkpoint.info(ROPE_FACTORS) {
            None => scaling,
            Some(info) if info.shape.elements() != rotated / 2 => {
                return Err(Error::TensorShape {
                    path: checkpoint.path().to_owned(),
                    tensor: ROPE_FACTORS.into(),
                    expected: format!("[{}]", rotated / 2),
                    found: info.shape.to_string(),
                });
            }
            Some(_) if scaling != RopeScaling::None => {
                return Err(settings.error(
                    &key("rope.scaling.type"),
                    "none beside rope_freqs.weight",
                    "a scaling",
                ));
            }
            Some(_) => {
                let factors = checkpoint.tensor(ROPE_FACTORS)?.decode();
                if let Some(bad) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
                    return Err(settings.error(ROPE_FACTORS, "finite numbers above zero", bad.to_string()));
                }
                RopeScaling::Factors(factors)
            }
        };
        Ok(Sizes {
            hidden,
            layers: settings.count(&key("block_count"))?,
            feed_forward: settings.count(&key("feed_forward_length"))?,
            heads,
            kv_heads: settings.optional_count(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_size,
            vocabulary: embedding_rows(checkpoint, self.name)?,
            context,
            norm_epsilon: settings.positive(&key("attention.layer_norm_rms_epsilon"), 1e-5)?,
            rope: Rope { theta, rotated, layout: self.layout, scaling },
            tied: checkpoint.info("output.weight").is_none(),
        })
    }

    fn sizes_from_json(&self, settings: Settings) -> Result<Sizes, Error> {
        let hidden = settings.count("hidden_size")?;
        let heads = settings.count("num_attention_heads")?;
        let head_size = settings.optional_count("head_dim")?.unwrap_or(hidden / heads);
        let context = settings.optional_count("max_position_embeddings")?.unwrap_or(2048);
        match settings.optional_text("hidden_act")? {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(settings.error("hidden_act", "silu", other)),
        }
        if settings.flag("use_sliding_window")? {
            return Err(settings.error(
                "use_sliding_window",
                "false (sliding windows are not built yet)",
                "true",
            ));
        }
        if let Some(dialect) = settings.section("quantization_config")? {
            // FP8 needs nothing from this section: the tensors' type and their scales determine the values.
            match dialect.optional_text("quant_method")? {
                Some("fp8") => {}
                found => {
                    let found = found.unwrap_or("a dialect without a name");
                    let expected = "plain weights or `fp8` (other dialects are not built yet)";
                    return Err(settings.error("quantization_config: quant_method", expected, found));
                }
            }
        }
        // transformers 5 has all rotary settings in `rope_parameters`. Older versions have `rope_theta` outside
        // `rope_scaling`.
        let section = match settings.section("rope_parameters")? {
            Some(section) => Some(section),
            None => settings.section("rope_scaling")?,
        };
        let outer_theta = settings.positive("rope_theta", 10_000.0)?;
        let (theta, scaling) = match section {
            None => (outer_theta, RopeScaling::None),
            Some(rope) => {
                let theta = rope.positive("rope_theta", outer_theta)?;
                (theta, scaling_from_json(rope, theta, head_size, context)?)
            }
        };
        Ok(Sizes {
            hidden,
            layers: settings.count("num_hidden_layers")?,
            feed_forward: settings.count("intermediate_size")?,
            heads,
            kv_heads: settings.optional_count("num_key_value_heads")?.unwrap_or(heads),
            head_size,
            vocabulary: settings.count("vocab_size")?,
            context,
            norm_epsilon: settings.positive("rms_norm_eps", 1e-6)?,
            rope: Rope { theta, rotated: head_size, layout: self.layout, scaling },
            tied: settings.flag("tie_word_embeddings")?,
        })
    }

    fn build(&self, sizes: Sizes, has_bias: impl Fn(&str) -> bool) -> Spec {
        let slot = |name: String, rows, columns| Slot { bias: has_bias(&name), name, rows, columns };
        let norm = |name: String, length| Norm {
            kind: NormKind::RootMeanSquare,
            weight: VectorSlot { name: format!("{name}.weight"), length },
            bias: None,
            epsilon: sizes.norm_epsilon,
        };
        let Sizes { hidden, feed_forward, heads, kv_heads, head_size, .. } = sizes;
        let blocks = (0..sizes.layers).map(|i| {
            let map = |name: &str, rows, columns| slot(format!("blk.{i}.{name}"), rows, columns);
            let norm = |name: &str, length| norm(format!("blk.{i}.{name}"), length);
            let head_norm = |name: &str| self.query_key_norms.then(|| norm(name, head_size));
            let attention = Attention {
                heads,
                kv_heads,
                head_size,
                projections: Projections::Separate {
                    query: map("attn_q", heads * head_size, hidden),
                    key: map("attn_k", kv_heads * head_size, hidden),
                    value: map("attn_v", kv_heads * head_size, hidden),
                },
                query_norm: head_norm("attn_q_norm"),
                key_norm: head_norm("attn_k_norm"),
                rope: Some(sizes.rope.clone()),
                scale: 1.0 / (head_size as f32).sqrt(),
                output: map("attn_output", hidden, heads * head_size),
            };
            let feed_forward = FeedForward {
                gate: Some(map("ffn_gate", feed_forward, hidden)),
                up: map("ffn_up", feed_forward, hidden),
                down: map("ffn_down", hidden, feed_forward),
                activation: Activation::Silu,
            };
            BlockSpec {
                sublayers: vec![
                    Sublayer { before: Some(norm("attn_norm", hidden)), body: Body::Attention(attention) },
                    Sublayer {
                        before: Some(norm("ffn_norm", hidden)),
                        body: Body::FeedForward(feed_forward),
                    },
                ],
            }
        });
        Spec {
            architecture: self.name,
            vocabulary: sizes.vocabulary,
            hidden,
            context: sizes.context,
            embedding: EmbeddingSpec {
                tokens: slot("token_embd".into(), sizes.vocabulary, hidden),
                positions: None,
            },
            blocks: blocks.collect(),
            output: OutputSpec {
                norm: norm("output_norm".into(), hidden),
                head: (!sizes.tied).then(|| slot("output".into(), sizes.vocabulary, hidden)),
            },
        }
    }
}

fn scaling_from_json(
    rope: Settings,
    theta: f32,
    head_size: usize,
    context: usize,
) -> Result<RopeScaling, Error> {
    let kind = match rope.optional_text("rope_type")? {
        Some(kind) => Some(kind),
        None => rope.optional_text("type")?,
    };
    let factor = || match rope.optional_number("factor")? {
        Some(x) if x >= 1.0 => Ok(x),
        Some(x) => Err(rope.error("rope scaling: factor", "a number from 1 up", x.to_string())),
        None => Err(rope.error("rope scaling: factor", "a number from 1 up", "nothing")),
    };
    let original =
        || Ok::<_, Error>(rope.optional_count("original_max_position_embeddings")?.unwrap_or(context));
    if let Some(part) = rope.optional_number("partial_rotary_factor")?
        && part != 1.0
    {
        return Err(rope.error("partial_rotary_factor", "1", part.to_string()));
    }
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear(factor()?)),
        // Dynamic scaling changes nothing within the trained context (see `rope.rs`).
        Some("dynamic") => {
            factor()?;
            Ok(RopeScaling::None)
        }
        Some("llama3") => {
            let low = rope.positive("low_freq_factor", 1.0)?;
            let high = rope.positive("high_freq_factor", 4.0)?;
            if high <= low {
                return Err(rope.error("high_freq_factor", format!("more than {low}"), high.to_string()));
            }
            Ok(RopeScaling::Factors(Rope::llama3_factors(
                theta,
                head_size,
                factor()?,
                low,
                high,
                original()?,
            )))
        }
        Some("yarn") => {
            for key in ["mscale", "mscale_all_dim"] {
                if rope.optional_number(key)?.is_some_and(|x| x != 0.0) {
                    return Err(rope.error(key, "nothing (not built yet)", "a number"));
                }
            }
            let factor = factor()?;
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original()?,
                beta_fast: rope.positive("beta_fast", 32.0)?,
                beta_slow: rope.positive("beta_slow", 1.0)?,
                attention_factor: rope.positive("attention_factor", yarn_attention_factor(factor))?,
            })
        }
        Some(other) => Err(rope.error("rope_type", "default, linear, dynamic, llama3 or yarn", other)),
    }
}

/// Checks that the sizes describe a valid network of bounded size.
fn check(settings: &Settings, sizes: &Sizes, checkpoint: &dyn Checkpoint) -> Result<(), Error> {
    check_blocks(settings, sizes.layers, checkpoint)?;
    if !sizes.heads.is_multiple_of(sizes.kv_heads) {
        return Err(settings.error(
            "key-value heads",
            format!("a divisor of {} heads", sizes.heads),
            sizes.kv_heads.to_string(),
        ));
    }
    let rotated = sizes.rope.rotated;
    if sizes.head_size == 0 || !sizes.head_size.is_multiple_of(2) {
        return Err(settings.error("head size", "an even number above 0", sizes.head_size.to_string()));
    }
    if rotated > sizes.head_size || !rotated.is_multiple_of(2) {
        return Err(settings.error(
            "rotated dimensions",
            format!("even, at most {}", sizes.head_size),
            rotated.to_string(),
        ));
    }
    Ok(())
}
