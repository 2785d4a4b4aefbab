//! Equality of values for each type of checkpoint, and the largest change by rounding.
//!
//! Invariant: a value that a judge accepts lies within its [`Judge::half_step`]; for `F16` and `Bf16` it also rounds to
//! the original.

use super::span::Span;
use half::{bf16, f16};
use kvant_core::FormatRef;

/// Decides whether a stored value represents an original value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// Equal.
    F32,
    /// Equal after rounding to `f16`.
    F16,
    /// Equal after rounding to `bf16`.
    Bf16,
    /// At most half an `f16` step away, for an `f32` lattice whose scale is not an `f16` value.
    Near,
}

/// The largest distance of an original value from a level, in steps, if another original value gave the step:
/// `relative · level + absolute / step + fixed`.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    pub relative: f32,
    pub absolute: f32,
    pub fixed: f32,
}

/// The largest distance of a value from a level, in steps, on an `f32` lattice whose scale is not an `f16` value.
pub(super) const NEAR_TOLERANCE: f32 = 1e-3;

/// The minimum number of levels of such a lattice. Fewer levels would lie on too many lattices.
pub(super) const MIN_NEAR_LEVELS: u32 = 3;

/// Upper bound of the rounding errors of these computations, relative to a level.
pub(super) const ROUNDING_ERROR: f32 = f32::EPSILON * 4.0;

/// Half a step of subnormal `f16` values.
const HALF_SUBNORMAL_STEP: f32 = 1.0 / (1 << 25) as f32;

/// Extra tolerance for double rounding: values are rounded to `f32` before they are rounded to a smaller type.
const DOUBLE_ROUNDING: f32 = 1.0 + 1.0 / 4096.0;

impl Judge {
    /// Returns the judge for a checkpoint of this format.
    pub fn of(from: FormatRef) -> Option<Self> {
        match from.name() {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "bf16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Returns half a step of the type at `x`, or slightly more.
    pub fn half_step(self, x: f32) -> f32 {
        let power = f32::from_bits(x.to_bits() & 0x7f80_0000);
        match self {
            Self::F32 => power * (f32::EPSILON / 2.0),
            Self::F16 => (power / 2048.0).max(HALF_SUBNORMAL_STEP) * DOUBLE_ROUNDING,
            Self::Bf16 => power / 256.0 * DOUBLE_ROUNDING,
            Self::Near => (power / 2048.0).max(HALF_SUBNORMAL_STEP),
        }
    }

    /// Returns the values that may represent `x`, or slightly more.
    pub fn span(self, x: f32) -> Span {
        let (magnitude, half_step) = (f64::from(x.abs()), f64::from(self.half_step(x)));
        // Below a power of two, steps are half as long.
        let inner = if x.to_bits() << 9 == 0 && self != Self::Near {
            self.half_step(x / 2.0).into()
        } else {
            half_step
        };
        Span { low: magnitude - inner, high: magnitude + half_step }.divided_by(1f64.copysign(x.into()))
    }

    /// Returns whether `stored` represents `x`.
    pub fn accepts(self, stored: f32, x: f32) -> bool {
        match self {
            Self::F32 => stored == x,
            Self::F16 => f16::from_f32(stored).to_f32() == x,
            Self::Bf16 => bf16::from_f32(stored).to_f32() == x,
            Self::Near => (stored - x).abs() <= self.half_step(x),
        }
    }

    /// Returns the largest distance of a value from a level.
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
    // 1.5 · 2²³.
    const ROUNDER: f32 = 12_582_912.0;
    (t + ROUNDER) - ROUNDER
}
