//! What `iq4_nl` and `iq4_xs` share: the table of levels, and upstream's search for scales under it.
//!
//! Source: `kvalues_iq4nl`, `best_index_int8`, `quantize_row_iq4_nl_impl` with its seven tries to either side.

use super::fit::Group;
use super::lanes::Lanes;
use super::search;
use crate::Levels;
use std::array::from_fn;

static TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The levels, ascending.
pub(super) const LEVELS: Levels = Levels::Table(&TABLE);

/// The levels as numbers.
pub(super) static VALUES: [f32; 16] = {
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 16 {
        values[code] = TABLE[code] as f32;
        code += 1;
    }
    values
};

/// The nearest code of every half-open interval of length ½ from −128 on: twice the midpoint of two levels is a
/// whole number, so such an interval lies in one code's reach.
static NEAREST: [u8; 512] = {
    let mut nearest = [0; 512];
    let mut at = 0;
    while at < 512 {
        let mut code = 0;
        while code < 15 && TABLE[code] as i32 + TABLE[code + 1] as i32 <= at as i32 - 256 {
            code += 1;
        }
        nearest[at] = code as u8;
        at += 1;
    }
    nearest
};

static NEAREST_VALUES: [f32; 512] = {
    let mut values = [0.0; 512];
    let mut at = 0;
    while at < 512 {
        values[at] = VALUES[NEAREST[at] as usize];
        at += 1;
    }
    values
};

/// The interval of `doubled / 2`, as an index of the tables above; some interval for NaN.
#[inline(always)]
fn interval(doubled: f32) -> usize {
    let x = if doubled < -255.0 { -255.0 } else { doubled };
    let x = if x > 255.0 { 255.0 } else { x };
    let rounded = search::nearest(x);
    let floor = rounded - if rounded > x { 1.0 } else { 0.0 };
    // At 2²³ the last bit of a number counts ones.
    ((floor + (8_388_608.0 + 256.0)).to_bits() & 511) as usize
}

/// The code whose level lies nearest to `x`, the upper one on a tie.
#[inline(always)]
pub(super) fn nearest(x: f32) -> u8 {
    NEAREST[interval(2.0 * x)]
}

/// The level nearest to `doubled / 2` in each lane.
#[inline(always)]
fn levels(doubled: Lanes) -> Lanes {
    doubled.each(|x| NEAREST_VALUES[interval(x)])
}

/// Scales for eight groups of 32: the best of 16 starting scales around the one that makes the extreme the lowest
/// level, each refit by weighted least squares; 0 for a group that counts as zero.
pub(super) fn scales(x: &[Lanes; 32], weights: &[Lanes; 32]) -> Lanes {
    pulp::Arch::new().dispatch(Search { x, weights })
}

/// [`scales`] as a type, so that it is compiled for each instruction set.
struct Search<'a> {
    x: &'a [Lanes; 32],
    weights: &'a [Lanes; 32],
}

impl pulp::NullaryFnOnce for Search<'_> {
    type Output = Lanes;

    #[inline(always)]
    fn call(self) -> Lanes {
        let Self { x, weights } = self;

        const TRIES: i8 = 7;
        let lowest = VALUES[0];
        let extreme = search::extremes(x);
        let (sum_qx, sum_q2) = sums(x, weights, Lanes::all(1.0) / (-extreme / Lanes::all(lowest)));
        let mut scale = sum_q2.greater(Lanes::ZERO).select(sum_qx / sum_q2, Lanes::ZERO);
        let mut best = scale * sum_qx;
        for step in -TRIES..=TRIES {
            let (sum_qx, sum_q2) = sums(x, weights, Lanes::all(f32::from(step) + lowest) / extreme);
            let better = sum_q2.greater(Lanes::ZERO).and((sum_qx * sum_qx).greater(best * sum_q2));
            let refit = sum_qx / sum_q2;
            scale = better.select(refit, scale);
            best = better.select(refit * sum_qx, best);
        }
        search::not_zero(extreme).select(scale, Lanes::ZERO)
    }
}

/// Weighted sums of products of levels and numbers, and of levels' squares. No closure: it has to be inlined at every
/// place, so as to be compiled for the caller's instruction set.
#[inline(always)]
fn sums(x: &[Lanes; 32], weights: &[Lanes; 32], inverse: Lanes) -> (Lanes, Lanes) {
    let inverse = inverse + inverse;
    let (mut sum_qx, mut sum_q2) = (Lanes::ZERO, Lanes::ZERO);
    for j in 0..32 {
        let q = levels(inverse * x[j]);
        let weighted = weights[j] * q;
        sum_qx = sum_qx + weighted * x[j];
        sum_q2 = sum_q2 + weighted * q;
    }
    (sum_qx, sum_q2)
}

/// A scale of one group for a solver.
pub(super) fn fit(group: &Group<32>) -> f32 {
    let starts: [Lanes; 4] = from_fn(|row| match row {
        3 => Lanes(from_fn(|i| VALUES[15] + (3 * i) as f32 - 12.0)),
        row => Lanes(from_fn(|i| VALUES[0] + (2 * (8 * row + i)) as f32 - 24.0)),
    });
    group.scale(&starts, level)
}

/// The level nearest to `x` in each lane.
#[inline(always)]
pub(super) fn level(x: Lanes) -> Lanes {
    levels(x + x)
}
