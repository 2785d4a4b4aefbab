//! Gemma 4, text: windowed and full attentions have their own head size and number of key heads. The values are normed
//! without a weight, and can be the results of the key map. Each block has a factor. Attention has no scale. The last blocks
//! can share the keys and values of the last earlier attention of their kind. Blocks can have layer embeddings.
//!
//! Source: `transformers`' `models/gemma4`; llama.cpp's `src/models/gemma4.cpp` and `conversion/gemma.py`. Folders of the
//! type `gemma4` have the text part in `text_config`, beside encoders of images and sound, which are left out.

use super::gated::{MAPS, check_quantization};
use super::rope_settings;
use super::settings::Settings;
use super::{Architecture, in_block, window};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, Expansion, Experts, FeedForward, Head,
    LayerEmbeddings, LayerGate, Norm, NormKind, OutputSpec, Projections, Scoring, Slot, Source, Span, Spec,
    Sublayer, VectorSlot,
};
use kvant_io::{Array, Checkpoint, Meta, Value};
use sizes::{ExpertSizes, LayerSizes, Sizes};

mod sizes;

/// The family `gemma4`.
pub(super) struct Gemma4;

const NAME: &str = "gemma4";

/// Prefixes of the text part's tensors in folders of the types `gemma4_text` and `gemma4`.
const PREFIXES: [&str; 4] = ["model.", "model.language_model.", "language_model.model.", ""];

/// Prefixes of the tensors of the encoders of images and sound, and of the maps from their output to the hidden size.
const ENCODERS: [&str; 4] = ["vision_tower.", "audio_tower.", "embed_vision.", "embed_audio."];

impl Architecture for Gemma4 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gemma4_text", "gemma4"]
    }

    fn spec(&self, checkpoint: &dyn Checkpoint) -> Result<Spec, Error> {
        let path = checkpoint.path();
        let (settings, sizes) = match checkpoint.meta() {
            Meta::Gguf(metadata) => {
                let settings = Settings::Gguf(path, metadata);
                (settings, Sizes::from_gguf(settings, checkpoint)?)
            }
            Meta::HuggingFace(folder) => {
                let outer = Settings::Json(path, &folder.config);
                check_quantization(outer, false)?;
                let settings = outer.section("text_config")?.unwrap_or(outer);
                (settings, Sizes::from_json(settings, checkpoint)?)
            }
        };
        sizes.check(&settings)?;
        Ok(sizes.build())
    }

    fn hugging_face_source(
        &self,
        checkpoint: &dyn Checkpoint,
        _spec: &Spec,
        name: &str,
    ) -> Result<Source, Error> {
        Ok(Source::Plain(hugging_face_name(prefix(checkpoint), name)))
    }

    fn may_ignore(&self, spec: &Spec, name: &str) -> bool {
        let inner = name.strip_prefix("model.").unwrap_or(name);
        name == "rope_freqs.weight"
            || ENCODERS.iter().any(|encoder| inner.starts_with(encoder))
            || is_unused_key_or_value(spec, name)
            || (spec.output.head.own().is_none() && (name == "lm_head.weight" || name == "output.weight"))
    }

    fn lost_in_llama_cpp(&self, spec: &Spec) -> Vec<String> {
        // llama.cpp takes the last two blocks with their own states, first one with a window, then one without.
        let own = spec.attentions().filter(|attention| attention.states_of().is_none()).count();
        let expected = |attention: &Attention| match attention.span {
            Span::Window(_) => own.checked_sub(2),
            Span::Full => own.checked_sub(1),
        };
        let lost = spec.attentions().any(|a| a.states_of().is_some() && a.states_of() != expected(a));
        let sentence =
            "keys and values that blocks share: llama.cpp takes those of other blocks for this network";
        lost.then(|| sentence.to_owned()).into_iter().collect()
    }

    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let counts = |all: Vec<usize>| match all.first() {
            Some(first) if all.iter().all(|n| n == first) => count(*first),
            _ => Value::Array(Array::I32(all.into_iter().map(|n| n as i32).collect())),
        };
        let mut entries = vec![("general.architecture".to_owned(), Value::String(NAME.into()))];
        let mut set = |key: &str, value: Value| entries.push((format!("{NAME}.{key}"), value));
        set("block_count", count(spec.blocks.len()));
        set("context_length", count(spec.context));
        set("embedding_length", count(spec.hidden));
        set("feed_forward_length", counts(spec.feed_forwards().map(|f| f.down.columns).collect()));
        set("attention.head_count", count(spec.attentions().next().map_or(0, |a| a.heads)));
        set("attention.head_count_kv", counts(spec.attentions().map(|a| a.kv_heads).collect()));
        set(
            "attention.layer_norm_rms_epsilon",
            Value::F32(spec.output.norm.as_ref().map_or(0.0, |norm| norm.epsilon)),
        );
        let windowed: Vec<bool> = spec.attentions().map(|a| a.span != Span::Full).collect();
        set("attention.sliding_window", count(window(spec).unwrap_or(spec.context)));
        set("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
        if let Some(experts) = spec.experts().next() {
            set("expert_count", count(experts.count));
            set("expert_used_count", count(experts.used));
            set("expert_feed_forward_length", count(experts.feed_forward.down.columns));
        }
        let shared = spec.attentions().filter(|attention| attention.states_of().is_some()).count();
        set("attention.shared_kv_layers", count(shared));
        let width = spec.embedding.layers.as_ref().map_or(0, |layers| layers.width);
        set("embedding_length_per_layer_input", count(width));
        let of_kind = |windowed: bool| spec.attentions().find(|a| (a.span != Span::Full) == windowed);
        let (full, window) = (of_kind(false), of_kind(true));
        let rope = |of: Option<&'_ Attention>| of.and_then(|a| a.rope.clone());
        rope_settings::to_gguf(rope(full).as_ref(), rope(window).as_ref(), &mut set);
        for (of, suffix) in [(full.or(window), ""), (window.or(full), "_swa")] {
            let Some(attention) = of else { continue };
            set(&format!("attention.key_length{suffix}"), count(attention.head_size));
            set(&format!("attention.value_length{suffix}"), count(attention.head_size));
            set(&format!("rope.dimension_count{suffix}"), count(attention.head_size));
            if let Some(rope) = &attention.rope {
                set(&format!("rope.freq_base{suffix}"), Value::F32(rope.theta));
            }
        }
        // Without this key, llama.cpp caps at 30.
        set("final_logit_softcapping", Value::F32(spec.output.softcap.unwrap_or(0.0)));
        set("vocab_size", count(spec.vocabulary));
        entries
    }
}

/// Returns the prefix of the text part's tensors in a Hugging Face checkpoint.
fn prefix(checkpoint: &dyn Checkpoint) -> &'static str {
    let has_embedding = |prefix: &&&str| checkpoint.info(&format!("{prefix}embed_tokens.weight")).is_some();
    PREFIXES.iter().find(has_embedding).unwrap_or(&PREFIXES[0])
}

/// Returns the name of the tensor `name` in a Hugging Face checkpoint.
fn hugging_face_name(prefix: &str, name: &str) -> String {
    let (base, suffix) = name.rsplit_once('.').unwrap_or((name, "weight"));
    match base {
        "token_embd" => format!("{prefix}embed_tokens.{suffix}"),
        "per_layer_token_embd" => format!("{prefix}embed_tokens_per_layer.{suffix}"),
        "per_layer_model_proj" => format!("{prefix}per_layer_model_projection.{suffix}"),
        "per_layer_proj_norm" => format!("{prefix}per_layer_projection_norm.{suffix}"),
        "output_norm" => format!("{prefix}norm.{suffix}"),
        "output" => format!("lm_head.{suffix}"),
        _ => {
            let (index, map) = in_block(base);
            let bare = match (map, suffix) {
                ("layer_output_scale", _) => Some("layer_scalar"),
                ("ffn_gate_inp", "scale") => Some("router.scale"),
                ("ffn_down_exps", "scale") => Some("router.per_expert_scale"),
                ("ffn_down_exps", _) => Some("experts.down_proj"),
                ("ffn_gate_up_exps", _) => Some("experts.gate_up_proj"),
                _ => None,
            };
            if let Some(bare) = bare {
                return format!("{prefix}layers.{index}.{bare}");
            }
            let map = match map {
                "ffn_gate_inp" => "router.proj",
                "pre_ffw_norm_2" => "pre_feedforward_layernorm_2",
                "post_ffw_norm_1" => "post_feedforward_layernorm_1",
                "post_ffw_norm_2" => "post_feedforward_layernorm_2",
                "ffn_norm" => "pre_feedforward_layernorm",
                "ffn_up" => "mlp.up_proj",
                "inp_gate" => "per_layer_input_gate",
                "proj" => "per_layer_projection",
                "post_norm" => "post_per_layer_input_norm",
                other => MAPS.iter().find(|(gguf, _)| *gguf == other).map_or(other, |(_, name)| name),
            };
            format!("{prefix}layers.{index}.{map}.{suffix}")
        }
    }
}

impl Sizes {
    fn build(self) -> Spec {
        let Self { hidden, heads, norm_epsilon, layer_embedding, vocabulary, .. } = self;
        let slot = |name: String, rows, columns| Slot { name, rows, columns, bias: false, experts: None };
        let vector = |name: String, length| VectorSlot { name: format!("{name}.weight"), length };
        let norm = |name: String, length| Norm {
            kind: NormKind::RootMeanSquare,
            weight: vector(name, length),
            bias: None,
            epsilon: norm_epsilon,
        };
        let embeddings = layer_embedding.map(|width| LayerEmbeddings {
            width,
            tokens: slot("per_layer_token_embd".into(), vocabulary, self.layers.len() * width),
            table_scale: (width as f32).sqrt(),
            projection: slot("per_layer_model_proj".into(), self.layers.len() * width, hidden),
            projection_scale: 1.0 / (hidden as f32).sqrt(),
            norm: norm("per_layer_proj_norm".into(), width),
            scale: std::f32::consts::FRAC_1_SQRT_2,
        });
        let blocks = self.layers.into_iter().enumerate().map(|(i, layer)| {
            let map = |name: &str, rows, columns| slot(format!("blk.{i}.{name}"), rows, columns);
            let norm = |name: &str, length| norm(format!("blk.{i}.{name}"), length);
            let LayerSizes { head_size, kv_heads, feed_forward, .. } = layer;
            let (queries, keys) = (heads * head_size, kv_heads * head_size);
            let (query, key) = (map("attn_q", queries, hidden), map("attn_k", keys, hidden));
            let own_states = layer.states_of.is_none();
            let attention = Attention {
                heads,
                kv_heads,
                head_size,
                projections: match (layer.states_of, layer.values_are_keys) {
                    (Some(states_of), _) => Projections::Queries { query, states_of },
                    (None, true) => Projections::KeysAsValues { query, key },
                    (None, false) => Projections::Separate { query, key, value: map("attn_v", keys, hidden) },
                },
                gated: false,
                query_norm: Some(norm("attn_q_norm", head_size)),
                key_norm: own_states.then(|| norm("attn_k_norm", head_size)),
                value_norm: own_states.then_some(norm_epsilon),
                rope: Some(layer.rope),
                causal: true,
                span: layer.span,
                scale: 1.0,
                softcap: None,
                sinks: None,
                output: map("attn_output", hidden, queries),
            };
            let network = FeedForward {
                expansion: Expansion::Gated {
                    gate: map("ffn_gate", feed_forward, hidden),
                    up: map("ffn_up", feed_forward, hidden),
                },
                activation: Activation::GeluTanh,
                factor: None,
                down: map("ffn_down", hidden, feed_forward),
            };
            let sublayer = |before: Option<&str>, body, after: &str| Sublayer {
                before: before.map(|before| norm(before, hidden)),
                body,
                after: Some(norm(after, hidden)),
                scale: 1.0,
                residual_norm: None,
                parallel: false,
                sum_norm: None,
            };
            let mut sublayers =
                vec![sublayer(Some("attn_norm"), Body::Attention(attention), "post_attention_norm")];
            match self.experts.filter(|_| layer.has_experts) {
                None => {
                    sublayers.push(sublayer(Some("ffn_norm"), Body::FeedForward(network), "post_ffw_norm"))
                }
                Some(experts) => {
                    sublayers.push(sublayer(Some("ffn_norm"), Body::FeedForward(network), "post_ffw_norm_1"));
                    let body = Body::Experts(experts.build(i, hidden, norm_epsilon));
                    let beside = sublayer(Some("pre_ffw_norm_2"), body, "post_ffw_norm_2");
                    sublayers.push(Sublayer { sum_norm: Some(norm("post_ffw_norm", hidden)), ..beside });
                }
            }
            sublayers.extend(layer_embedding.map(|width| {
                let gate = LayerGate {
                    gate: map("inp_gate", width, hidden),
                    activation: Activation::GeluTanh,
                    output: map("proj", hidden, width),
                };
                sublayer(None, Body::LayerGate(gate), "post_norm")
            }));
            BlockSpec {
                sublayers,
                scale: layer.has_scale.then(|| vector(format!("blk.{i}.layer_output_scale"), 1)),
            }
        });
        Spec {
            text_vector: None,
            architecture: NAME,
            vocabulary,
            hidden,
            context: self.context,
            blocks: blocks.collect(),
            embedding: EmbeddingSpec {
                scale: (hidden as f32).sqrt(),
                layers: embeddings,
                ..EmbeddingSpec::of(slot("token_embd".into(), vocabulary, hidden))
            },
            output: OutputSpec {
                norm: Some(norm("output_norm".into(), hidden)),
                head: match self.tied {
                    true => Head::Tied,
                    false => Head::Own(slot("output".into(), vocabulary, hidden)),
                },
                scale: 1.0,
                softcap: self.logit_softcap,
            },
        }
    }
}

impl ExpertSizes {
    /// Describes the experts of block `index`.
    fn build(self, index: usize, hidden: usize, norm_epsilon: f32) -> Experts {
        let Self { count, used, feed_forward, fused } = self;
        let map = |name: &str, rows, columns, experts| {
            let name = format!("blk.{index}.{name}");
            Slot { name, rows, columns, bias: false, experts }
        };
        let all = |name: &str, rows, columns| map(name, rows, columns, Some(count));
        let scale = |name: &str, length| VectorSlot { name: format!("blk.{index}.{name}.scale"), length };
        Experts {
            count,
            used,
            router: map("ffn_gate_inp", count, hidden, None),
            router_norm: Some(Norm {
                kind: NormKind::RootMeanSquare,
                weight: scale("ffn_gate_inp", hidden),
                bias: None,
                epsilon: norm_epsilon,
            }),
            router_scale: 1.0 / (hidden as f32).sqrt(),
            scoring: Scoring::Softmax,
            normalized: true,
            scale: 1.0,
            result_scales: Some(scale("ffn_down_exps", count)),
            feed_forward: FeedForward {
                expansion: match fused {
                    true => Expansion::FusedGated(all("ffn_gate_up_exps", 2 * feed_forward, hidden)),
                    false => Expansion::Gated {
                        gate: all("ffn_gate_exps", feed_forward, hidden),
                        up: all("ffn_up_exps", feed_forward, hidden),
                    },
                },
                activation: Activation::GeluTanh,
                factor: None,
                down: all("ffn_down_exps", hidden, feed_forward),
            },
        }
    }
}

/// Returns true for the name of a key or value map, or of its norm, in a block that reads the states of an earlier block.
/// Published checkpoints have such tensors, which no program reads.
fn is_unused_key_or_value(spec: &Spec, name: &str) -> bool {
    let unused = [".attn_k.", ".attn_v.", ".attn_k_norm.", ".k_proj.", ".v_proj.", ".k_norm.", ".v_norm."];
    let after = name.split_once("layers.").or_else(|| name.split_once("blk.")).map(|(_, after)| after);
    let index = after.and_then(|after| after.split('.').next()?.parse::<usize>().ok());
    let block = index.and_then(|index| spec.blocks.get(index));
    unused.iter().any(|map| name.contains(map))
        && block.is_some_and(|block| block.attentions().any(|a| a.states_of().is_some()))
}
