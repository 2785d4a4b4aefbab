//! Gemma 4, text: windowed and full attentions have their own head size and number of key heads. The values are normed
//! without a weight, and can be the results of the key map. Each block has a factor. Attention has no scale. The last blocks
//! can share the keys and values of the last earlier attention of their kind. Blocks can have layer embeddings.
//!
//! Source: `transformers`' `models/gemma4`; llama.cpp's `src/models/gemma4.cpp` and `conversion/gemma.py`. Folders of the
//! type `gemma4` have the text part in `text_config`, beside encoders of images and sound, which are left out.

use super::gated::{MAPS, check_quantization};
use super::rope_settings::{self, RopeContext};
use super::settings::Settings;
use super::{Architecture, check_blocks, embedding_rows, has_other_head, in_block, window};
use crate::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, Error, Expansion, FeedForward, LayerEmbeddings,
    LayerGate, Norm, NormKind, OutputSpec, Projections, Rope, RopeLayout, RopeScaling, Slot, Source, Span,
    Spec, Sublayer, VectorSlot,
};
use kvant_io::{Array, Checkpoint, Meta, Value};

/// The family `gemma4`.
pub(super) struct Gemma4;

const NAME: &str = "gemma4";

/// The base of the rotary frequencies of attentions with a window, if a GGUF file does not have one.
const WINDOWED_THETA: f32 = 10_000.0;

const EXPERTS: &str = "experts beside a dense network";

/// Prefixes of the text part's tensors in folders of the types `gemma4_text` and `gemma4`.
const PREFIXES: [&str; 4] = ["model.", "model.language_model.", "language_model.model.", ""];

/// Prefixes of the tensors of the encoders of images and sound, and of the maps from their output to the hidden size.
const ENCODERS: [&str; 4] = ["vision_tower.", "audio_tower.", "embed_vision.", "embed_audio."];

/// The sizes of a network.
struct Sizes {
    hidden: usize,
    vocabulary: usize,
    context: usize,
    heads: usize,
    norm_epsilon: f32,
    tied: bool,
    logit_softcap: Option<f32>,
    /// The length of a layer embedding.
    layer_embedding: Option<usize>,
    layers: Vec<LayerSizes>,
}

/// The sizes of a block.
struct LayerSizes {
    head_size: usize,
    kv_heads: usize,
    feed_forward: usize,
    rope: Rope,
    span: Span,
    values_are_keys: bool,
    /// The block whose keys and values the attention reads.
    states_of: Option<usize>,
    has_scale: bool,
}

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
                check_quantization(outer)?;
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
            || (spec.output.head.is_none() && (name == "lm_head.weight" || name == "output.weight"))
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
        set("attention.layer_norm_rms_epsilon", Value::F32(spec.output.norm.epsilon));
        let windowed: Vec<bool> = spec.attentions().map(|a| a.span != Span::Full).collect();
        set("attention.sliding_window", count(window(spec).unwrap_or(spec.context)));
        set("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
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
            let map = match map {
                "layer_output_scale" => return format!("{prefix}layers.{index}.layer_scalar"),
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
    fn from_gguf(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Self, Error> {
        let key = |key: &str| format!("{NAME}.{key}");
        if let Some(found) = settings.optional_length(&key("expert_count"))? {
            return Err(missing_feature(settings, &key("expert_count"), EXPERTS, found));
        }
        let layers = settings.count(&key("block_count"))?;
        check_blocks(&settings, layers, checkpoint)?;
        let pattern = key("attention.sliding_window_pattern");
        let windowed = settings.optional_flags(&pattern)?.unwrap_or_default();
        if windowed.len() != layers {
            let expected = format!("one entry for each of {layers} blocks");
            return Err(settings.error(&pattern, expected, windowed.len().to_string()));
        }
        let shared = settings.optional_length(&key("attention.shared_kv_layers"))?.unwrap_or(0);
        let states_of = shared_states(settings, &windowed, shared)?;
        let heads = settings.count(&key("attention.head_count"))?;
        let context = settings.count(&key("context_length"))?;
        let window = settings.count(&key("attention.sliding_window"))?;
        let head_size = |suffix: &str| -> Result<usize, Error> {
            let size = settings.count(&key(&format!("attention.key_length{suffix}")))?;
            let value_key = key(&format!("attention.value_length{suffix}"));
            match settings.optional_count(&value_key)? {
                Some(found) if found != size => {
                    Err(settings.error(&value_key, size.to_string(), found.to_string()))
                }
                _ => Ok(size),
            }
        };
        let (full_size, windowed_size) = (head_size("")?, head_size("_swa")?);
        let of = |size| RopeContext { context, ..RopeContext::new(size, RopeLayout::Half) };
        let rope =
            |size| rope_settings::from_gguf(settings, checkpoint, NAME, Some(WINDOWED_THETA), of(size));
        let (full, rotated) = (rope(full_size)?.full, key("rope.dimension_count_swa"));
        let windowed_rope = Rope {
            rotated: settings.optional_count(&rotated)?.unwrap_or(windowed_size),
            ..rope(windowed_size)?.windowed
        };
        let all = |name: &str| settings.optional_counts(&key(name), layers);
        let feed_forward = match all("feed_forward_length")? {
            Some(found) => found,
            None => vec![settings.count(&key("feed_forward_length"))?; layers],
        };
        let kv_heads = all("attention.head_count_kv")?.unwrap_or_else(|| vec![heads; layers]);
        let has = |index: usize, map: &str| checkpoint.info(&format!("blk.{index}.{map}.weight")).is_some();
        let layer = |index: usize| LayerSizes {
            head_size: if windowed[index] { windowed_size } else { full_size },
            kv_heads: kv_heads[states_of[index].unwrap_or(index)],
            feed_forward: feed_forward[index],
            states_of: states_of[index],
            rope: if windowed[index] { windowed_rope.clone() } else { full.clone() },
            span: if windowed[index] { Span::Window(window) } else { Span::Full },
            values_are_keys: !has(index, "attn_v"),
            has_scale: has(index, "layer_output_scale"),
        };
        Ok(Self {
            hidden: settings.count(&key("embedding_length"))?,
            vocabulary: embedding_rows(checkpoint, NAME)?,
            context,
            heads,
            norm_epsilon: settings.positive(&key("attention.layer_norm_rms_epsilon"), 1e-6)?,
            tied: checkpoint.info("output.weight").is_none(),
            logit_softcap: settings
                .optional_number(&key("final_logit_softcapping"))?
                .filter(|cap| *cap > 0.0),
            layer_embedding: settings.optional_length(&key("embedding_length_per_layer_input"))?,
            layers: (0..layers).map(layer).collect(),
        })
    }

    fn from_json(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Self, Error> {
        check_settings(settings)?;
        let layers = settings.count("num_hidden_layers")?;
        check_blocks(&settings, layers, checkpoint)?;
        let heads = settings.count("num_attention_heads")?;
        let kv_heads = settings.optional_count("num_key_value_heads")?.unwrap_or(4);
        let context = settings.optional_count("max_position_embeddings")?.unwrap_or(131_072);
        let window = settings.optional_count("sliding_window")?.unwrap_or(512);
        let feed_forward = settings.count("intermediate_size")?;
        let keys_are_values = settings.flag("attention_k_eq_v")?;
        let windowed = windowed_layers(settings, layers)?;
        let shared = settings.optional_length("num_kv_shared_layers")?.unwrap_or(0);
        let states_of = shared_states(settings, &windowed, shared)?;
        let wide = settings.flag("use_double_wide_mlp")?;
        let windowed_size = settings.optional_count("head_dim")?.unwrap_or(256);
        // `transformers` 5 saves the sizes of full attentions block by block.
        let by_layer = settings.section("per_layer_config")?;
        let of_layer = |index: usize, name: &str| -> Result<Option<usize>, Error> {
            let section = by_layer.map(|all| all.section(&index.to_string())).transpose()?.flatten();
            Ok(section.map(|section| section.optional_count(name)).transpose()?.flatten())
        };
        let full_size = match by_layer {
            None => settings.optional_count("global_head_dim")?.unwrap_or(512),
            Some(_) => match windowed.iter().position(|windowed| !windowed) {
                Some(first) => of_layer(first, "head_dim")?.unwrap_or(windowed_size),
                None => windowed_size,
            },
        };
        let full_kv_heads = match by_layer {
            None if keys_are_values => settings.optional_count("num_global_key_value_heads")?,
            _ => None,
        };
        let of = |size| RopeContext { context, ..RopeContext::new(size, RopeLayout::Half) };
        let mut full = rope_settings::from_json(settings, of(full_size))?.full;
        let windowed_rope = rope_settings::from_json(settings, of(windowed_size))?.windowed;
        if full.scaling == RopeScaling::None {
            // llama.cpp expects factors.
            full.scaling = RopeScaling::Factors(vec![1.0; full.rotated / 2]);
        }
        for (rope, size, known) in [
            (&full, full_size, matches!(full.scaling, RopeScaling::Factors(_))),
            (&windowed_rope, windowed_size, windowed_rope.scaling == RopeScaling::None),
        ] {
            if !known || rope.rotated != size {
                let expected = "`proportional` without a window, `default` with a window";
                return Err(settings.error("rope_parameters: rope_type", expected, "another type"));
            }
        }
        let has_scale = |index: usize| {
            let name =
                hugging_face_name(prefix(checkpoint), &format!("blk.{index}.layer_output_scale.weight"));
            checkpoint.info(&name).is_some()
        };
        let layer = |index: usize| -> Result<LayerSizes, Error> {
            let windowed = windowed[index];
            let size = if windowed { windowed_size } else { full_size };
            let found = match of_layer(index, "head_dim")? {
                None if by_layer.is_some() => windowed_size,
                found => found.unwrap_or(size),
            };
            if found != size {
                let key = format!("per_layer_config: {index}: head_dim");
                let expected = format!("{size}, as in the other attentions of this kind");
                return Err(settings.error(&key, expected, found.to_string()));
            }
            let full_kv_heads = if windowed { None } else { full_kv_heads };
            let source = states_of[index].unwrap_or(index);
            Ok(LayerSizes {
                head_size: size,
                kv_heads: of_layer(source, "num_key_value_heads")?.or(full_kv_heads).unwrap_or(kv_heads),
                feed_forward: if wide && states_of[index].is_some() {
                    2 * feed_forward
                } else {
                    feed_forward
                },
                states_of: states_of[index],
                rope: if windowed { windowed_rope.clone() } else { full.clone() },
                span: if windowed { Span::Window(window) } else { Span::Full },
                values_are_keys: keys_are_values && !windowed,
                has_scale: has_scale(index),
            })
        };
        let embeddings = ["model.embed_tokens.weight", "model.language_model.embed_tokens.weight"];
        Ok(Self {
            hidden: settings.count("hidden_size")?,
            vocabulary: settings.count("vocab_size")?,
            context,
            heads,
            norm_epsilon: settings.positive("rms_norm_eps", 1e-6)?,
            tied: settings.optional_flag("tie_word_embeddings")?.unwrap_or(true)
                && !has_other_head(checkpoint, embeddings)?,
            logit_softcap: settings.optional_positive("final_logit_softcapping")?,
            // An absent key means the default of `transformers`.
            layer_embedding: match settings.optional_number("hidden_size_per_layer_input")? {
                None => Some(256),
                Some(_) => settings.optional_length("hidden_size_per_layer_input")?,
            },
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// Checks that the sizes describe a valid network.
    fn check(&self, settings: &Settings) -> Result<(), Error> {
        for layer in &self.layers {
            if !self.heads.is_multiple_of(layer.kv_heads) {
                let expected = format!("a divisor of {} heads", self.heads);
                return Err(settings.error("key-value heads", expected, layer.kv_heads.to_string()));
            }
            if !layer.head_size.is_multiple_of(2) {
                return Err(settings.error("head size", "an even number", layer.head_size.to_string()));
            }
            rope_settings::check_rotated(settings, &layer.rope, layer.head_size)?;
        }
        Ok(())
    }

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
                query_norm: Some(norm("attn_q_norm", head_size)),
                key_norm: own_states.then(|| norm("attn_k_norm", head_size)),
                value_norm: own_states.then_some(norm_epsilon),
                rope: Some(layer.rope),
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
                parallel: false,
            };
            let mut sublayers = vec![
                sublayer(Some("attn_norm"), Body::Attention(attention), "post_attention_norm"),
                sublayer(Some("ffn_norm"), Body::FeedForward(network), "post_ffw_norm"),
            ];
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
            architecture: NAME,
            vocabulary,
            hidden,
            context: self.context,
            blocks: blocks.collect(),
            embedding: EmbeddingSpec {
                tokens: slot("token_embd".into(), vocabulary, hidden),
                scale: (hidden as f32).sqrt(),
                positions: None,
                layers: embeddings,
            },
            output: OutputSpec {
                norm: norm("output_norm".into(), hidden),
                head: (!self.tied).then(|| slot("output".into(), vocabulary, hidden)),
                scale: 1.0,
                softcap: self.logit_softcap,
            },
        }
    }
}

/// Returns for each block whether its attention has a window. The last attention never has one, as in `transformers`.
fn windowed_layers(settings: Settings, layers: usize) -> Result<Vec<bool>, Error> {
    let mut windowed = match settings.optional_texts("layer_types")? {
        None => (0..layers).map(|index| !(index + 1).is_multiple_of(6)).collect(),
        Some(kinds) => {
            let windowed = |kind: &str| match kind {
                "full_attention" => Ok(false),
                "sliding_attention" => Ok(true),
                other => Err(settings.error("layer_types", "full_attention or sliding_attention", other)),
            };
            kinds.into_iter().map(windowed).collect::<Result<Vec<bool>, Error>>()?
        }
    };
    if windowed.len() != layers {
        let expected = format!("one entry for each of {layers} blocks");
        return Err(settings.error("layer_types", expected, windowed.len().to_string()));
    }
    if let Some(last) = windowed.last_mut() {
        *last = false;
    }
    Ok(windowed)
}

/// Returns for each block the earlier block whose keys and values its attention reads. The last `shared` blocks read those
/// of the last block before them whose attention is of the same kind.
fn shared_states(settings: Settings, windowed: &[bool], shared: usize) -> Result<Vec<Option<usize>>, Error> {
    let own = windowed.len().saturating_sub(shared);
    let source = |index: usize| match windowed[..own].iter().rposition(|kind| *kind == windowed[index]) {
        _ if index < own => Ok(None),
        Some(source) => Ok(Some(source)),
        None => {
            let expected = "fewer blocks: each kind of attention needs a block with its own keys and values";
            Err(settings.error("blocks that share keys and values", expected, shared.to_string()))
        }
    };
    (0..windowed.len()).map(source).collect()
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

/// Rejects the settings of a `config.json` that the network's description cannot express.
fn check_settings(settings: Settings) -> Result<(), Error> {
    if settings.flag("enable_moe_block")? {
        return Err(missing_feature(settings, "enable_moe_block", EXPERTS, 1));
    }
    if settings.flag("attention_bias")? {
        return Err(settings.error("attention_bias", "false", "true"));
    }
    if settings.optional_text("use_bidirectional_attention")? == Some("all") {
        return Err(settings.error("use_bidirectional_attention", "causal attention of text", "all"));
    }
    match settings.optional_text("hidden_activation")? {
        None | Some("gelu_pytorch_tanh") => Ok(()),
        Some(other) => Err(settings.error("hidden_activation", "gelu_pytorch_tanh", other)),
    }
}

fn missing_feature(settings: Settings, key: &str, feature: &str, found: usize) -> Error {
    settings.error(key, format!("0 (not built yet: {feature})"), found.to_string())
}
