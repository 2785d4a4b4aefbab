//! The common parts of `iq4_nl` and `iq4_xs`: the table of levels and upstream's scale search.
//!
//! Source: `kvalues_iq4nl`, `best_index_int8`, `quantize_row_iq4_nl_impl` (with `ntry` = 7).

use super::fit::Group;
use super::lanes::Lanes;
use super::search;
use crate::Levels;
use std::array::from_fn;

static TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The levels, in ascending order.
pub(super) const LEVELS: Levels = Levels::Table(&TABLE);

/// The levels as floats.
pub(super) static VALUES: [f32; 16] = {
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 16 {
        values[code] = TABLE[code] as f32;
        code += 1;
    }
    values
};

/// The nearest code for each half-open interval of length ½, from −128 on. Twice the midpoint of two levels is an
/// integer, so all values of such an interval have the same nearest code.
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

/// The levels of [`NEAREST`], as floats.
static NEAREST_VALUES: [f32; 512] = {
    let mut values = [0.0; 512];
    let mut at = 0;
    while at < 512 {
        values[at] = VALUES[NEAREST[at] as usize];
        at += 1;
    }
    values
};

/// Returns the index of the interval of `doubled / 2` in the tables above; for NaN, an arbitrary valid index.
#[inline(always)]
fn interval(doubled: f32) -> usize {
    let x = if doubled < -255.0 { -255.0 } else { doubled };
    let x = if x > 255.0 { 255.0 } else { x };
    let rounded = search::nearest(x);
    let floor = rounded - if rounded > x { 1.0 } else { 0.0 };
    // From 2²³ to 2²⁴, the last bit of the mantissa has the value 1.
    ((floor + (8_388_608.0 + 256.0)).to_bits() & 511) as usize
}

/// Returns the code with the level nearest to `x`, the higher one on a tie.
#[inline(always)]
pub(super) fn nearest(x: f32) -> u8 {
    NEAREST[interval(2.0 * x)]
}

/// Returns the level nearest to `doubled / 2` in each lane.
#[inline(always)]
fn levels(doubled: Lanes) -> Lanes {
    doubled.map(|x| NEAREST_VALUES[interval(x)])
}

/// Searches the scales of eight groups of 32. It tries 16 starting scales around the one that maps the extreme to the
/// lowest level, refits each by weighted least squares, and returns the best. A group that counts as zero gets scale 0.
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

/// Returns the weighted sums of level · value and of level². It has no closures, so that the compiler inlines it and
/// compiles it for the caller's instruction set.
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

/// Fits the scale of one group, for a solver.
pub(super) fn fit(group: &Group<32>) -> f32 {
    let starts: [Lanes; 4] = from_fn(|row| match row {
        3 => Lanes(from_fn(|i| VALUES[15] + (3 * i) as f32 - 12.0)),
        row => Lanes(from_fn(|i| VALUES[0] + (2 * (8 * row + i)) as f32 - 24.0)),
    });
    group.scale(&starts, level)
}

/// Returns the level nearest to `x` in each lane.
#[inline(always)]
pub(super) fn level(x: Lanes) -> Lanes {
    levels(x + x)
}
