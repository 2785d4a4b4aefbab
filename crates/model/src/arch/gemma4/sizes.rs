//! The sizes of a Gemma 4 network, from GGUF metadata or from `config.json`.

use super::{NAME, hugging_face_name, prefix};
use crate::arch::rope_settings::{self, RopeContext};
use crate::arch::settings::Settings;
use crate::arch::{check_blocks, embedding_rows, has_other_head};
use crate::{Error, Rope, RopeLayout, RopeScaling, Span};
use kvant_io::Checkpoint;

/// The base of the rotary frequencies of attentions with a window, if a GGUF file does not have one.
const WINDOWED_THETA: f32 = 10_000.0;

/// The sizes of a network.
pub(super) struct Sizes {
    pub hidden: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub heads: usize,
    pub norm_epsilon: f32,
    pub tied: bool,
    pub logit_softcap: Option<f32>,
    /// The length of a layer embedding.
    pub layer_embedding: Option<usize>,
    pub experts: Option<ExpertSizes>,
    pub layers: Vec<LayerSizes>,
}

/// The sizes of the experts.
#[derive(Clone, Copy)]
pub(super) struct ExpertSizes {
    pub count: usize,
    pub used: usize,
    pub feed_forward: usize,
    /// True if gate and up are one map.
    pub fused: bool,
}

/// The sizes of a block.
pub(super) struct LayerSizes {
    pub head_size: usize,
    pub kv_heads: usize,
    pub feed_forward: usize,
    pub rope: Rope,
    pub span: Span,
    pub values_are_keys: bool,
    /// The block whose keys and values the attention reads.
    pub states_of: Option<usize>,
    pub has_scale: bool,
    pub has_experts: bool,
}

impl Sizes {
    pub fn from_gguf(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Self, Error> {
        let key = |key: &str| format!("{NAME}.{key}");
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
        let experts = match settings.optional_length(&key("expert_count"))? {
            None => None,
            Some(count) => Some(ExpertSizes {
                count,
                used: settings.count(&key("expert_used_count"))?,
                feed_forward: settings.count(&key("expert_feed_forward_length"))?,
                fused: (0..layers).any(|index| has(index, "ffn_gate_up_exps")),
            }),
        };
        let layer = |index: usize| LayerSizes {
            has_experts: experts.is_some() && has(index, "ffn_gate_inp"),
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
            experts,
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

    pub fn from_json(settings: Settings, checkpoint: &dyn Checkpoint) -> Result<Self, Error> {
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
        let has_experts = settings.flag("enable_moe_block")?;
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
                has_experts,
            })
        };
        let experts = match settings.flag("enable_moe_block")? {
            false => None,
            true => Some(ExpertSizes {
                count: settings.count("num_experts")?,
                used: settings.count("top_k_experts")?,
                feed_forward: settings.count("moe_intermediate_size")?,
                fused: true,
            }),
        };
        let embeddings = ["model.embed_tokens.weight", "model.language_model.embed_tokens.weight"];
        Ok(Self {
            experts,
            hidden: settings.count("hidden_size")?,
            vocabulary: settings.count("vocab_size")?,
            context,
            heads,
            norm_epsilon: settings.positive("rms_norm_eps", 1e-6)?,
            tied: settings.optional_flag("tie_word_embeddings")?.unwrap_or(true)
                && !has_other_head(checkpoint, &embeddings)?,
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
    pub fn check(&self, settings: &Settings) -> Result<(), Error> {
        if let Some(experts) = self.experts.filter(|experts| experts.used > experts.count) {
            let expected = format!("at most {} experts", experts.count);
            return Err(settings.error("used experts", expected, experts.used.to_string()));
        }
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

/// Rejects the settings of a `config.json` that the network's description cannot express.
fn check_settings(settings: Settings) -> Result<(), Error> {
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
