//! Decoders with layer norms, biases, and feed-forward networks without a gate: GPT-2 and similar families.
//!
//! Positions are learned or rotary. Queries, keys and values are one map or three maps. A [`Family`] holds the
//! differences between the families.
//! Source: `transformers`' `models/gpt2`, `gpt_bigcode`, `gpt_neox` and `starcoder2`; llama.cpp's `src/models` and its
//! `conversion` scripts for names and row order.

use super::rope_settings::{self, RopeContext};
use super::settings::Settings;
use super::{Architecture, check_blocks, embedding_rows, has_other_head, in_block, lost_windows, window};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, Expansion, FeedForward, Head, Norm,
    NormKind, OutputSpec, Projections, Rope, RopeLayout, Slot, Source, Span, Spec, Sublayer, VectorSlot,
};
use kvant_io::{Checkpoint, Meta, Value};

/// The maps of queries, keys and values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKeyValue {
    /// Three maps.
    Separate,
    /// One map with rows in the order queries, keys, values.
    Fused,
    /// One map. In a Hugging Face checkpoint each head has rows in the order query, key, value.
    FusedByHead,
}

/// The number of heads of keys and values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KvHeads {
    /// The number of query heads.
    All,
    /// One.
    One,
    /// A setting of its own; the number of query heads without this setting.
    Setting,
}

/// The names of settings in `config.json`.
pub(super) struct Keys {
    pub hidden: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub feed_forward: &'static str,
    pub context: &'static str,
    pub norm_epsilon: &'static str,
    pub activation: &'static str,
}

/// The properties in which the families differ.
pub(super) struct Family {
    /// The family's name in GGUF.
    pub name: &'static str,
    /// The values of `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    pub keys: Keys,
    /// The prefix of all names but the head's in a Hugging Face checkpoint. The first checkpoints of some families were
    /// saved from the model without its head. Their names lack the prefix.
    pub prefix: &'static str,
    /// The name of the list of blocks in a Hugging Face checkpoint.
    pub blocks: &'static str,
    /// Names of tensors outside the blocks, without suffix: GGUF, Hugging Face. The head's name is whole.
    pub outer_names: &'static [(&'static str, &'static str)],
    /// Names of the linear maps and norms of a block, without suffix: GGUF, Hugging Face.
    pub block_names: &'static [(&'static str, &'static str)],
    /// True if a Hugging Face checkpoint stores the maps of a block as `in × out`.
    pub transposed: bool,
    pub query_key_value: QueryKeyValue,
    pub kv_heads: KvHeads,
    /// The settings of rotary embeddings; `None` if positions are learned.
    pub rotary: Option<RotaryKeys>,
    /// The values of the activation's setting, and the activation.
    pub activation: (&'static [&'static str], Activation),
    /// True if the head is tied unless `config.json` says the opposite.
    pub tied: bool,
    /// The setting that makes attention and feed-forward network of a block parallel, and its default value.
    pub parallel: Option<(&'static str, bool)>,
    /// Settings of `config.json` that must have a value: key, value, which is also the value of an absent key.
    pub required: &'static [(&'static str, bool)],
}

/// The names of rotary settings in a `config.json` without `rope_parameters`.
#[derive(Clone, Copy)]
pub(super) struct RotaryKeys {
    pub theta: &'static str,
    pub part: &'static str,
}

struct Sizes {
    hidden: usize,
    layers: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    context: usize,
    norm_epsilon: f32,
    rope: Option<Rope>,
    span: Span,
    parallel: bool,
    /// True if the head is not tied.
    head: bool,
}

impl Architecture for Family {
    fn name(&self) -> &'static str {
        self.name
    }

    fn model_types(&self) -> &'static [&'static str] {
        self.model_types
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
                (settings, self.sizes_from_json(settings, checkpoint)?)
            }
        };
        check_blocks(&settings, sizes.layers, checkpoint)?;
        for (name, number, divisor) in
            [("heads", sizes.hidden, sizes.heads), ("key-value heads", sizes.heads, sizes.kv_heads)]
        {
            if !number.is_multiple_of(divisor) {
                let expected = format!("a divisor of {number}");
                return Err(settings.error(name, expected, divisor.to_string()));
            }
        }
        let head_size = sizes.hidden / sizes.heads;
        if let Some(rope) = &sizes.rope {
            rope_settings::check_rotated(&settings, rope, head_size)?;
        }
        let has_bias = |name: &str| match checkpoint.meta() {
            Meta::Gguf(_) => checkpoint.info(&format!("{name}.bias")).is_some(),
            Meta::HuggingFace(_) => {
                checkpoint.info(&self.hugging_face_name(checkpoint, &format!("{name}.bias"))).is_some()
            }
        };
        Ok(self.build(&sizes, has_bias))
    }

    fn hugging_face_source(
        &self,
        checkpoint: &dyn Checkpoint,
        spec: &Spec,
        name: &str,
    ) -> Result<Source, Error> {
        let from = self.hugging_face_name(checkpoint, name);
        let map = name.split('.').nth(2).unwrap_or_default();
        let is_norm = map.ends_with("norm") || !name.starts_with("blk.");
        let heads = spec.attentions().next().map_or(1, |attention| attention.heads);
        Ok(match () {
            () if self.transposed && name.ends_with(".weight") && !is_norm => Source::Transpose(from),
            () if map == "attn_qkv" && self.query_key_value == QueryKeyValue::FusedByHead => {
                Source::GroupParts { name: from, heads }
            }
            () => Source::Plain(from),
        })
    }

    fn may_ignore(&self, spec: &Spec, name: &str) -> bool {
        // Older versions of `transformers` saved the causal masks.
        let mask = [".attn", ".attention"].iter().any(|attention| {
            name.ends_with(&format!("{attention}.bias"))
                || name.ends_with(&format!("{attention}.masked_bias"))
        });
        let head = self.outer_names.iter().find(|(gguf, _)| *gguf == "output").map(|(_, name)| *name);
        let is_head = name.strip_suffix(".weight").is_some_and(|base| Some(base) == head);
        mask || name.ends_with("rotary_emb.inv_freq") || (spec.output.head.is_tied() && is_head)
    }

    fn lost_in_llama_cpp(&self, spec: &Spec) -> Vec<String> {
        lost_windows(spec)
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let mut entries = vec![("general.architecture".to_owned(), Value::String(self.name.into()))];
        let mut set = |key: &str, value: Value| entries.push((format!("{}.{key}", self.name), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        if let (Some(attention), Some(feed_forward)) = (spec.attentions().next(), spec.feed_forwards().next())
        {
            set("attention.head_count", count(attention.heads));
            if self.kv_heads != KvHeads::All {
                set("attention.head_count_kv", count(attention.kv_heads));
            }
            if let Some(positions) = window(spec) {
                set("attention.sliding_window", count(positions));
            }
            set("feed_forward_length", count(feed_forward.down.columns));
        }
        if let Some(norm) = &spec.output.norm {
            set("attention.layer_norm_epsilon", Value::F32(norm.epsilon));
        }
        rope_settings::to_gguf(spec.ropes().first().copied(), None, &mut set);
        if self.parallel.is_some() {
            let parallel = spec.blocks.iter().flat_map(|block| &block.sublayers).any(|s| s.parallel);
            set("use_parallel_residual", Value::Bool(parallel));
        }
        set("vocab_size", count(spec.vocabulary));
        entries
    }
}

impl Family {
    /// Returns the name of the tensor `name` in a Hugging Face checkpoint.
    fn hugging_face_name(&self, checkpoint: &dyn Checkpoint, name: &str) -> String {
        let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
        let of = |names: &[(&str, &'static str)], base: &str| {
            names.iter().find(|(gguf, _)| *gguf == base).map(|(_, name)| *name)
        };
        let bare = match of(self.outer_names, base) {
            Some(head) if base == "output" => return format!("{head}.{suffix}"),
            Some(name) => format!("{name}.{suffix}"),
            None => {
                let (index, map) = in_block(base);
                format!("{}.{index}.{}.{suffix}", self.blocks, of(self.block_names, map).unwrap_or(map))
            }
        };
        if checkpoint.info(&bare).is_some() { bare } else { format!("{}{bare}", self.prefix) }
    }

    fn kv_heads(&self, settings: Settings, key: &str, heads: usize) -> Result<usize, Error> {
        match self.kv_heads {
            KvHeads::All => Ok(heads),
            KvHeads::One => Ok(1),
            KvHeads::Setting => Ok(settings.optional_count(key)?.unwrap_or(heads)),
        }
    }

    fn sizes_from_gguf(&self, settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Sizes, Error> {
        let key = |key: &str| format!("{}.{key}", self.name);
        let hidden = settings.count(&key("embedding_length"))?;
        let heads = settings.count(&key("attention.head_count"))?;
        let context = settings.count(&key("context_length"))?;
        let of = RopeContext { context, ..RopeContext::new(hidden / heads, RopeLayout::Half) };
        let rope = match self.rotary {
            None => None,
            Some(_) => Some(rope_settings::from_gguf(settings, checkpoint, self.name, None, of)?.full),
        };
        Ok(Sizes {
            hidden,
            layers: settings.count(&key("block_count"))?,
            feed_forward: settings.optional_count(&key("feed_forward_length"))?.unwrap_or(4 * hidden),
            heads,
            kv_heads: self.kv_heads(settings, &key("attention.head_count_kv"), heads)?,
            vocabulary: embedding_rows(checkpoint, self.name)?,
            context,
            norm_epsilon: settings.positive(&key("attention.layer_norm_epsilon"), 1e-5)?,
            rope,
            span: span(settings.optional_length(&key("attention.sliding_window"))?),
            parallel: match self.parallel {
                None => false,
                Some((_, default)) => {
                    settings.optional_flag(&key("use_parallel_residual"))?.unwrap_or(default)
                }
            },
            head: checkpoint.info("output.weight").is_some(),
        })
    }

    fn sizes_from_json(&self, settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Sizes, Error> {
        let (known, _) = self.activation;
        if let Some(found) = settings.optional_text(self.keys.activation)?
            && !known.contains(&found)
        {
            return Err(settings.error(self.keys.activation, known.join(" or "), found));
        }
        for &(key, required) in self.required {
            let found = settings.optional_flag(key)?.unwrap_or(required);
            if found != required {
                return Err(settings.error(key, format!("{required} (not built yet)"), found.to_string()));
            }
        }
        let hidden = settings.count(self.keys.hidden)?;
        let heads = settings.count(self.keys.heads)?;
        let context = settings.count(self.keys.context)?;
        let rope = match &self.rotary {
            None => None,
            Some(keys) => {
                let of = RopeContext {
                    context,
                    theta_key: keys.theta,
                    part_key: keys.part,
                    ..RopeContext::new(hidden / heads, RopeLayout::Half)
                };
                Some(rope_settings::from_json(settings, of)?.full)
            }
        };
        let embedding = |prefix: &str| format!("{prefix}{}.weight", self.outer_names[0].1);
        let (with, without) = (embedding(self.prefix), embedding(""));
        let tied = settings.optional_flag("tie_word_embeddings")?.unwrap_or(self.tied);
        Ok(Sizes {
            hidden,
            layers: settings.count(self.keys.layers)?,
            feed_forward: settings.optional_count(self.keys.feed_forward)?.unwrap_or(4 * hidden),
            heads,
            kv_heads: self.kv_heads(settings, "num_key_value_heads", heads)?,
            vocabulary: settings.count("vocab_size")?,
            context,
            norm_epsilon: settings.positive(self.keys.norm_epsilon, 1e-5)?,
            rope,
            span: span(settings.optional_length("sliding_window")?),
            parallel: match self.parallel {
                None => false,
                Some((key, default)) => settings.optional_flag(key)?.unwrap_or(default),
            },
            head: !tied || has_other_head(checkpoint, &[&with, &without])?,
        })
    }

    fn build(&self, sizes: &Sizes, has_bias: impl Fn(&str) -> bool) -> Spec {
        let &Sizes { hidden, feed_forward, heads, kv_heads, vocabulary, context, norm_epsilon, .. } = sizes;
        let slot =
            |name: String, rows, columns| Slot { bias: has_bias(&name), name, rows, columns, experts: None };
        let outer =
            |name: &str, rows| Slot { name: name.into(), rows, columns: hidden, bias: false, experts: None };
        let norm = |name: String| Norm {
            kind: NormKind::Layer,
            weight: VectorSlot { name: format!("{name}.weight"), length: hidden },
            bias: has_bias(&name).then(|| VectorSlot { name: format!("{name}.bias"), length: hidden }),
            epsilon: norm_epsilon,
        };
        let head_size = hidden / heads;
        let keys = kv_heads * head_size;
        let blocks = (0..sizes.layers).map(|i| {
            let map = |name: &str, rows, columns| slot(format!("blk.{i}.{name}"), rows, columns);
            let norm = |name: &str| norm(format!("blk.{i}.{name}"));
            let projections = match self.query_key_value {
                QueryKeyValue::Separate => Projections::Separate {
                    query: map("attn_q", hidden, hidden),
                    key: map("attn_k", keys, hidden),
                    value: map("attn_v", keys, hidden),
                },
                _ => Projections::Fused(map("attn_qkv", hidden + 2 * keys, hidden)),
            };
            let attention = Attention {
                heads,
                kv_heads,
                head_size,
                projections,
                gated: false,
                query_norm: None,
                key_norm: None,
                value_norm: None,
                rope: sizes.rope.clone(),
                causal: true,
                span: sizes.span,
                scale: 1.0 / (head_size as f32).sqrt(),
                softcap: None,
                sinks: None,
                output: map("attn_output", hidden, hidden),
            };
            let feed_forward = FeedForward {
                expansion: Expansion::Plain(map("ffn_up", feed_forward, hidden)),
                activation: self.activation.1,
                factor: None,
                down: map("ffn_down", hidden, feed_forward),
            };
            let of_attention = Sublayer::pre_norm(norm("attn_norm"), Body::Attention(attention));
            let of_feed_forward = Sublayer::pre_norm(norm("ffn_norm"), Body::FeedForward(feed_forward));
            BlockSpec {
                sublayers: vec![of_attention, Sublayer { parallel: sizes.parallel, ..of_feed_forward }],
                scale: None,
            }
        });
        Spec {
            architecture: self.name,
            vocabulary,
            hidden,
            context,
            embedding: EmbeddingSpec {
                positions: self.rotary.is_none().then(|| outer("position_embd", context)),
                ..EmbeddingSpec::of(outer("token_embd", vocabulary))
            },
            blocks: blocks.collect(),
            output: OutputSpec {
                norm: Some(norm("output_norm".into())),
                head: if sizes.head { Head::Own(outer("output", vocabulary)) } else { Head::Tied },
                scale: 1.0,
                softcap: None,
            },
            text_vector: None,
        }
    }
}

fn span(window: Option<usize>) -> Span {
    window.map_or(Span::Full, Span::Window)
}
