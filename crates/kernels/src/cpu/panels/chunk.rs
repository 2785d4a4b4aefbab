//! What a chunk becomes before vectors multiply it: codes are bytes, scales are numbers.

use super::kinds::*;
use super::vector::Vector;
use super::{CHUNK, Coding, Panel, SHARING};
use crate::cpu::{ask_ahead_for_scales, prefetch};

/// Bytes of a chunk's codes, in panels of a vector's rows.
pub(super) const fn code_bytes<V: Vector, const CODING: u8>() -> usize {
    CHUNK * code_bits(CODING) / 8 * V::ROWS
}

/// The levels that codes stand for, so much higher; nothing where codes are levels themselves.
#[inline(always)]
pub(super) fn table<V: Vector>(coding: Coding) -> V::Integers {
    let levels = match coding {
        Coding::Table(table) => table.map(|level| (i16::from(level) + V::RAISE) as u8),
        _ => [0; 16],
    };
    V::table(&levels)
}

/// Quads `v` and `v + 4` of a chunk, a byte for each column: codes, or levels so much higher. Of four bits the latter may
/// stay sixteen times as large.
///
/// # Safety
/// The instruction set is there, and so are the bytes of a chunk's codes.
#[inline(always)]
pub(super) unsafe fn quads<V: Vector, const CODING: u8, const SIXTEENFOLD: bool>(
    codes: *const u8,
    v: usize,
    table: V::Integers,
) -> (V::Integers, V::Integers) {
    // SAFETY: inside the chunk's codes.
    let load = |at: usize| unsafe { V::load(codes.add(at * 4 * V::ROWS)) };
    if CODING == BYTES {
        // 128 higher is the other sign.
        let raise = V::splat(i32::from_ne_bytes([V::RAISE as u8; 4]));
        return (V::xor(load(v), raise), V::xor(load(v + 4), raise));
    }
    let (both, fifteen) = (load(v), V::splat(0x0f0f_0f0f));
    const { assert!(!SIXTEENFOLD || CODING == FOUR) };
    if SIXTEENFOLD {
        return (V::and(both, fifteen), V::and(both, V::splat(i32::from_ne_bytes([0xf0; 4]))));
    }
    let (low, upper) = (V::and(both, fifteen), V::and(V::right::<4>(both), fifteen));
    match CODING {
        TABLE => (V::lookup(table, low), V::lookup(table, upper)),
        FIVE => {
            let (high, bit) = (load(4), V::splat(0x1010_1010));
            let (a, b) = match v {
                0 => (V::left::<4>(high), high),
                1 => (V::left::<3>(high), V::right::<1>(high)),
                2 => (V::left::<2>(high), V::right::<2>(high)),
                _ => (V::left::<1>(high), V::right::<3>(high)),
            };
            (V::or(low, V::and(a, bit)), V::or(upper, V::and(b, bit)))
        }
        SIX => {
            let bits = V::splat(0x3030_3030);
            let shifted = |high: V::Integers| match v {
                0 => V::left::<4>(high),
                1 => V::left::<2>(high),
                2 => high,
                _ => V::right::<2>(high),
            };
            (V::or(low, V::and(shifted(load(4)), bits)), V::or(upper, V::and(shifted(load(5)), bits)))
        }
        _ => (low, upper),
    }
}

/// How many blocks ahead what eight chunks share is asked for (machine Z, one row: `q4_k` 86 → 89 % of bandwidth, `q5_k` 84 → 91).
const BLOCKS_AHEAD: usize = 8;

/// What the sums of a chunk's products are multiplied by, and what is added beside them: a number for each row.
pub(super) struct Factors<V: Vector> {
    /// Of the whole chunk, unless eight share one.
    pub d: V::Numbers,
    /// Integers of either half, where there are such. Their products with a chunk's sums stay below 2²⁴: numbers hold them
    /// exactly, and multiply faster than integers.
    groups: [V::Numbers; 2],
    /// Of the activations' sum.
    pub shift: V::Numbers,
}

impl<V: Vector> Factors<V> {
    /// `total`, which is that of eight chunks where these share a scale, and what a chunk's sums come to with a row of
    /// activations, of its scale and that times its codes' sum. The sums are those of either half where these have scales
    /// of their own, else the first is all.
    #[inline(always)]
    pub fn add<const SCHEME: u8>(
        &self,
        total: V::Numbers,
        sums: [V::Numbers; 2],
        [scale, scaled]: [f32; 2],
    ) -> V::Numbers {
        let scale = V::number(scale);
        match SCHEME {
            HALF_GROUPS => {
                let whole = V::multiply_add(sums[1], self.groups[1], V::multiply(sums[0], self.groups[0]));
                V::multiply_add(whole, scale, total)
            }
            GROUPS | GROUPS_AFFINE => V::multiply_add(V::multiply(sums[0], self.groups[0]), scale, total),
            _ => {
                let total = V::multiply_add(self.d, V::multiply(sums[0], scale), total);
                if SCHEME == AFFINE { V::multiply_add(self.shift, V::number(scaled), total) } else { total }
            }
        }
    }
}

/// The scales of a panel.
pub(super) struct Scales<'a, const SCHEME: u8>(pub Panel<'a>);

impl<const SCHEME: u8> Scales<'_, SCHEME> {
    /// Bytes of a row and chunk.
    const BYTES: usize = scheme(SCHEME).bytes();
    /// Bytes of a row that eight chunks share.
    pub const SHARED_BYTES: usize = scheme(SCHEME).shared_bytes();

    /// Where those of chunk `chunk` begin.
    #[inline(always)]
    pub fn at<V: Vector>(&self, chunk: usize) -> *const u8 {
        self.0.scales.as_ptr().wrapping_add(chunk * V::ROWS * Self::BYTES)
    }

    /// Asks for those that come after chunk `chunk`.
    #[inline(always)]
    pub fn ask_ahead<V: Vector>(&self, chunk: usize) {
        ask_ahead_for_scales(self.at::<V>(chunk), V::ROWS * Self::BYTES);
    }

    /// Of chunk `chunk`.
    ///
    /// # Safety
    /// The instruction set is there, and so are the panel's bytes of this chunk.
    #[inline(always)]
    pub unsafe fn of<V: Vector>(&self, chunk: usize) -> Factors<V> {
        let scales = self.at::<V>(chunk);
        // SAFETY: the caller's, of all below.
        unsafe {
            let one = V::number(1.0);
            let d = match SCHEME {
                BLOCK | AFFINE => V::halves(scales),
                POWER => V::upper_halves(scales),
                _ => one,
            };
            let groups = match SCHEME {
                GROUPS_AFFINE => [V::numbers(V::unsigned(scales)), one],
                GROUPS => [V::numbers(V::signed(scales)), one],
                HALF_GROUPS => [scales, scales.add(V::ROWS)].map(|at| V::numbers(V::signed(at))),
                _ => [one; 2],
            };
            let shift = if SCHEME == AFFINE { V::halves(scales.add(2 * V::ROWS)) } else { one };
            Factors { d, groups, shift }
        }
    }

    /// Where eight chunks share a scale: adds to rows' totals what those of block `block` have come to, which begins anew.
    /// `scaled` says a chunk's scale times the sum of its codes, of row `t` of activations.
    ///
    /// # Safety
    /// As of all of these chunks.
    #[inline(always)]
    pub unsafe fn close<V: Vector, const T: usize>(
        &self,
        block: usize,
        sums: &mut [V::Numbers; T],
        totals: &mut [V::Numbers; T],
        scaled: impl Fn(usize, usize) -> f32,
    ) {
        let each = V::ROWS * Self::SHARED_BYTES;
        // SAFETY: the caller's.
        unsafe {
            let shared = self.0.shared.as_ptr().add(block * each);
            prefetch::<true>(shared.wrapping_add(BLOCKS_AHEAD * each));
            let d = V::halves(shared);
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = V::multiply_add(d, *sum, *total);
                *sum = V::number(0.0);
            }
            if SCHEME == GROUPS_AFFINE {
                let e = V::negative(V::halves(shared.add(2 * V::ROWS)));
                let mut least = [V::number(0.0); T];
                for chunk in block * SHARING..(block + 1) * SHARING {
                    let minimum = V::numbers(V::unsigned(self.at::<V>(chunk).add(V::ROWS)));
                    for (t, least) in least.iter_mut().enumerate() {
                        *least = V::multiply_add(minimum, V::number(scaled(chunk, t)), *least);
                    }
                }
                for (total, least) in totals.iter_mut().zip(least) {
                    *total = V::multiply_add(e, least, *total);
                }
            }
        }
    }
}

/// Columns that have one scale.
pub(super) const fn columns_of_scale(scheme: u8) -> usize {
    if scheme == HALF_GROUPS { CHUNK / 2 } else { CHUNK }
}

/// The scales that eight chunks share, for every row of a panel: `d` of their scales, and `e` of their minima, negated.
pub(super) struct SharedScale<V: Vector> {
    d: V::Numbers,
    /// Nothing where a scheme has no minima.
    negative_e: V::Numbers,
}

impl<V: Vector> Clone for SharedScale<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: Vector> Copy for SharedScale<V> {}

impl<V: Vector> SharedScale<V> {
    #[inline(always)]
    pub fn zero() -> Self {
        Self { d: V::number(0.0), negative_e: V::number(0.0) }
    }

    /// Nothing where a scheme shares none.
    ///
    /// # Safety
    /// The instruction set is there, and so are the panel's shared scales if the scheme has such.
    #[inline(always)]
    pub unsafe fn of<const SCHEME: u8>(shared: *const u8) -> Self {
        let mut of = Self::zero();
        // SAFETY: the caller's.
        unsafe {
            if const { shares(SCHEME) } {
                of.d = V::halves(shared);
            }
            if SCHEME == GROUPS_AFFINE {
                of.negative_e = V::negative(V::halves(shared.add(2 * V::ROWS)));
            }
        }
        of
    }
}

/// A column's scale and minimum, for every row of a panel: weight = scale · level + minimum.
/// Scale and minimum are rounded to `f32` before a level is multiplied.
pub(super) struct WeightScale<V: Vector> {
    scale: V::Numbers,
    /// Nothing where a scheme has none.
    minimum: V::Numbers,
}

impl<V: Vector> Clone for WeightScale<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: Vector> Copy for WeightScale<V> {}

impl<V: Vector> WeightScale<V> {
    #[inline(always)]
    pub fn zero() -> Self {
        Self { scale: V::number(0.0), minimum: V::number(0.0) }
    }

    /// From a column's scales in a panel, and what its eight chunks share.
    ///
    /// # Safety
    /// The instruction set is there, and so are the scales.
    #[inline(always)]
    pub unsafe fn of<const SCHEME: u8>(scales: *const u8, shared: &SharedScale<V>) -> Self {
        let none = V::number(0.0);
        // SAFETY: the caller's.
        unsafe {
            let (scale, minimum) = match SCHEME {
                BLOCK => (V::halves(scales), none),
                POWER => (V::upper_halves(scales), none),
                AFFINE => (V::halves(scales), V::halves(scales.add(2 * V::ROWS))),
                GROUPS | HALF_GROUPS => (V::multiply(shared.d, V::numbers(V::signed(scales))), none),
                _ => {
                    let scale = V::multiply(shared.d, V::numbers(V::unsigned(scales)));
                    let minimum = V::numbers(V::unsigned(scales.add(V::ROWS)));
                    (scale, V::multiply(shared.negative_e, minimum))
                }
            };
            Self { scale, minimum }
        }
    }

    #[inline(always)]
    pub fn weight<const SCHEME: u8>(self, level: V::Numbers) -> V::Numbers {
        match SCHEME {
            AFFINE | GROUPS_AFFINE => V::multiply_add(self.scale, level, self.minimum),
            _ => V::multiply(self.scale, level),
        }
    }
}
