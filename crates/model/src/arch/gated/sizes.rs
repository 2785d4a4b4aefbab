//! The sizes of a network, from GGUF metadata or from `config.json`.

use super::delta_net::DeltaNetSizes;
use super::experts::ExpertSizes;
use super::{ExpertLayout, Family, QueryKeyNorms, Windows, has_other_head, text_settings};
use crate::arch::rope_settings::{self, RopeContext, Ropes};
use crate::arch::settings::Settings;
use crate::arch::{check_blocks, embedding_rows};
use crate::{Error, Rope, Span};
use kvant_io::{Checkpoint, Meta};

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
    pub query_key_norms: QueryKeyNorms,
    pub layers: Vec<LayerSizes>,
    pub experts: Option<ExpertSizes>,
    pub delta_net: Option<DeltaNetSizes>,
    /// The number of tokens that a short convolution reads, if the network has some.
    pub short_convolution: Option<usize>,
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
    /// True if the block has a recurrent layer instead of an attention.
    pub recurrent: bool,
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
    /// For each block, true if it has a recurrent layer; `None` if the settings have no such list.
    recurrent: Option<Vec<bool>>,
    /// The distance of attentions in a network with gated delta nets.
    attention_each: usize,
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
                let settings = text_settings(path, folder)?;
                let mut found = self.found_in_json(settings)?;
                found.tied = found.tied
                    && !has_other_head(
                        checkpoint,
                        &[
                            "model.embed_tokens.weight",
                            "embed_tokens.weight",
                            "model.language_model.embed_tokens.weight",
                        ],
                    )?;
                (settings, found)
            }
        };
        check_blocks(&settings, found.layers, checkpoint)?;
        // If each expert has tensors of its own, or is a part of a tensor, the files bound the number of experts.
        let parts = checkpoint.tensors().iter().map(|info| info.shape.dimensions()[0]);
        let most = parts.max().unwrap_or(0).max(checkpoint.tensors().len());
        let separate = self.experts.is_some_and(|names| names.layout != ExpertLayout::Stacked);
        if let (Settings::Json(..), Some(experts), true) = (settings, found.experts, separate)
            && experts.count > most
        {
            let expected = format!("at most as many experts as tensors or rows ({most})");
            return Err(settings.error("experts", expected, experts.count.to_string()));
        }
        for list in found.windowed.iter().chain(&found.recurrent) {
            if list.len() != found.layers {
                let expected = format!("one entry for each of {} blocks", found.layers);
                return Err(settings.error("list of attentions", expected, list.len().to_string()));
            }
        }
        let delta_net = self.delta_net_sizes(settings)?;
        let short_convolution = self.kernel_of_short_convolutions(settings)?;
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
            let recurrent = match &found.recurrent {
                Some(recurrent) => recurrent[index] && (delta_net.is_some() || short_convolution.is_some()),
                None => delta_net.is_some() && !(index + 1).is_multiple_of(found.attention_each),
            };
            LayerSizes { rope: Some(rope.clone()), span, experts, recurrent }
        };
        let sizes = Sizes {
            layers: (0..found.layers).map(layer).collect(),
            experts: found.experts,
            delta_net,
            short_convolution,
            hidden: found.hidden,
            feed_forward: found.feed_forward,
            heads: found.heads,
            kv_heads: found.kv_heads,
            head_size: found.head_size,
            vocabulary: found.vocabulary,
            context: found.context,
            norm_epsilon: found.norm_epsilon,
            tied: found.tied,
            query_key_norms: self.stored_query_key_norms(settings, checkpoint)?,
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
        let experts = self.experts_from_gguf(settings)?;
        let layers = self.blocks_in_gguf(settings)?;
        let (kv_heads, recurrent) = match self.short_convolution {
            true => self.heads_by_block(settings, layers)?,
            false => {
                let kv_heads = settings.optional_count(&key("attention.head_count_kv"))?;
                (kv_heads, settings.optional_flags(&key("attention.recurrent_layers"))?)
            }
        };
        let context = settings.count(&key("context_length"))?;
        let of = RopeContext {
            context,
            part: self.rotated_part,
            yarn_rounded: self.yarn_rounded,
            ..RopeContext::new(head_size, self.layout)
        };
        let pattern = key("attention.sliding_window_pattern");
        let listed = settings.is_list(&pattern);
        Ok(Found {
            hidden,
            layers,
            recurrent,
            attention_each: settings.optional_count(&key("full_attention_interval"))?.unwrap_or(4),
            feed_forward: match experts {
                None => settings.count(&key("feed_forward_length"))?,
                // A network without dense blocks needs no such key.
                Some(experts) => {
                    settings.optional_length(&key("feed_forward_length"))?.unwrap_or(experts.feed_forward)
                }
            },
            heads,
            kv_heads: kv_heads.unwrap_or(heads),
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

    /// Returns the number of blocks, without those for the prediction of further tokens.
    fn blocks_in_gguf(&self, settings: Settings) -> Result<usize, Error> {
        let blocks = settings.count(&format!("{}.block_count", self.name))?;
        if !self.has_predictors {
            return Ok(blocks);
        }
        let key = format!("{}.nextn_predict_layers", self.name);
        let predictors = settings.optional_length(&key)?.unwrap_or(0);
        if predictors >= blocks {
            return Err(settings.error(&key, format!("less than {blocks} blocks"), predictors.to_string()));
        }
        Ok(blocks - predictors)
    }

    /// Returns the norms of queries and keys of this checkpoint.
    fn stored_query_key_norms(
        &self,
        settings: Settings,
        checkpoint: &dyn Checkpoint,
    ) -> Result<QueryKeyNorms, Error> {
        let stored = match (self.query_key_norms, settings) {
            (QueryKeyNorms::EachHeadIfUsed, Settings::Json(..)) => settings.flag("use_qk_norm")?,
            (QueryKeyNorms::EachHeadIfUsed, Settings::Gguf(..)) => {
                checkpoint.info("blk.0.attn_q_norm.weight").is_some()
            }
            (norms, _) => return Ok(norms),
        };
        Ok(if stored { QueryKeyNorms::EachHead } else { QueryKeyNorms::None })
    }

    fn found_in_json<'a>(&self, settings: Settings<'a>) -> Result<Found<'a>, Error> {
        let hidden = settings.count("hidden_size")?;
        let heads = settings.count("num_attention_heads")?;
        let head_size = settings.optional_count("head_dim")?.unwrap_or(hidden / heads);
        let context = settings.optional_count("max_position_embeddings")?.unwrap_or(2048);
        self.check_activation(settings)?;
        let stacked = self.experts.is_some_and(|names| names.layout == ExpertLayout::Stacked);
        check_quantization(settings, stacked)?;
        let layers = settings.count("num_hidden_layers")?;
        let window = match self.windows {
            Windows::FromBlock if !settings.flag("use_sliding_window")? => None,
            _ => settings.optional_length("sliding_window")?,
        };
        let recurrent = match self.short_convolution {
            true => Some("conv"),
            false => self.delta_net.map(|_| "linear_attention"),
        };
        let is_recurrent = |kind: &str| recurrent == Some(kind);
        let kinds = settings.optional_texts("layer_types")?;
        let of_kinds = |kinds: Vec<&str>| {
            let windowed = |kind: &str| match kind {
                "full_attention" => Ok(false),
                "sliding_attention" => Ok(true),
                kind if is_recurrent(kind) => Ok(false),
                other => Err(settings.error("layer_types", "full_attention or sliding_attention", other)),
            };
            kinds.into_iter().map(windowed).collect::<Result<Vec<bool>, Error>>()
        };
        let of = RopeContext {
            context,
            part: self.rotated_part,
            yarn_rounded: self.yarn_rounded,
            ..RopeContext::new(head_size, self.layout)
        };
        Ok(Found {
            hidden,
            layers,
            feed_forward: match self.experts.and_then(|names| names.feed_forward) {
                None => (self.feed_forward)(settings)?,
                // A network without dense blocks needs no such key.
                Some(of_experts) => match settings.optional_length("intermediate_size")? {
                    Some(length) => length,
                    None => settings.count(of_experts)?,
                },
            },
            heads,
            kv_heads: settings.optional_count("num_key_value_heads")?.unwrap_or(heads),
            head_size,
            vocabulary: settings.count("vocab_size")?,
            context,
            norm_epsilon: settings.positive("rms_norm_eps", 1e-6)?,
            tied: settings.optional_flag("tie_word_embeddings")?.unwrap_or(self.tied),
            window,
            windowed: kinds.clone().map(of_kinds).transpose()?,
            recurrent: match kinds {
                Some(kinds) => Some(kinds.into_iter().map(is_recurrent).collect()),
                None => self.blocks_without_attention(settings, layers)?,
            },
            attention_each: settings.optional_count("full_attention_interval")?.unwrap_or(4),
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

    fn check_activation(&self, settings: Settings) -> Result<(), Error> {
        let (known, names): (&[&str], &str) = match self.activation {
            crate::Activation::Silu | crate::Activation::ClampedSwiglu(_) => (&["silu", "swish"], "silu"),
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

/// Rejects checkpoints that other programs have quantized. `mxfp4` is true if the family has experts in MXFP4.
pub(in crate::arch) fn check_quantization(settings: Settings, mxfp4: bool) -> Result<(), Error> {
    let Some(dialect) = settings.section("quantization_config")? else { return Ok(()) };
    match dialect.optional_text("quant_method")? {
        // FP8 needs nothing from this section: the tensors' type and their scales determine the values.
        Some("fp8") => Ok(()),
        // The names of the tensors show that they are in MXFP4.
        Some("mxfp4") if mxfp4 => Ok(()),
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
