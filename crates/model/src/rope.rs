//! Rotary position embedding: the frequency of each pair, with the scalings of the Llama family.
//!
//! Source: RoFormer (arXiv 2104.09864) §3.2; position interpolation (2306.15595); YaRN (2309.00071) §3;
//! LongRoPE (2402.13753); Llama 3.1's per-frequency factors as in `transformers`' `modeling_rope_utils.py`; GGUF stores
//! the same factors in `rope_freqs.weight`. Dynamic scaling changes nothing within the trained context, and kvant does not go beyond that
//! context. It is therefore read as no scaling.

use crate::weights::{LONG_ROPE_FACTORS, ROPE_FACTORS, SHORT_ROPE_FACTORS};
use kvant_kernels::ops::RopeLayout;
use std::f64::consts::PI;

/// The divisor of the frequency of a pair that is not rotated. llama.cpp's converter writes the same number.
const NO_ROTATION: f32 = 1e30;

/// The method of context extension.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    None,
    /// Linear interpolation: each position is divided by this factor.
    Linear(f32),
    /// Each pair's frequency is divided by its own factor; there are `rotated / 2` factors.
    Factors(Vec<f32>),
    /// YaRN: high frequencies do not change, low frequencies are divided, with a linear ramp between.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Context length before the extension.
        original_context: usize,
        /// A frequency with more rotations than this in the original context does not change.
        beta_fast: f32,
        /// A frequency with fewer rotations than this in the original context is divided by `factor`.
        beta_slow: f32,
        /// True if the ends of the ramp are rounded to whole pairs.
        rounded: bool,
        /// Factor of the sines and cosines.
        attention_factor: f32,
    },
    /// LongRoPE: like `Factors`, with one list of factors for sequences within the original context length and one for
    /// longer sequences. The capacity of a sequence decides, because keys that are stored cannot be rotated again.
    Long {
        /// Factors within the original context length.
        short: Vec<f32>,
        /// Factors beyond the original context length.
        long: Vec<f32>,
        /// Context length before the extension.
        original_context: usize,
        /// Factor of the sines and cosines.
        attention_factor: f32,
    },
}

impl RopeScaling {
    /// The lists of factors, which a GGUF stores as tensors, with the names of these tensors.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, &[f32])> {
        match self {
            Self::Factors(factors) => vec![(ROPE_FACTORS, factors)],
            Self::Long { short, long, .. } => vec![(LONG_ROPE_FACTORS, long), (SHORT_ROPE_FACTORS, short)],
            Self::None | Self::Linear(_) | Self::Yarn { .. } => Vec::new(),
        }
    }
}

/// Rotary position embedding of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// The number of leading elements of a head that are rotated, in pairs.
    pub rotated: usize,
    /// The layout: which elements form a pair.
    pub layout: RopeLayout,
    /// The method of context extension.
    pub scaling: RopeScaling,
}

impl Rope {
    /// Returns the frequency of each pair, in radians per position, and the factor of the sines and cosines, for a
    /// sequence of at most `capacity` positions.
    pub fn frequencies(&self, capacity: usize) -> (Vec<f32>, f32) {
        let half = self.rotated / 2;
        let base: Vec<f64> =
            (0..half).map(|i| f64::from(self.theta).powf(-2.0 * i as f64 / self.rotated as f64)).collect();
        let divided = |base: &[f64], factors: &[f32]| -> Vec<f64> {
            base.iter().zip(factors).map(|(f, &k)| f / f64::from(k)).collect()
        };
        let as_f32 = |x: Vec<f64>| x.into_iter().map(|f| f as f32).collect();
        match &self.scaling {
            RopeScaling::None => (as_f32(base), 1.0),
            RopeScaling::Linear(factor) => {
                (as_f32(base.iter().map(|f| f / f64::from(*factor)).collect()), 1.0)
            }
            RopeScaling::Factors(factors) => (as_f32(divided(&base, factors)), 1.0),
            RopeScaling::Long { short, long, original_context, attention_factor } => {
                let factors = if capacity > *original_context { long } else { short };
                (as_f32(divided(&base, factors)), *attention_factor)
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                rounded,
                attention_factor,
            } => {
                let pair_of = |rotations: f32| {
                    let period = *original_context as f64 / (f64::from(rotations) * 2.0 * PI);
                    self.rotated as f64 * period.ln() / (2.0 * f64::from(self.theta).ln())
                };
                let (mut low, mut high) = (pair_of(*beta_fast), pair_of(*beta_slow));
                if *rounded {
                    (low, high) = (low.floor(), high.ceil());
                }
                let low = low.max(0.0);
                high = high.min(self.rotated as f64 - 1.0);
                if high <= low {
                    high = low + 0.001;
                }
                let stretched = base.iter().enumerate().map(|(i, f)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / f64::from(*factor) * ramp + f * (1.0 - ramp)
                });
                (as_f32(stretched.collect()), *attention_factor)
            }
        }
    }

    /// Computes the frequency divisors of a head in which only the pairs of the first `rotated` elements of each half are
    /// rotated: Gemma 4's proportional rope. The other pairs get a divisor that leaves no angle.
    pub fn proportional_factors(head_size: usize, rotated: usize, factor: f32) -> Vec<f32> {
        (0..head_size / 2).map(|pair| if pair < rotated / 2 { factor } else { NO_ROTATION }).collect()
    }

    /// Computes Llama 3.1's frequency divisor of each pair. `low` and `high` are `low_freq_factor` and
    /// `high_freq_factor`; `context` is the original context length.
    pub fn llama3_factors(
        theta: f32,
        rotated: usize,
        factor: f32,
        low: f32,
        high: f32,
        context: usize,
    ) -> Vec<f32> {
        let (factor, low, high, context) =
            (f64::from(factor), f64::from(low), f64::from(high), context as f64);
        (0..rotated / 2)
            .map(|i| {
                let wavelength = 2.0 * PI * f64::from(theta).powf(2.0 * i as f64 / rotated as f64);
                if wavelength < context / high {
                    1.0
                } else if wavelength > context / low {
                    factor as f32
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
                }
            })
            .collect()
    }
}
