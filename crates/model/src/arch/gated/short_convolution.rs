//! Short convolutions in the settings and in the names of tensors: LFM2.
//!
//! Source: `transformers`' `models/lfm2`; llama.cpp's `src/models/lfm2.cpp` and `conversion/lfm2.py`.

use super::Family;
use super::delta_net::LARGEST_KERNEL;
use crate::arch::settings::Settings;
use crate::{ConvolutionSlot, Error, ShortConvolution, Slot, Spec};
use kvant_io::{Array, Value};

/// Describes the short convolution of one block. `map` gives a map of the block by name, rows and columns.
pub(super) fn build(
    kernel: usize,
    hidden: usize,
    prefix: &str,
    map: impl Fn(&str, usize, usize) -> Slot,
) -> ShortConvolution {
    let name = format!("{prefix}.shortconv.conv.weight");
    ShortConvolution {
        input: map("shortconv.in_proj", 3 * hidden, hidden),
        convolution: ConvolutionSlot { name, channels: hidden, kernel },
        output: map("shortconv.out_proj", hidden, hidden),
    }
}

/// Returns the GGUF entries of a network with short convolutions, without the family's name.
pub(super) fn to_gguf(spec: &Spec) -> Vec<(&'static str, Value)> {
    let kv_heads = spec.blocks.iter().map(|block| block.attentions().next().map_or(0, |a| a.kv_heads as i32));
    let kernel = spec.convolutions().next().map_or(0, |convolution| convolution.kernel);
    vec![
        ("shortconv.l_cache", Value::U32(kernel as u32)),
        ("attention.head_count_kv", Value::Array(Array::I32(kv_heads.collect()))),
    ]
}

impl Family {
    /// Reads the number of tokens that a short convolution reads, if the family has short convolutions.
    pub(super) fn kernel_of_short_convolutions(&self, settings: Settings) -> Result<Option<usize>, Error> {
        if !self.short_convolution {
            return Ok(None);
        }
        let key = match settings {
            Settings::Json(..) => "conv_L_cache".to_owned(),
            Settings::Gguf(..) => format!("{}.shortconv.l_cache", self.name),
        };
        let kernel = settings.count(&key)?;
        if !(2..=LARGEST_KERNEL).contains(&kernel) {
            return Err(settings.error(&key, format!("from 2 to {LARGEST_KERNEL}"), kernel.to_string()));
        }
        if settings.optional_flag("conv_bias")? == Some(true) {
            return Err(settings.error("conv_bias", "false (biases are not built)", "true"));
        }
        Ok(Some(kernel))
    }

    /// Reads the number of key-value heads of all attentions from GGUF metadata, and for each block whether it has none.
    pub(super) fn heads_by_block(
        &self,
        settings: Settings,
        blocks: usize,
    ) -> Result<(Option<usize>, Option<Vec<bool>>), Error> {
        let key = format!("{}.attention.head_count_kv", self.name);
        let Some(counts) = settings.optional_lengths(&key, blocks)? else { return Ok((None, None)) };
        let mut kv_heads = counts.iter().copied().filter(|count| *count > 0);
        let first = kv_heads.next();
        if let Some(other) = kv_heads.find(|count| Some(*count) != first) {
            let expected = "the same number in each block with an attention";
            return Err(settings.error(&key, expected, other.to_string()));
        }
        Ok((first, Some(counts.into_iter().map(|count| count == 0).collect())))
    }

    /// Returns for each block whether it has no attention, from the list of attentions in older settings; `None` if the
    /// settings have no such list.
    pub(super) fn blocks_without_attention(
        &self,
        settings: Settings,
        blocks: usize,
    ) -> Result<Option<Vec<bool>>, Error> {
        if !self.short_convolution {
            return Ok(None);
        }
        let attentions = settings.optional_numbers("full_attn_idxs")?;
        Ok(attentions.map(|all| (0..blocks).map(|block| !all.contains(&(block as f32))).collect()))
    }
}
