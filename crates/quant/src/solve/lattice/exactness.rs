//! What "the same number" means for each type of checkpoint, and how far rounding may have moved one.
//!
//! Invariant: what a judge accepts lies within its slack, and for a type also rounds to the original.

use super::span::Span;
use half::{bf16, f16};
use kvant_core::FormatRef;

/// Decides whether a stored value stands for an original one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// Equal.
    F32,
    /// Equal once rounded to `f16`.
    F16,
    /// Equal once rounded to `bf16`.
    Bf16,
    /// No farther away than half a step of `f16`, for an `f32` lattice whose scale is no `f16`.
    Near,
}

/// How far from a level an original may lie in steps, if the step was read off another original:
/// `relative · level + absolute / step + fixed`.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    pub relative: f32,
    pub absolute: f32,
    pub fixed: f32,
}

/// Of how many steps an `f32` lattice without `f16` scale may be off.
pub(super) const NEAR_TOLERANCE: f32 = 1e-3;

/// How many levels such a lattice has at least: fewer lie on too many lattices.
pub(super) const NEAR_LEVELS: u32 = 3;

/// Bounds the error of the arithmetic here, relative to a level.
pub(super) const ARITHMETIC: f32 = f32::EPSILON * 4.0;

/// Half a step of `f16` below its normal numbers.
const SUBNORMAL: f32 = 1.0 / (1 << 25) as f32;

/// Values are rounded to `f32` before they are rounded to a smaller type.
const TWICE: f32 = 1.0 + 1.0 / 4096.0;

impl Judge {
    /// The judge of a checkpoint of this format.
    pub fn of(from: FormatRef) -> Option<Self> {
        match from.name() {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "bf16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Half a step of the type at `x`, or a little more.
    pub fn slack(self, x: f32) -> f32 {
        let power = f32::from_bits(x.to_bits() & 0x7f80_0000);
        match self {
            Self::F32 => power * (f32::EPSILON / 2.0),
            Self::F16 => (power / 2048.0).max(SUBNORMAL) * TWICE,
            Self::Bf16 => power / 256.0 * TWICE,
            Self::Near => (power / 2048.0).max(SUBNORMAL),
        }
    }

    /// What stands for `x`, or a little more.
    pub fn span(self, x: f32) -> Span {
        let (magnitude, slack) = (f64::from(x.abs()), f64::from(self.slack(x)));
        // Below a power of two steps are half as long.
        let inner =
            if x.to_bits() << 9 == 0 && self != Self::Near { self.slack(x / 2.0).into() } else { slack };
        Span { low: magnitude - inner, high: magnitude + slack }.over(1f64.copysign(x.into()))
    }

    /// Whether `stored` stands for `x`.
    pub fn accepts(self, stored: f32, x: f32) -> bool {
        match self {
            Self::F32 => stored == x,
            Self::F16 => f16::from_f32(stored).to_f32() == x,
            Self::Bf16 => bf16::from_f32(stored).to_f32() == x,
            Self::Near => (stored - x).abs() <= self.slack(x),
        }
    }

    /// How far off a level may seem.
    pub fn tolerance(self) -> Tolerance {
        let (relative, absolute, fixed) = match self {
            Self::F32 | Self::Near => (0.0, 0.0, NEAR_TOLERANCE),
            Self::F16 => (1.0 / 1024.0, 2.0 * SUBNORMAL, 0.0),
            Self::Bf16 => (1.0 / 128.0, 0.0, 0.0),
        };
        Tolerance { relative: relative * TWICE + ARITHMETIC, absolute, fixed }
    }
}

/// The whole number nearest to `t`, without a call; `t` is below 2²² in magnitude.
#[inline(always)]
pub(super) fn nearest(t: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (t + SHIFT) - SHIFT
}
