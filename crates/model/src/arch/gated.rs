//! Decoders with RMS norms, rotary positions and gated feed-forward networks: Llama and similar families.
//!
//! Blocks of grouped-query attention and a gated feed-forward network; attention and feed-forward biases if the file has
//! them; any head size; tied or untied head. A [`Family`] holds the differences between the families, and its file has a
//! function for the settings that no other family has.
//! Source: `transformers`' `models/llama`, `qwen2`, `qwen3`, `gemma`, `phi3` and the others; llama.cpp's `src/models` and
//! its `conversion` scripts for names and row order.

mod delta_net;
mod experts;
mod short_convolution;
mod sizes;

use super::rope_settings;
use super::settings::Settings;
use super::{Architecture, block_of, has_other_head, in_block, lost_windows, text_vector, window};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, Expansion, Experts, FeedForward, Head,
    Norm, NormKind, OutputSpec, Pooling, Projections, RopeLayout, Scoring, Slot, Source, Span, Spec,
    Sublayer, VectorSlot,
};
pub(super) use delta_net::DeltaNetNames;
pub(super) use experts::{ExpertLayout, ExpertNames, SharedExpert, SharedLength};
use kvant_io::{Array, Checkpoint, HuggingFace, Meta, Value};
pub(super) use sizes::{Sizes, check_quantization};
use std::path::Path;

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
    /// Like `EachHead` if the setting `use_qk_norm` is true, or if a GGUF file has them. Otherwise no norms.
    EachHeadIfUsed,
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
    /// The GGUF name of the norm before the feed-forward network.
    pub feed_forward_norm: &'static str,
    /// The GGUF name of the norm before the head.
    pub output_norm: &'static str,
    /// The names that differ from those of Llama: GGUF, Hugging Face. They have no suffix, and no index of a block.
    pub names: &'static [(&'static str, &'static str)],
    /// Reads the inner length of the feed-forward networks from `config.json`.
    pub feed_forward: fn(Settings) -> Result<usize, Error>,
    /// True if the attentions have sinks.
    pub sinks: bool,
    /// True if the ends of YaRN's ramp are rounded.
    pub yarn_rounded: bool,
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
    /// True if the map of the queries also has the rows of a gate.
    pub gated_attention: bool,
    /// The rotated part of a head, if the settings have none.
    pub rotated_part: f32,
    /// Gated delta nets instead of some of the attentions, if the family has them.
    pub delta_net: Option<DeltaNetNames>,
    /// True if some blocks have a short convolution instead of an attention.
    pub short_convolution: bool,
    /// The beginnings of the names of tensors that are not a part of the language model.
    pub ignored_prefixes: &'static [&'static str],
    /// True if a checkpoint can have more blocks after the last block, which predict further tokens. They are left out.
    pub has_predictors: bool,
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
        feed_forward_norm: "ffn_norm",
        output_norm: "output_norm",
        names: &[],
        feed_forward: |settings| settings.count("intermediate_size"),
        sinks: false,
        yarn_rounded: true,
        fused: false,
        windows: Windows::All,
        windows_in_llama_cpp: |_| false,
        windowed_theta: None,
        experts: None,
        gated_attention: false,
        rotated_part: 1.0,
        delta_net: None,
        short_convolution: false,
        ignored_prefixes: &[],
        has_predictors: false,
        causal: true,
        tied: false,
        adjust: |_, _, _| Ok(()),
        set_gguf: |_, _| {},
        query_factor: |_, _| Ok(1.0),
    };
}

/// Names of the linear maps and norms of a block, without suffix: GGUF, Hugging Face.
pub(super) const MAPS: [(&str, &str); 13] = [
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
];

/// Returns the beginning of the names of a language model's tensors in a Hugging Face checkpoint.
fn model_prefix(checkpoint: &dyn Checkpoint) -> &'static str {
    let nested = checkpoint.info("model.language_model.embed_tokens.weight").is_some();
    if nested { "model.language_model" } else { "model" }
}

/// Returns the settings of the language model: a section of its own if the checkpoint also has a model of images.
fn text_settings<'a>(path: &'a Path, folder: &'a HuggingFace) -> Result<Settings<'a>, Error> {
    let settings = Settings::Json(path, &folder.config);
    Ok(settings.section("text_config")?.unwrap_or(settings))
}

/// True if the checkpoint stores an output head.
fn has_own_head(checkpoint: &dyn Checkpoint) -> bool {
    ["output.weight", "lm_head.weight"].iter().any(|name| checkpoint.info(name).is_some())
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
                let bias = self.hugging_face_name(checkpoint, &format!("{name}.bias"));
                checkpoint.info(&bias).is_some()
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
        let mut from = self.hugging_face_name(checkpoint, name);
        // Some checkpoints were saved from the model without its head. Their names lack the prefix.
        if checkpoint.info(&from).is_none()
            && let Some(bare) = from.strip_prefix("model.").filter(|bare| checkpoint.info(bare).is_some())
        {
            from = bare.to_owned();
        }
        let map = name.split('.').nth(2);
        let (index, tensor) = in_block(name);
        let net = index.parse().ok().and_then(|index: usize| spec.blocks.get(index)?.delta_nets().next());
        if let (Some(names), Some(net)) = (&self.delta_net, net) {
            let block = format!("{}.layers.{index}", model_prefix(checkpoint));
            if let Some(source) = names.source(net, &block, tensor) {
                return Ok(source);
            }
        }
        if let (Some(names), Some(experts)) = (&self.experts, spec.experts().next())
            && let Some(source) = names.source(checkpoint, experts, model_prefix(checkpoint), name)
        {
            return Ok(source);
        }
        if tensor == "shortconv.conv.weight" {
            // Convolutions stay in 32 bits, as in llama.cpp.
            return Ok(Source::Affine { name: from, add: 0.0, factor: 1.0 });
        }
        if self.norms_add_one && name.ends_with("norm.weight") && map != Some("ssm_norm") {
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
            || self.ignored_prefixes.iter().any(|prefix| name.starts_with(prefix))
            || name.ends_with("rotary_emb.inv_freq")
            || (self.has_predictors && block_of(name).is_some_and(|index| index >= spec.blocks.len()))
            || (spec.output.head.own().is_none() && (name == "lm_head.weight" || name == "output.weight"))
    }

    fn lost_in_llama_cpp(&self, spec: &Spec) -> Vec<String> {
        let windows =
            if (self.windows_in_llama_cpp)(spec.blocks.len()) { Vec::new() } else { lost_windows(spec) };
        let of_ropes = rope_settings::lost_in_llama_cpp(spec);
        windows.into_iter().chain(of_ropes).chain(text_vector::lost(spec)).collect()
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let mut entries = vec![("general.architecture".to_owned(), Value::String(self.name.into()))];
        let mut set = |key: &str, value: Value| entries.push((format!("{}.{key}", self.name), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        self.set_experts(spec, &mut set);
        let dense = spec.feed_forwards().find(|f| f.down.name.ends_with("ffn_down"));
        if let Some(feed_forward) = dense {
            set("feed_forward_length", count(feed_forward.down.columns));
        }
        if let Some(attention) = spec.attentions().next() {
            set("attention.head_count", count(attention.heads));
            if !self.short_convolution {
                set("attention.head_count_kv", count(attention.kv_heads));
            }
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
        for (key, value) in delta_net::to_gguf(spec) {
            set(key, value);
        }
        if self.short_convolution {
            short_convolution::to_gguf(spec).into_iter().for_each(|(key, value)| set(key, value));
        }
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
            Meta::HuggingFace(folder) => (self.query_factor)(text_settings(checkpoint.path(), folder)?, spec),
        }
    }

    /// Returns the name of the tensor `name` in a Hugging Face checkpoint.
    fn hugging_face_name(&self, checkpoint: &dyn Checkpoint, name: &str) -> String {
        let model = model_prefix(checkpoint);
        if let Some(name) = self.experts.as_ref().and_then(|experts| experts.hugging_face_name(model, name)) {
            return name;
        }
        let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
        let (index, map) = in_block(base);
        let is_in_block = base.starts_with("blk.");
        let own = self.names.iter().find(|(gguf, _)| *gguf == map).map(|(_, own)| *own);
        let mapped = match (base, own) {
            (_, Some(own)) if is_in_block => format!("{model}.layers.{index}.{own}"),
            (_, Some(own)) => format!("{model}.{own}"),
            ("token_embd", _) => format!("{model}.embed_tokens"),
            ("output_norm", _) => format!("{model}.norm"),
            ("output", _) => "lm_head".to_owned(),
            _ => {
                let map = match map {
                    // With norms after the sublayers, `transformers` uses its old name of this norm for another norm.
                    "ffn_norm" if self.sublayer_norms == SublayerNorms::Both => "pre_feedforward_layernorm",
                    "ffn_norm" => "post_attention_layernorm",
                    "ffn_up" if self.fused => "mlp.gate_up_proj",
                    "ffn_up" => "mlp.up_proj",
                    "attn_sinks" => return format!("{model}.layers.{index}.self_attn.sinks"),
                    other => MAPS.iter().find(|(gguf, _)| *gguf == other).map_or(other, |(_, name)| name),
                };
                format!("{model}.layers.{index}.{map}")
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
            let head_norm = |name: &str, length| match sizes.query_key_norms {
                QueryKeyNorms::None | QueryKeyNorms::EachHeadIfUsed => None,
                QueryKeyNorms::EachHead => Some(norm(name, head_size)),
                QueryKeyNorms::AllHeads => Some(norm(name, length)),
            };
            let gates = if self.gated_attention { queries } else { 0 };
            let projections = if self.fused {
                Projections::Fused(map("attn_qkv", queries + 2 * keys, hidden))
            } else {
                Projections::Separate {
                    query: map("attn_q", queries + gates, hidden),
                    key: map("attn_k", keys, hidden),
                    value: map("attn_v", keys, hidden),
                }
            };
            let attention = Attention {
                heads,
                kv_heads,
                head_size,
                projections,
                gated: self.gated_attention,
                query_norm: head_norm("attn_q_norm", queries),
                key_norm: head_norm("attn_k_norm", keys),
                value_norm: None,
                rope: layer.rope.clone(),
                causal: self.causal,
                span: layer.span,
                scale: sizes.attention_scale,
                softcap: sizes.attention_softcap,
                sinks: self
                    .sinks
                    .then(|| VectorSlot { name: format!("blk.{i}.attn_sinks.weight"), length: heads }),
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
                residual_norm: None,
                parallel: false,
                sum_norm: None,
            };
            let mixer = match (&self.delta_net, &sizes.delta_net, sizes.short_convolution) {
                (Some(names), Some(sizes), _) if layer.recurrent => {
                    Body::DeltaNet(names.build(sizes, hidden, &format!("blk.{i}"), map, norm))
                }
                (_, _, Some(kernel)) if layer.recurrent => {
                    Body::ShortConvolution(short_convolution::build(kernel, hidden, &format!("blk.{i}"), map))
                }
                _ => Body::Attention(attention),
            };
            let mut sublayers = vec![sublayer("attn_norm", mixer, "post_attention_norm")];
            match &sizes.experts {
                Some(experts) if layer.experts => {
                    let of_all = |slot: Slot| Slot { experts: Some(experts.count), ..slot };
                    let of_experts = |name: &str, rows, columns| of_all(map(name, rows, columns));
                    let body = Body::Experts(Experts {
                        count: experts.count,
                        used: experts.used,
                        router: map("ffn_gate_inp", experts.count, hidden),
                        scoring: match experts.sigmoid {
                            false => Scoring::Softmax,
                            true => Scoring::Sigmoid {
                                correction: VectorSlot {
                                    name: format!("blk.{i}.exp_probs_b.bias"),
                                    length: experts.count,
                                },
                            },
                        },
                        normalized: experts.normalized,
                        scale: experts.scale,
                        router_norm: None,
                        router_scale: 1.0,
                        result_scales: None,
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
                    sublayers.push(sublayer(self.feed_forward_norm, body, "post_ffw_norm"));
                    if let Some(length) = experts.shared_feed_forward {
                        let shared = self.experts.and_then(|names| names.shared);
                        let with_factor = shared.is_some_and(|shared| shared.factor);
                        let network = FeedForward {
                            factor: with_factor.then(|| map("ffn_gate_inp_shexp", 1, hidden)),
                            ..gated(["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"], length)
                        };
                        let body = Body::FeedForward(network);
                        let shared = sublayer(self.feed_forward_norm, body, "post_ffw_norm");
                        sublayers.push(Sublayer { parallel: true, ..shared });
                    }
                }
                _ => {
                    let body = Body::FeedForward(dense());
                    sublayers.push(sublayer(self.feed_forward_norm, body, "post_ffw_norm"));
                }
            }
            BlockSpec { sublayers, scale: None }
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
                layers: None,
                types: None,
                norm: None,
            },
            output: OutputSpec {
                norm: Some(norm(self.output_norm.into(), hidden)),
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
