//! Gated delta nets in the settings and in the names of tensors: Qwen3-Next and Qwen3.5.
//!
//! A Hugging Face checkpoint has the value heads of each key head one after the other. The GGUF files of Qwen3.5 have the
//! first value head of each key head, then the second ones, and so on. Source: `transformers`' `models/qwen3_next` and
//! `qwen3_5`; llama.cpp's `conversion/qwen.py`.

use super::Family;
use crate::arch::settings::Settings;
use crate::{ConvolutionSlot, DeltaNet, Error, HeadScalars, Norm, Slot, Source, Spec, VectorSlot};
use kvant_io::Value;
use kvant_kernels::{DeltaShape, HeadOrder};

/// The largest number of tokens that a convolution reads: many times that of published models.
pub(super) const LARGEST_KERNEL: usize = 64;

/// The largest width of keys and of values, and the largest state of a sequence in floats. Both are many times those of
/// published models.
const LARGEST_WIDTH: usize = 1 << 20;
const LARGEST_STATE: usize = 1 << 26;

/// The properties in which families with gated delta nets differ.
#[derive(Clone, Copy)]
pub(in crate::arch) struct DeltaNetNames {
    /// The order of the value heads in GGUF files.
    pub order: HeadOrder,
    /// True if a Hugging Face checkpoint has one map for queries, keys, values and gate, and one for strengths and steps,
    /// both grouped by key head.
    pub fused: bool,
}

/// The sizes of gated delta nets.
#[derive(Clone, Copy)]
pub(in crate::arch) struct DeltaNetSizes {
    pub shape: DeltaShape,
    pub kernel: usize,
}

impl DeltaNetSizes {
    fn new(
        settings: Settings,
        order: HeadOrder,
        [key_heads, value_heads, key_size, value_size, kernel]: [usize; 5],
    ) -> Result<Self, Error> {
        if !value_heads.is_multiple_of(key_heads) {
            let expected = format!("a multiple of {key_heads} key heads");
            return Err(settings.error("value heads of delta nets", expected, value_heads.to_string()));
        }
        if kernel > LARGEST_KERNEL {
            let expected = format!("at most {LARGEST_KERNEL}");
            return Err(settings.error("kernel size of convolutions", expected, kernel.to_string()));
        }
        let widths = [(key_heads, key_size), (value_heads, value_size)];
        let bounded = widths.iter().all(|(heads, size)| heads.saturating_mul(*size) <= LARGEST_WIDTH);
        let shape = DeltaShape { key_heads, value_heads, key_size, value_size, order };
        if !bounded || shape.state_length() > LARGEST_STATE {
            let expected =
                format!("at most {LARGEST_WIDTH} keys and values, and {LARGEST_STATE} numbers in a state");
            let found = format!("{key_heads} × {key_size} keys, {value_heads} × {value_size} values");
            return Err(settings.error("heads of delta nets", expected, found));
        }
        Ok(Self { shape, kernel })
    }

    pub fn from_json(settings: Settings, order: HeadOrder) -> Result<Self, Error> {
        let keys = [
            "linear_num_key_heads",
            "linear_num_value_heads",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "linear_conv_kernel_dim",
        ];
        let mut sizes = [0; 5];
        for (size, key) in sizes.iter_mut().zip(keys) {
            *size = settings.count(key)?;
        }
        Self::new(settings, order, sizes)
    }

    pub fn from_gguf(settings: Settings, name: &str, order: HeadOrder) -> Result<Self, Error> {
        let count = |key: &str| settings.count(&format!("{name}.ssm.{key}"));
        let (value_heads, inner) = (count("time_step_rank")?, count("inner_size")?);
        if !inner.is_multiple_of(value_heads) {
            let expected = format!("a multiple of {value_heads} heads");
            return Err(settings.error(&format!("{name}.ssm.inner_size"), expected, inner.to_string()));
        }
        let sizes = [
            count("group_count")?,
            value_heads,
            count("state_size")?,
            inner / value_heads,
            count("conv_kernel")?,
        ];
        Self::new(settings, order, sizes)
    }

    /// The channels of the convolution: queries, keys and values.
    fn channels(&self) -> usize {
        2 * self.shape.keys() + self.shape.values()
    }
}

/// Returns the GGUF entries of a network with gated delta nets, without the family's name.
pub(super) fn to_gguf(spec: &Spec) -> Vec<(&'static str, Value)> {
    let Some(DeltaNet { shape, convolution, .. }) = spec.delta_nets().next() else { return Vec::new() };
    let count = |n: usize| Value::U32(n as u32);
    let recurrent: Vec<bool> = spec.blocks.iter().map(|block| block.delta_nets().next().is_some()).collect();
    let interval = recurrent.iter().position(|recurrent| !recurrent).map_or(recurrent.len(), |at| at + 1);
    vec![
        ("ssm.conv_kernel", count(convolution.kernel)),
        ("ssm.state_size", count(shape.key_size)),
        ("ssm.group_count", count(shape.key_heads)),
        ("ssm.time_step_rank", count(shape.value_heads)),
        ("ssm.inner_size", count(shape.values())),
        ("attention.recurrent_layers", Value::Array(kvant_io::Array::Bool(recurrent))),
        ("full_attention_interval", count(interval)),
    ]
}

impl DeltaNetNames {
    /// Describes the gated delta net of one block. `map` gives a map of the block by name, rows and columns; `norm` gives
    /// a norm by name and length.
    pub fn build(
        &self,
        sizes: &DeltaNetSizes,
        hidden: usize,
        prefix: &str,
        map: impl Fn(&str, usize, usize) -> Slot,
        norm: impl Fn(&str, usize) -> Norm,
    ) -> DeltaNet {
        let shape = sizes.shape;
        let vector = |name: &str| VectorSlot { name: format!("{prefix}.{name}"), length: shape.value_heads };
        DeltaNet {
            shape,
            qkv: map("attn_qkv", sizes.channels(), hidden),
            gate: map("attn_gate", shape.values(), hidden),
            scalars: match self.fused {
                true => HeadScalars::Fused(map("ssm_ba", 2 * shape.value_heads, hidden)),
                false => HeadScalars::Separate {
                    strength: map("ssm_beta", shape.value_heads, hidden),
                    step: map("ssm_alpha", shape.value_heads, hidden),
                },
            },
            convolution: ConvolutionSlot {
                name: format!("{prefix}.ssm_conv1d.weight"),
                channels: sizes.channels(),
                kernel: sizes.kernel,
            },
            decay: vector("ssm_a"),
            step_bias: vector("ssm_dt.bias"),
            norm: norm("ssm_norm", shape.value_size),
            output: map("ssm_out", hidden, shape.values()),
        }
    }

    /// Returns the source of a tensor of a gated delta net in a Hugging Face checkpoint; `None` for other tensors.
    /// `prefix` is the checkpoint's name of the block.
    pub fn source(&self, net: &DeltaNet, prefix: &str, tensor: &str) -> Option<Source> {
        let shape = &net.shape;
        let (keys, values) = (shape.keys(), shape.values());
        let named = |name: &str| format!("{prefix}.linear_attn.{name}");
        let plain = |name: &str| Source::Plain(named(name));
        let f32 = |name: &str| Source::Affine { name: named(name), add: 0.0, factor: 1.0 };
        // The checkpoint's rows of the value heads, which have `size` rows each, in GGUF's order.
        let heads = |first: usize, size: usize| {
            let in_order = (0..shape.value_heads).map(|head| self.checkpoint_head(shape, head));
            in_order.flat_map(move |head| first + head * size..first + (head + 1) * size).collect::<Vec<_>>()
        };
        let with_keys = || (0..2 * keys).chain(heads(2 * keys, shape.value_size)).collect::<Vec<_>>();
        let rows = |of: Source, rows: Vec<usize>, stored: usize| Source::Rows {
            of: of.into(),
            rows,
            stored: vec![stored],
        };
        Some(match tensor {
            "attn_qkv.weight" if self.fused => {
                let parts = [0, 1, 2].map(|part| grouped_rows(shape, part)).concat();
                rows(plain("in_proj_qkvz.weight"), parts, 2 * keys + 2 * values)
            }
            "attn_gate.weight" if self.fused => {
                rows(plain("in_proj_qkvz.weight"), grouped_rows(shape, 3), 2 * keys + 2 * values)
            }
            "ssm_ba.weight" => plain("in_proj_ba.weight"),
            "attn_qkv.weight" => rows(plain("in_proj_qkv.weight"), with_keys(), 2 * keys + values),
            "attn_gate.weight" => rows(plain("in_proj_z.weight"), heads(0, shape.value_size), values),
            "ssm_beta.weight" => rows(plain("in_proj_b.weight"), heads(0, 1), shape.value_heads),
            "ssm_alpha.weight" => rows(plain("in_proj_a.weight"), heads(0, 1), shape.value_heads),
            "ssm_a" => rows(Source::NegativeExponential(named("A_log")), heads(0, 1), shape.value_heads),
            "ssm_dt.bias" => rows(f32("dt_bias"), heads(0, 1), shape.value_heads),
            "ssm_conv1d.weight" => rows(f32("conv1d.weight"), with_keys(), 2 * keys + values),
            "ssm_norm.weight" => plain("norm.weight"),
            "ssm_out.weight" if self.order == HeadOrder::Grouped => plain("out_proj.weight"),
            "ssm_out.weight" => {
                Source::Columns { of: plain("out_proj.weight").into(), columns: heads(0, shape.value_size) }
            }
            _ => return None,
        })
    }

    /// The checkpoint's index of the value head with index `head` in GGUF files.
    fn checkpoint_head(&self, shape: &DeltaShape, head: usize) -> usize {
        match self.order {
            HeadOrder::Grouped => head,
            HeadOrder::Tiled => {
                head % shape.key_heads * (shape.value_heads / shape.key_heads) + head / shape.key_heads
            }
        }
    }
}

/// Returns the rows of one part of a map that has, for each key head, the rows of the query (part 0), of the key (1), of
/// the values (2), and of the gates (3).
fn grouped_rows(shape: &DeltaShape, part: usize) -> Vec<usize> {
    let values = shape.values() / shape.key_heads;
    let lengths = [shape.key_size, shape.key_size, values, values];
    let start: usize = lengths[..part].iter().sum();
    let group: usize = lengths.iter().sum();
    (0..shape.key_heads).flat_map(|head| head * group + start..head * group + start + lengths[part]).collect()
}

impl Family {
    /// Reads the sizes of gated delta nets, if the family has them.
    pub(super) fn delta_net_sizes(&self, settings: Settings) -> Result<Option<DeltaNetSizes>, Error> {
        let Some(DeltaNetNames { order, .. }) = self.delta_net else { return Ok(None) };
        Ok(Some(match settings {
            Settings::Json(..) => DeltaNetSizes::from_json(settings, order)?,
            Settings::Gguf(..) => DeltaNetSizes::from_gguf(settings, self.name, order)?,
        }))
    }
}
