//! Decoders with RMS norms, rotary positions and gated feed-forward networks: Llama and similar families.
//!
//! Blocks of grouped-query attention and a gated feed-forward network; attention and feed-forward biases if the file has
//! them; any head size; tied or untied head. A [`Family`] holds the differences between the families, and its file has a
//! function for the settings that no other family has.
//! Source: `transformers`' `models/llama`, `qwen2`, `qwen3`, `gemma`, `phi3` and the others; llama.cpp's `src/models` and
//! its `conversion` scripts for names and row order.

mod sizes;

use super::rope_settings;
use super::settings::Settings;
use super::{Architecture, has_other_head, in_block, lost_windows, text_vector, window};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, Expansion, Experts, FeedForward, Head,
    Norm, NormKind, OutputSpec, Pooling, Projections, RopeLayout, Slot, Source, Span, Spec, Sublayer,
    VectorSlot,
};
use kvant_io::{Array, Checkpoint, Meta, Value};
pub(super) use sizes::Sizes;

/// The places of the norms in a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SublayerNorms {
    /// Before each sublayer.
    Before,
    /// After each sublayer.
    After,
    /// Before and after each sublayer.
    Both,
}

/// The norms of queries and keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKeyNorms {
    /// No norms.
    None,
    /// One norm for each head; all heads share the weight.
    EachHead,
    /// One norm for all heads together.
    AllHeads,
}

/// The attentions that have a window, if the settings do not list them.
#[derive(Clone, Copy)]
pub(super) enum Windows {
    /// All attentions, if the settings have the length of a window.
    All,
    /// All attentions from block `max_window_layers` on, if `use_sliding_window` is true.
    FromBlock,
    /// All attentions but each `n`-th.
    AllButEach(usize),
}

/// Experts in a family's settings and in its names of tensors.
#[derive(Clone, Copy)]
pub(super) struct ExpertNames {
    /// The setting of the number of experts.
    pub count: &'static str,
    /// The setting of an expert's inner length; `None` if it is that of all feed-forward networks.
    pub feed_forward: Option<&'static str>,
    /// The setting of a shared expert's inner length, if the family has shared experts.
    pub shared_feed_forward: Option<&'static str>,
    /// The prefix of the tensors in a block of a Hugging Face checkpoint.
    pub prefix: &'static str,
    /// The names of an expert's gate, up and down projections in a Hugging Face checkpoint.
    pub maps: [&'static str; 3],
    /// True if the factors of a token's experts have the sum 1.
    pub normalized: bool,
    /// The setting for `normalized`, with the value of an absent key. GGUF has no key for it.
    pub normalized_key: Option<(&'static str, bool)>,
}

/// Sets a GGUF entry of the family: the key without the family's name, and the value.
pub(super) type SetEntry<'a> = &'a mut dyn FnMut(&str, Value);

/// The properties in which the families differ.
pub(super) struct Family {
    /// The family's name in GGUF.
    pub name: &'static str,
    /// The values of `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// The elements of a head that form a rotary pair in the family's GGUF files. `transformers` always pairs element
    /// `i` with element `i + head_size / 2`.
    pub layout: RopeLayout,
    /// The places of the norms in a block.
    pub sublayer_norms: SublayerNorms,
    /// The norms of queries and keys.
    pub query_key_norms: QueryKeyNorms,
    /// True if `transformers` adds 1 to the weights of the norms. GGUF files have the sums.
    pub norms_add_one: bool,
    /// The activation function.
    pub activation: Activation,
    /// True if queries, keys and values are one map, and gate and up are one map.
    pub fused: bool,
    /// The attentions that have a window.
    pub windows: Windows,
    /// True if llama.cpp applies the windows of a network with this number of blocks.
    pub windows_in_llama_cpp: fn(blocks: usize) -> bool,
    /// The base of the rotary frequencies of attentions with a window, if a GGUF file does not have one. `None` if it is
    /// the same as without a window.
    pub windowed_theta: Option<f32>,
    /// Experts, if the family has them.
    pub experts: Option<ExpertNames>,
    /// True if a position reads no position after itself.
    pub causal: bool,
    /// True if the head is tied unless `config.json` says the opposite.
    pub tied: bool,
    /// Reads the settings that only this family has.
    pub adjust: fn(&Family, Settings, &mut Sizes) -> Result<(), Error>,
    /// Sets the GGUF keys that only this family has.
    pub set_gguf: fn(&Spec, SetEntry),
    /// The factor of the queries in a Hugging Face checkpoint, for families whose scale has no GGUF key: the checkpoint's
    /// scale divided by the scale that llama.cpp assumes.
    pub query_factor: fn(Settings, &Spec) -> Result<f32, Error>,
}

impl Family {
    /// A family with the properties of Llama.
    pub const LLAMA: Self = Self {
        name: "llama",
        model_types: &["llama"],
        layout: RopeLayout::Interleaved,
        sublayer_norms: SublayerNorms::Before,
        query_key_norms: QueryKeyNorms::None,
        norms_add_one: false,
        activation: Activation::Silu,
        fused: false,
        windows: Windows::All,
        windows_in_llama_cpp: |_| false,
        windowed_theta: None,
        experts: None,
        causal: true,
        tied: false,
        adjust: |_, _, _| Ok(()),
        set_gguf: |_, _| {},
        query_factor: |_, _| Ok(1.0),
    };
}

/// Names of the linear maps and norms of a block, without suffix: GGUF, Hugging Face.
const MAPS: [(&str, &str); 16] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

/// True if the checkpoint stores an output head.
fn has_own_head(checkpoint: &dyn Checkpoint) -> bool {
    ["output.weight", "lm_head.weight"].iter().any(|name| checkpoint.info(name).is_some())
}

/// Returns the index in [`ExpertNames::maps`] of a GGUF name of all experts' maps.
fn expert_projection(name: &str) -> Option<usize> {
    ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].into_iter().position(|map| map == name)
}

impl Architecture for Family {
    fn name(&self) -> &'static str {
        self.name
    }

    fn model_types(&self) -> &'static [&'static str] {
        self.model_types
    }

    fn reads(&self, checkpoint: &dyn Checkpoint) -> bool {
        let Meta::HuggingFace(folder) = checkpoint.meta() else { return true };
        let both_directions = folder.config.get("use_bidirectional_attention").and_then(|x| x.as_bool());
        both_directions.unwrap_or(false) != self.causal
    }

    fn spec(&self, checkpoint: &dyn Checkpoint) -> Result<Spec, Error> {
        let (settings, mut sizes) = self.sizes(checkpoint)?;
        (self.adjust)(self, settings, &mut sizes)?;
        sizes.check(&settings)?;
        let has_bias = |name: &str| match checkpoint.meta() {
            Meta::Gguf(_) => checkpoint.info(&format!("{name}.bias")).is_some(),
            Meta::HuggingFace(_) => {
                checkpoint.info(&self.hugging_face_name(&format!("{name}.bias"))).is_some()
            }
        };
        let mut spec = self.build(sizes, has_bias);
        let default = (!self.causal).then_some(Pooling::Mean);
        spec.text_vector = text_vector::read(settings, checkpoint, self.name, &spec, default)?;
        if spec.text_vector.is_some() && !has_own_head(checkpoint) {
            spec.output.head = Head::None;
        }
        Ok(spec)
    }

    fn hugging_face_source(
        &self,
        checkpoint: &dyn Checkpoint,
        spec: &Spec,
        name: &str,
    ) -> Result<Source, Error> {
        if let Some(source) = text_vector::source(checkpoint, name) {
            return Ok(source);
        }
        let mut from = self.hugging_face_name(name);
        // Some checkpoints were saved from the model without its head. Their names lack the prefix.
        if checkpoint.info(&from).is_none()
            && let Some(bare) = from.strip_prefix("model.").filter(|bare| checkpoint.info(bare).is_some())
        {
            from = bare.to_owned();
        }
        let map = name.split('.').nth(2);
        if let (Some(experts), Some(projection)) = (&self.experts, map.and_then(expert_projection)) {
            let count = spec.experts().next().map_or(0, |experts| experts.count);
            let (index, _) = in_block(name);
            let expert = |e| {
                let map = experts.maps[projection];
                format!("model.layers.{index}.{}.experts.{e}.{map}.weight", experts.prefix)
            };
            return Ok(Source::Stack((0..count).map(expert).collect()));
        }
        if self.norms_add_one && name.ends_with("norm.weight") {
            let query_norm = map == Some("attn_q_norm");
            let factor = if query_norm { self.factor_of_queries(checkpoint, spec)? } else { 1.0 };
            return Ok(Source::Affine { name: from, add: 1.0, factor });
        }
        if map == Some("attn_q") && self.query_key_norms == QueryKeyNorms::None {
            let factor = self.factor_of_queries(checkpoint, spec)?;
            if factor != 1.0 {
                return Ok(Source::Affine { name: from, add: 0.0, factor });
            }
        }
        let heads = match (self.layout, spec.attentions().next(), map) {
            (RopeLayout::Interleaved, Some(a), Some("attn_q")) => a.heads,
            (RopeLayout::Interleaved, Some(a), Some("attn_k")) => a.kv_heads,
            _ => return Ok(Source::Plain(from)),
        };
        Ok(Source::PermuteHeads { name: from, heads })
    }

    fn may_ignore(&self, spec: &Spec, name: &str) -> bool {
        name.starts_with("rope_f")
            || name.ends_with("rotary_emb.inv_freq")
            || (spec.output.head.own().is_none() && (name == "lm_head.weight" || name == "output.weight"))
    }

    fn lost_in_llama_cpp(&self, spec: &Spec) -> Vec<String> {
        let windows =
            if (self.windows_in_llama_cpp)(spec.blocks.len()) { Vec::new() } else { lost_windows(spec) };
        [windows, text_vector::lost(spec)].concat()
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let mut entries = vec![("general.architecture".to_owned(), Value::String(self.name.into()))];
        let mut set = |key: &str, value: Value| entries.push((format!("{}.{key}", self.name), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        if let Some(experts) = spec.experts().next() {
            let length = count(experts.feed_forward.down.columns);
            set("expert_count", count(experts.count));
            set("expert_used_count", count(experts.used));
            match self.experts.and_then(|names| names.feed_forward) {
                Some(_) => set("expert_feed_forward_length", length),
                None => set("feed_forward_length", length),
            }
            let shared = spec.feed_forwards().find(|f| f.down.name.ends_with("shexp"));
            if let Some(shared) = shared {
                set("expert_shared_feed_forward_length", count(shared.down.columns));
            }
        }
        let dense = spec.feed_forwards().find(|f| f.down.name.ends_with("ffn_down"));
        if let Some(feed_forward) = dense {
            set("feed_forward_length", count(feed_forward.down.columns));
        }
        if let Some(attention) = spec.attentions().next() {
            set("attention.head_count", count(attention.heads));
            set("attention.head_count_kv", count(attention.kv_heads));
            set("attention.key_length", count(attention.head_size));
            set("attention.value_length", count(attention.head_size));
        }
        if let Some(norm) = &spec.output.norm {
            set("attention.layer_norm_rms_epsilon", Value::F32(norm.epsilon));
        }
        let windowed: Vec<bool> = spec.attentions().map(|a| a.span != Span::Full).collect();
        if let Some(positions) = window(spec) {
            set("attention.sliding_window", count(self.window_setting(positions)));
            if !windowed.iter().all(|windowed| *windowed) {
                set("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed.clone())));
            }
        }
        let rope_of = |with_window: bool| {
            let found = spec.attentions().filter(|a| (a.span != Span::Full) == with_window);
            found.filter_map(|a| a.rope.as_ref()).next()
        };
        rope_settings::to_gguf(rope_of(false), rope_of(true), &mut set);
        set("vocab_size", count(spec.vocabulary));
        if !self.causal {
            set("attention.causal", Value::Bool(false));
        }
        text_vector::to_gguf(spec, &mut set);
        (self.set_gguf)(spec, &mut set);
        entries
    }
}

impl Family {
    /// Returns the span of a window of this setting. Without `causal`, the setting is the number of positions before and
    /// after a position together.
    fn window_span(&self, setting: usize) -> Span {
        Span::Window(if self.causal { setting } else { setting / 2 + 1 })
    }

    /// Returns the setting of a window of this number of positions.
    fn window_setting(&self, positions: usize) -> usize {
        if self.causal { positions } else { 2 * (positions - 1) }
    }

    fn factor_of_queries(&self, checkpoint: &dyn Checkpoint, spec: &Spec) -> Result<f32, Error> {
        match checkpoint.meta() {
            Meta::Gguf(_) => Ok(1.0),
            Meta::HuggingFace(folder) => {
                (self.query_factor)(Settings::Json(checkpoint.path(), &folder.config), spec)
            }
        }
    }

    /// Returns the name of the tensor `name` in a Hugging Face checkpoint.
    fn hugging_face_name(&self, name: &str) -> String {
        let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
        let mapped = match base {
            "token_embd" => "model.embed_tokens".to_owned(),
            "output_norm" => "model.norm".to_owned(),
            "output" => "lm_head".to_owned(),
            _ => {
                let (index, map) = in_block(base);
                let map = match map {
                    // With norms after the sublayers, `transformers` uses its old name of this norm for another norm.
                    "ffn_norm" if self.sublayer_norms == SublayerNorms::Both => "pre_feedforward_layernorm",
                    "ffn_norm" => "post_attention_layernorm",
                    "ffn_up" if self.fused => "mlp.gate_up_proj",
                    "ffn_up" => "mlp.up_proj",
                    "ffn_gate_inp" => {
                        let prefix = self.experts.as_ref().map_or("mlp", |experts| experts.prefix);
                        return format!("model.layers.{index}.{prefix}.gate.{suffix}");
                    }
                    other => MAPS.iter().find(|(gguf, _)| *gguf == other).map_or(other, |(_, name)| name),
                };
                format!("model.layers.{index}.{map}")
            }
        };
        format!("{mapped}.{suffix}")
    }

    fn build(&self, sizes: Sizes, has_bias: impl Fn(&str) -> bool) -> Spec {
        let slot =
            |name: String, rows, columns| Slot { bias: has_bias(&name), name, rows, columns, experts: None };
        let norm = |name: String, length| Norm {
            kind: NormKind::RootMeanSquare,
            weight: VectorSlot { name: format!("{name}.weight"), length },
            bias: None,
            epsilon: sizes.norm_epsilon,
        };
        let Sizes { hidden, feed_forward, heads, kv_heads, head_size, .. } = sizes;
        let (queries, keys) = (heads * head_size, kv_heads * head_size);
        let blocks = sizes.layers.iter().enumerate().map(|(i, layer)| {
            let map = |name: &str, rows, columns| slot(format!("blk.{i}.{name}"), rows, columns);
            let norm = |name: &str, length| norm(format!("blk.{i}.{name}"), length);
            let head_norm = |name: &str, length| match self.query_key_norms {
                QueryKeyNorms::None => None,
                QueryKeyNorms::EachHead => Some(norm(name, head_size)),
                QueryKeyNorms::AllHeads => Some(norm(name, length)),
            };
            let projections = if self.fused {
                Projections::Fused(map("attn_qkv", queries + 2 * keys, hidden))
            } else {
                Projections::Separate {
                    query: map("attn_q", queries, hidden),
                    key: map("attn_k", keys, hidden),
                    value: map("attn_v", keys, hidden),
                }
            };
            let attention = Attention {
                heads,
                kv_heads,
                head_size,
                projections,
                query_norm: head_norm("attn_q_norm", queries),
                key_norm: head_norm("attn_k_norm", keys),
                rope: layer.rope.clone(),
                causal: self.causal,
                span: layer.span,
                scale: sizes.attention_scale,
                softcap: sizes.attention_softcap,
                sinks: None,
                output: map("attn_output", hidden, queries),
            };
            let gated = |names: [&str; 3], length| FeedForward {
                expansion: Expansion::Gated {
                    gate: map(names[0], length, hidden),
                    up: map(names[1], length, hidden),
                },
                activation: self.activation,
                factor: None,
                down: map(names[2], hidden, length),
            };
            let dense = || match self.fused {
                false => gated(["ffn_gate", "ffn_up", "ffn_down"], feed_forward),
                true => FeedForward {
                    expansion: Expansion::FusedGated(map("ffn_up", 2 * feed_forward, hidden)),
                    activation: self.activation,
                    factor: None,
                    down: map("ffn_down", hidden, feed_forward),
                },
            };
            let sublayer = |before: &str, body, after: &str| Sublayer {
                before: (self.sublayer_norms != SublayerNorms::After).then(|| norm(before, hidden)),
                body,
                after: (self.sublayer_norms != SublayerNorms::Before).then(|| norm(after, hidden)),
                scale: sizes.residual_scale,
                of_sum: None,
                parallel: false,
            };
            let mut sublayers =
                vec![sublayer("attn_norm", Body::Attention(attention), "post_attention_norm")];
            match &sizes.experts {
                Some(experts) if layer.experts => {
                    let of_all = |slot: Slot| Slot { experts: Some(experts.count), ..slot };
                    let of_experts = |name: &str, rows, columns| of_all(map(name, rows, columns));
                    let body = Body::Experts(Experts {
                        count: experts.count,
                        used: experts.used,
                        router: map("ffn_gate_inp", experts.count, hidden),
                        normalized: experts.normalized,
                        feed_forward: FeedForward {
                            expansion: Expansion::Gated {
                                gate: of_experts("ffn_gate_exps", experts.feed_forward, hidden),
                                up: of_experts("ffn_up_exps", experts.feed_forward, hidden),
                            },
                            activation: self.activation,
                            factor: None,
                            down: of_experts("ffn_down_exps", hidden, experts.feed_forward),
                        },
                    });
                    sublayers.push(sublayer("ffn_norm", body, "post_ffw_norm"));
                    if let Some(length) = experts.shared_feed_forward {
                        let network = FeedForward {
                            factor: Some(map("ffn_gate_inp_shexp", 1, hidden)),
                            ..gated(["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"], length)
                        };
                        let shared = sublayer("ffn_norm", Body::FeedForward(network), "post_ffw_norm");
                        sublayers.push(Sublayer { parallel: true, ..shared });
                    }
                }
                _ => sublayers.push(sublayer("ffn_norm", Body::FeedForward(dense()), "post_ffw_norm")),
            }
            BlockSpec { sublayers }
        });
        Spec {
            architecture: self.name,
            vocabulary: sizes.vocabulary,
            hidden,
            context: sizes.context,
            blocks: blocks.collect(),
            embedding: EmbeddingSpec {
                tokens: slot("token_embd".into(), sizes.vocabulary, hidden),
                scale: sizes.embedding_scale,
                positions: None,
                types: None,
                norm: None,
            },
            output: OutputSpec {
                norm: Some(norm("output_norm".into(), hidden)),
                head: match sizes.tied {
                    true => Head::Tied,
                    false => Head::Own(slot("output".into(), sizes.vocabulary, hidden)),
                },
                scale: sizes.logit_scale,
                softcap: sizes.logit_softcap,
            },
            text_vector: None,
        }
    }
}
