//! The sizes of a network, from GGUF metadata or from `config.json`.

use super::{Family, Windows, has_other_head};
use crate::arch::rope_settings::{self, RopeContext, Ropes};
use crate::arch::settings::Settings;
use crate::arch::{check_blocks, embedding_rows};
use crate::{Error, Rope, Span};
use kvant_io::{Checkpoint, Meta};
use std::collections::HashSet;

/// A network's sizes and other numbers.
pub(in crate::arch) struct Sizes {
    pub hidden: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_size: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub norm_epsilon: f32,
    pub tied: bool,
    pub layers: Vec<LayerSizes>,
    pub experts: Option<ExpertSizes>,
    pub embedding_scale: f32,
    /// Factor of each sublayer's result.
    pub residual_scale: f32,
    pub attention_scale: f32,
    pub attention_softcap: Option<f32>,
    pub logit_scale: f32,
    pub logit_softcap: Option<f32>,
}

/// The properties that differ between the blocks of a network.
pub(in crate::arch) struct LayerSizes {
    pub rope: Option<Rope>,
    pub span: Span,
    /// True if the block has experts.
    pub experts: bool,
}

/// The sizes of experts.
#[derive(Clone, Copy)]
pub(in crate::arch) struct ExpertSizes {
    pub count: usize,
    pub used: usize,
    pub feed_forward: usize,
    pub shared_feed_forward: Option<usize>,
    pub normalized: bool,
}

/// The settings that GGUF metadata and `config.json` have under different names.
struct Found<'a> {
    hidden: usize,
    layers: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    vocabulary: usize,
    context: usize,
    norm_epsilon: f32,
    tied: bool,
    window: Option<usize>,
    /// For each attention, true if it has a window; `None` if the settings have no such list.
    windowed: Option<Vec<bool>>,
    /// The first block with a window, for [`Windows::FromBlock`].
    first_windowed: usize,
    /// The distance of attentions without a window, for [`Windows::AllButEach`]; `None` for the family's own.
    full_each: Option<usize>,
    ropes: Ropes,
    experts: Option<ExpertSizes>,
    /// Returns true if the block of this index has experts.
    has_experts: Box<dyn Fn(usize) -> bool + 'a>,
}

impl Family {
    /// Reads the sizes of a checkpoint.
    pub(super) fn sizes<'a>(&self, checkpoint: &'a dyn Checkpoint) -> Result<(Settings<'a>, Sizes), Error> {
        let path = checkpoint.path();
        let (settings, found) = match checkpoint.meta() {
            Meta::Gguf(metadata) => {
                let settings = Settings::Gguf(path, metadata);
                (settings, self.found_in_gguf(settings, checkpoint)?)
            }
            Meta::HuggingFace(folder) => {
                let settings = Settings::Json(path, &folder.config);
                let mut found = self.found_in_json(settings)?;
                found.tied = found.tied
                    && !has_other_head(checkpoint, ["model.embed_tokens.weight", "embed_tokens.weight"])?;
                (settings, found)
            }
        };
        check_blocks(&settings, found.layers, checkpoint)?;
        // In a folder, each expert has tensors of its own, so the files bound the number of experts.
        let tensors = checkpoint.tensors().len();
        if let (Settings::Json(..), Some(experts)) = (settings, found.experts)
            && experts.count > tensors
        {
            let expected = format!("at most as many experts as tensors ({tensors})");
            return Err(settings.error("experts", expected, experts.count.to_string()));
        }
        if let Some(windowed) = &found.windowed
            && windowed.len() != found.layers
        {
            let expected = format!("one entry for each of {} blocks", found.layers);
            return Err(settings.error("list of attentions", expected, windowed.len().to_string()));
        }
        let layer = |index: usize| {
            let windowed = match (&found.windowed, self.windows) {
                (Some(windowed), _) => windowed[index],
                (None, Windows::All) => true,
                (None, Windows::FromBlock) => index >= found.first_windowed,
                (None, Windows::AllButEach(n)) => !(index + 1).is_multiple_of(found.full_each.unwrap_or(n)),
            };
            let (rope, span) = match found.window {
                Some(positions) if windowed => (&found.ropes.windowed, self.window_span(positions)),
                _ => (&found.ropes.full, Span::Full),
            };
            let experts = found.experts.is_some() && (found.has_experts)(index);
            LayerSizes { rope: Some(rope.clone()), span, experts }
        };
        let sizes = Sizes {
            layers: (0..found.layers).map(layer).collect(),
            experts: found.experts,
            hidden: found.hidden,
            feed_forward: found.feed_forward,
            heads: found.heads,
            kv_heads: found.kv_heads,
            head_size: found.head_size,
            vocabulary: found.vocabulary,
            context: found.context,
            norm_epsilon: found.norm_epsilon,
            tied: found.tied,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            attention_scale: 1.0 / (found.head_size as f32).sqrt(),
            attention_softcap: None,
            logit_scale: 1.0,
            logit_softcap: None,
        };
        Ok((settings, sizes))
    }

    fn found_in_gguf<'a>(
        &self,
        settings: Settings,
        checkpoint: &'a dyn Checkpoint,
    ) -> Result<Found<'a>, Error> {
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
        let experts = match (self.experts, settings.optional_length(&key("expert_count"))?) {
            (_, None) => None,
            (None, Some(count)) => {
                return Err(settings.error(
                    &key("expert_count"),
                    "no experts in this family",
                    count.to_string(),
                ));
            }
            (Some(names), Some(count)) => {
                let expert_length = settings.optional_length(&key("expert_feed_forward_length"))?;
                Some(ExpertSizes {
                    count,
                    used: settings.count(&key("expert_used_count"))?,
                    feed_forward: match expert_length {
                        Some(length) => length,
                        None => settings.count(&key("feed_forward_length"))?,
                    },
                    shared_feed_forward: match names.shared_feed_forward {
                        None => None,
                        Some(_) => settings.optional_length(&key("expert_shared_feed_forward_length"))?,
                    },
                    normalized: names.normalized,
                })
            }
        };
        let context = settings.count(&key("context_length"))?;
        let of = RopeContext { context, ..RopeContext::new(head_size, self.layout) };
        let pattern = key("attention.sliding_window_pattern");
        let listed = settings.is_list(&pattern);
        Ok(Found {
            hidden,
            layers: settings.count(&key("block_count"))?,
            feed_forward: match experts {
                None => settings.count(&key("feed_forward_length"))?,
                // A network without dense blocks needs no such key.
                Some(experts) => {
                    settings.optional_length(&key("feed_forward_length"))?.unwrap_or(experts.feed_forward)
                }
            },
            heads,
            kv_heads: settings.optional_count(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_size,
            vocabulary: embedding_rows(checkpoint, self.name)?,
            context,
            norm_epsilon: settings.positive(&key("attention.layer_norm_rms_epsilon"), 1e-5)?,
            tied: checkpoint.info("output.weight").is_none(),
            window: settings.optional_length(&key("attention.sliding_window"))?,
            windowed: if listed { settings.optional_flags(&pattern)? } else { None },
            first_windowed: 0,
            full_each: if listed { None } else { settings.optional_count(&pattern)? },
            ropes: rope_settings::from_gguf(settings, checkpoint, self.name, self.windowed_theta, of)?,
            experts,
            has_experts: Box::new(|index| {
                checkpoint.info(&format!("blk.{index}.ffn_gate_inp.weight")).is_some()
            }),
        })
    }

    fn found_in_json<'a>(&self, settings: Settings<'a>) -> Result<Found<'a>, Error> {
        let hidden = settings.count("hidden_size")?;
        let heads = settings.count("num_attention_heads")?;
        let head_size = settings.optional_count("head_dim")?.unwrap_or(hidden / heads);
        let context = settings.optional_count("max_position_embeddings")?.unwrap_or(2048);
        self.check_activation(settings)?;
        check_quantization(settings)?;
        let layers = settings.count("num_hidden_layers")?;
        let window = match self.windows {
            Windows::FromBlock if !settings.flag("use_sliding_window")? => None,
            _ => settings.optional_length("sliding_window")?,
        };
        let of_kinds = |kinds: Vec<&str>| {
            let windowed = |kind: &str| match kind {
                "full_attention" => Ok(false),
                "sliding_attention" => Ok(true),
                other => Err(settings.error("layer_types", "full_attention or sliding_attention", other)),
            };
            kinds.into_iter().map(windowed).collect::<Result<Vec<bool>, Error>>()
        };
        let of = RopeContext { context, ..RopeContext::new(head_size, self.layout) };
        Ok(Found {
            hidden,
            layers,
            feed_forward: settings.count("intermediate_size")?,
            heads,
            kv_heads: settings.optional_count("num_key_value_heads")?.unwrap_or(heads),
            head_size,
            vocabulary: settings.count("vocab_size")?,
            context,
            norm_epsilon: settings.positive("rms_norm_eps", 1e-6)?,
            tied: settings.optional_flag("tie_word_embeddings")?.unwrap_or(self.tied),
            window,
            windowed: settings.optional_texts("layer_types")?.map(of_kinds).transpose()?,
            first_windowed: settings.optional_length("max_window_layers")?.unwrap_or(0),
            // A text describes a pattern, too: `LLLG` is the same as 4.
            full_each: match settings.optional_text("sliding_window_pattern") {
                Ok(pattern) => pattern.map(str::len),
                Err(_) => settings.optional_count("sliding_window_pattern")?,
            },
            ropes: rope_settings::from_json(settings, of)?,
            experts: self.experts_from_json(settings)?,
            has_experts: self.blocks_with_experts(settings)?,
        })
    }

    fn experts_from_json(&self, settings: Settings) -> Result<Option<ExpertSizes>, Error> {
        let Some(names) = self.experts else { return Ok(None) };
        let Some(count) = settings.optional_length(names.count)? else { return Ok(None) };
        if let Some((key, default)) = names.normalized_key {
            let found = settings.optional_flag(key)?.unwrap_or(default);
            if found != names.normalized {
                let expected = format!("{}, because GGUF has no key for other values", names.normalized);
                return Err(settings.error(key, expected, found.to_string()));
            }
        }
        Ok(Some(ExpertSizes {
            count,
            used: settings.count("num_experts_per_tok")?,
            feed_forward: settings.count(names.feed_forward.unwrap_or("intermediate_size"))?,
            shared_feed_forward: match names.shared_feed_forward {
                None => None,
                Some(key) => settings.optional_length(key)?,
            },
            normalized: names.normalized,
        }))
    }

    /// Returns a function that is true for the index of each block with experts.
    fn blocks_with_experts(&self, settings: Settings) -> Result<Box<dyn Fn(usize) -> bool>, Error> {
        let step = settings.optional_count("decoder_sparse_step")?.unwrap_or(1);
        let dense = settings.optional_numbers("mlp_only_layers")?.unwrap_or_default();
        let dense: HashSet<usize> = dense.into_iter().map(|index| index as usize).collect();
        Ok(Box::new(move |index| (index + 1).is_multiple_of(step) && !dense.contains(&index)))
    }

    fn check_activation(&self, settings: Settings) -> Result<(), Error> {
        let (known, names): (&[&str], &str) = match self.activation {
            crate::Activation::Silu => (&["silu", "swish"], "silu"),
            // Gemma's first configurations say `gelu`; `transformers` uses the approximation for them.
            _ => (&["gelu_pytorch_tanh", "gelu", "gelu_new"], "gelu_pytorch_tanh"),
        };
        for key in ["hidden_activation", "hidden_act"] {
            if let Some(found) = settings.optional_text(key)? {
                return if known.contains(&found) { Ok(()) } else { Err(settings.error(key, names, found)) };
            }
        }
        Ok(())
    }
}

/// Rejects checkpoints that other programs have quantized.
fn check_quantization(settings: Settings) -> Result<(), Error> {
    let Some(dialect) = settings.section("quantization_config")? else { return Ok(()) };
    // FP8 needs nothing from this section: the tensors' type and their scales determine the values.
    match dialect.optional_text("quant_method")? {
        Some("fp8") => Ok(()),
        found => {
            let found = found.unwrap_or("a dialect without a name");
            let expected = "plain weights or `fp8` (other dialects are not built yet)";
            Err(settings.error("quantization_config: quant_method", expected, found))
        }
    }
}

impl Sizes {
    /// Checks that the sizes describe a valid network of bounded size.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), Error> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(settings.error(
                "key-value heads",
                format!("a divisor of {} heads", self.heads),
                self.kv_heads.to_string(),
            ));
        }
        if let Some(experts) = &self.experts
            && experts.used > experts.count
        {
            let expected = format!("at most {} experts", experts.count);
            return Err(settings.error("used experts", expected, experts.used.to_string()));
        }
        if self.head_size == 0 || !self.head_size.is_multiple_of(2) {
            let expected = "an even number above 0";
            return Err(settings.error("head size", expected, self.head_size.to_string()));
        }
        for rope in self.layers.iter().filter_map(|layer| layer.rope.as_ref()) {
            rope_settings::check_rotated(settings, rope, self.head_size)?;
        }
        Ok(())
    }
}
