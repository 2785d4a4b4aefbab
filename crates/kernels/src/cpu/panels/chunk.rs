//! What a chunk becomes before vectors multiply it: codes are bytes, scales are numbers.

use super::kinds::*;
use super::vector::Vector;
use super::{Coding, Panel, SHARING};

/// Bytes of a chunk's codes, in panels of a vector's rows.
pub(super) const fn code_bytes<V: Vector, const CODING: u8>() -> usize {
    let vector = 4 * V::ROWS;
    match CODING {
        FOUR | TABLE => 4 * vector,
        FIVE => 5 * vector,
        SIX => 6 * vector,
        _ => 8 * vector,
    }
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

/// Quads `v` and `v + 4` of a chunk, a byte for each column: codes, or levels so much higher.
///
/// # Safety
/// The instruction set is there, and so are the bytes of a chunk's codes.
#[inline(always)]
pub(super) unsafe fn quads<V: Vector, const CODING: u8>(
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

/// What the sums of a chunk's products are multiplied by, and what is added beside them: a number for each row.
pub(super) struct Factors<V: Vector> {
    /// Of the whole chunk.
    d: V::Numbers,
    /// Integers of either half, where there are such. Their products with a chunk's sums stay below 2²⁴: numbers hold them
    /// exactly, and multiply faster than integers.
    groups: [V::Numbers; 2],
    /// Of the activations' sum.
    shift: V::Numbers,
}

impl<V: Vector> Factors<V> {
    /// `total` and what a chunk's sums come to with a row of activations, of its scale and that times its codes' sum. The sums
    /// are those of either half where these have scales of their own, else the first is all.
    #[inline(always)]
    pub fn add<const SCHEME: u8>(
        &self,
        total: V::Numbers,
        sums: [V::Numbers; 2],
        [scale, scaled]: [f32; 2],
    ) -> V::Numbers {
        let whole = match SCHEME {
            HALF_GROUPS => V::multiply_add(sums[1], self.groups[1], V::multiply(sums[0], self.groups[0])),
            GROUPS | GROUPS_AFFINE => V::multiply(sums[0], self.groups[0]),
            _ => sums[0],
        };
        let total = V::multiply_add(self.d, V::multiply(whole, V::number(scale)), total);
        match SCHEME {
            AFFINE | GROUPS_AFFINE => V::multiply_add(self.shift, V::number(scaled), total),
            _ => total,
        }
    }
}

/// The scales of a panel, chunk after chunk.
pub(super) struct Scales<'a, V: Vector, const SCHEME: u8> {
    panel: Panel<'a>,
    /// What chunks share.
    d: V::Numbers,
    e: V::Numbers,
}

impl<'a, V: Vector, const SCHEME: u8> Scales<'a, V, SCHEME> {
    #[inline(always)]
    pub fn new(panel: Panel<'a>) -> Self {
        Self { panel, d: V::number(0.0), e: V::number(0.0) }
    }

    /// Of chunk `chunk`; chunks come in order.
    ///
    /// # Safety
    /// The instruction set is there, and so are the panel's bytes of this chunk.
    #[inline(always)]
    pub unsafe fn of(&mut self, chunk: usize) -> Factors<V> {
        let bytes = V::ROWS
            * match SCHEME {
                GROUPS => 1,
                AFFINE => 4,
                _ => 2,
            };
        let shared_bytes = if SCHEME == GROUPS_AFFINE { 4 * V::ROWS } else { 2 * V::ROWS };
        // SAFETY: the caller's, of all below; eight chunks share their bytes.
        unsafe {
            let scales = self.panel.scales.as_ptr().add(chunk * bytes);
            if matches!(SCHEME, GROUPS_AFFINE | GROUPS | HALF_GROUPS) && chunk.is_multiple_of(SHARING) {
                let shared = self.panel.shared.as_ptr().add(chunk / SHARING * shared_bytes);
                self.d = V::halves(shared);
                if SCHEME == GROUPS_AFFINE {
                    self.e = V::halves(shared.add(2 * V::ROWS));
                }
            }
            let d = match SCHEME {
                BLOCK | AFFINE => V::halves(scales),
                POWER => V::upper_halves(scales),
                _ => self.d,
            };
            let groups = match SCHEME {
                GROUPS_AFFINE => [V::numbers(V::unsigned(scales)); 2],
                GROUPS => [V::numbers(V::signed(scales)); 2],
                HALF_GROUPS => [scales, scales.add(V::ROWS)].map(|at| V::numbers(V::signed(at))),
                _ => [V::number(1.0); 2],
            };
            let shift = match SCHEME {
                AFFINE => V::halves(scales.add(2 * V::ROWS)),
                GROUPS_AFFINE => {
                    V::negative(V::multiply(self.e, V::numbers(V::unsigned(scales.add(V::ROWS)))))
                }
                _ => V::number(0.0),
            };
            Factors { d, groups, shift }
        }
    }
}
