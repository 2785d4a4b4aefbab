//! Equality of values for each type of checkpoint, and the largest change by rounding.
//!
//! Invariant: if a judge accepts a value, the value is at most [`Judge::half_step`] away from the original. A value
//! that `F16` or `Bf16` accepts also rounds to the original.

use super::span::Span;
use half::{bf16, f16};
use kvant_core::FormatRef;

/// Decides if a stored value represents an original value of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// The values are equal.
    F32,
    /// The values are equal after the stored value is rounded to `f16`.
    F16,
    /// The values are equal after the stored value is rounded to `bf16`.
    Bf16,
    /// The values differ by at most half an `f16` step. This judge is for an `f32` lattice whose scale is not an `f16`
    /// value.
    Near,
}

/// The largest distance of an original value from a level, if the step comes from another original value. The distance
/// is in steps: `relative · level + absolute / step + fixed`.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    /// A share of the level.
    pub relative: f32,
    /// A distance in units of the original values.
    pub absolute: f32,
    /// A distance in steps.
    pub fixed: f32,
}

/// The largest distance of a value from a level, in steps, on an `f32` lattice whose scale is not an `f16` value.
pub(super) const NEAR_TOLERANCE: f32 = 1e-3;

/// The minimum number of distinct levels on such an `f32` lattice. Values on fewer levels would be on too many
/// lattices.
pub(super) const MIN_NEAR_LEVELS: u32 = 3;

/// Upper bound of the rounding errors of these computations, relative to a level.
pub(super) const ROUNDING_ERROR: f32 = f32::EPSILON * 4.0;

/// Half the distance of two adjacent subnormal `f16` values: 2⁻²⁵.
const HALF_SUBNORMAL_STEP: f32 = 1.0 / (1 << 25) as f32;

/// Factor for double rounding: values are rounded to `f32` before they are rounded to a smaller type.
const DOUBLE_ROUNDING: f32 = 1.0 + 1.0 / 4096.0;

impl Judge {
    /// Returns the judge for a checkpoint of this format, or `None` for a format that is not a float type.
    pub fn of(from: FormatRef) -> Option<Self> {
        match from.name() {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "bf16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Returns half the distance of two adjacent values of the type at `x`, or slightly more.
    pub fn half_step(self, x: f32) -> f32 {
        let power = f32::from_bits(x.to_bits() & 0x7f80_0000);
        match self {
            Self::F32 => power * (f32::EPSILON / 2.0),
            Self::F16 => (power / 2048.0).max(HALF_SUBNORMAL_STEP) * DOUBLE_ROUNDING,
            Self::Bf16 => power / 256.0 * DOUBLE_ROUNDING,
            Self::Near => (power / 2048.0).max(HALF_SUBNORMAL_STEP),
        }
    }

    /// Returns a span that contains all values that may represent `x`. It may be slightly larger.
    pub fn span(self, x: f32) -> Span {
        let (magnitude, half_step) = (f64::from(x.abs()), f64::from(self.half_step(x)));
        // If `x` is a power of two, the adjacent values toward zero have half the distance.
        let inner = if x.to_bits() << 9 == 0 && self != Self::Near {
            self.half_step(x / 2.0).into()
        } else {
            half_step
        };
        Span { low: magnitude - inner, high: magnitude + half_step }.divided_by(1f64.copysign(x.into()))
    }

    /// Returns true if `stored` represents `x`.
    pub fn accepts(self, stored: f32, x: f32) -> bool {
        match self {
            Self::F32 => stored == x,
            Self::F16 => f16::from_f32(stored).to_f32() == x,
            Self::Bf16 => bf16::from_f32(stored).to_f32() == x,
            Self::Near => (stored - x).abs() <= self.half_step(x),
        }
    }

    /// Returns the largest distance of an original value from a level.
    pub fn tolerance(self) -> Tolerance {
        let (relative, absolute, fixed) = match self {
            Self::F32 | Self::Near => (0.0, 0.0, NEAR_TOLERANCE),
            Self::F16 => (1.0 / 1024.0, 2.0 * HALF_SUBNORMAL_STEP, 0.0),
            Self::Bf16 => (1.0 / 128.0, 0.0, 0.0),
        };
        Tolerance { relative: relative * DOUBLE_ROUNDING + ROUNDING_ERROR, absolute, fixed }
    }
}

/// Returns the integer nearest to `t`, without a function call. The magnitude of `t` must be below 2²².
#[inline(always)]
pub(super) fn nearest(t: f32) -> f32 {
    // This constant is 1.5 · 2²³.
    const ROUNDER: f32 = 12_582_912.0;
    (t + ROUNDER) - ROUNDER
}
