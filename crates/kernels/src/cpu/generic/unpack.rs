//! Unpacking of a chunk before vectors multiply it: codes become bytes, scales become floats.

use super::simd::SimdInt8;
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::Panel;
use crate::cpu::prefetch::{prefetch, prefetch_scales};

/// Bytes of a chunk's codes, in panels of a vector's rows.
pub(crate) const fn code_bytes<V: SimdInt8, const CODES: u8>() -> usize {
    CHUNK * code_bits(CODES) / 8 * V::ROWS
}

/// The levels of a table of codes, plus [`SimdInt8::BIAS`]; zeros where codes are levels themselves.
#[inline(always)]
pub(crate) fn level_table<V: SimdInt8>(simd: V, layout: CodeLayout) -> V::Ints {
    let levels = match layout {
        CodeLayout::Table(table) => table.map(|level| (i16::from(level) + V::BIAS) as u8),
        _ => [0; 16],
    };
    simd.level_table(&levels)
}

/// Quads `v` and `v + 4` of a chunk, a byte for each column: codes, or levels plus [`SimdInt8::BIAS`]. With `SIXTEENFOLD` the
/// second quad's codes of four bits stay in the upper halves of bytes, sixteen times as large.
///
/// # Safety
/// The bytes of a chunk's codes lie there.
#[inline(always)]
pub(crate) unsafe fn quads<V: SimdInt8, const CODES: u8, const SIXTEENFOLD: bool>(
    simd: V,
    codes: *const u8,
    v: usize,
    table: V::Ints,
) -> (V::Ints, V::Ints) {
    // SAFETY: inside the chunk's codes.
    let load = |at: usize| unsafe { simd.load(codes.add(at * 4 * V::ROWS)) };
    if CODES == BYTES {
        // 128 more is the other sign.
        let bias = simd.splat(i32::from_ne_bytes([V::BIAS as u8; 4]));
        return (simd.xor(load(v), bias), simd.xor(load(v + 4), bias));
    }
    let (both, fifteen) = (load(v), simd.splat(0x0f0f_0f0f));
    const { assert!(!SIXTEENFOLD || CODES == FOUR) };
    if SIXTEENFOLD {
        return (simd.and(both, fifteen), simd.and(both, simd.splat(i32::from_ne_bytes([0xf0; 4]))));
    }
    let (low, upper) = (simd.and(both, fifteen), simd.and(simd.shift_right_16::<4>(both), fifteen));
    match CODES {
        TABLE => (simd.lookup(table, low), simd.lookup(table, upper)),
        FIVE => {
            let (high, bit) = (load(4), simd.splat(0x1010_1010));
            let (a, b) = match v {
                0 => (simd.shift_left_16::<4>(high), high),
                1 => (simd.shift_left_16::<3>(high), simd.shift_right_16::<1>(high)),
                2 => (simd.shift_left_16::<2>(high), simd.shift_right_16::<2>(high)),
                _ => (simd.shift_left_16::<1>(high), simd.shift_right_16::<3>(high)),
            };
            (simd.or(low, simd.and(a, bit)), simd.or(upper, simd.and(b, bit)))
        }
        SIX => {
            let bits = simd.splat(0x3030_3030);
            let shifted = |high: V::Ints| match v {
                0 => simd.shift_left_16::<4>(high),
                1 => simd.shift_left_16::<2>(high),
                2 => high,
                _ => simd.shift_right_16::<2>(high),
            };
            (simd.or(low, simd.and(shifted(load(4)), bits)), simd.or(upper, simd.and(shifted(load(5)), bits)))
        }
        _ => (low, upper),
    }
}

/// How many blocks ahead what eight chunks share is asked for (machine Z, one row: `q4_k` 86 → 89 % of bandwidth, `q5_k` 84 → 91).
const BLOCKS_AHEAD: usize = 8;

/// What the sums of a chunk's products are multiplied by, and what is added beside them: a number for each row.
pub(crate) struct Factors<V: SimdInt8> {
    /// Of the whole chunk, unless eight share one.
    pub d: V::Floats,
    /// Integers of either half, where there are such. Their products with a chunk's sums stay below 2²⁴: numbers hold them
    /// exactly, and multiply faster than integers.
    groups: [V::Floats; 2],
    /// Of the activations' sum.
    pub shift: V::Floats,
}

impl<V: SimdInt8> Factors<V> {
    /// `total`, which is that of eight chunks where these share a scale, and what a chunk's sums come to with a row of
    /// activations, of its scale and that times its codes' sum. The sums are those of either half where these have scales
    /// of their own, else the first is all.
    #[inline(always)]
    pub fn add<const SCALES: u8>(
        &self,
        simd: V,
        total: V::Floats,
        sums: [V::Floats; 2],
        [scale, scaled]: [f32; 2],
    ) -> V::Floats {
        let scale = simd.splat_float(scale);
        match SCALES {
            HALF_GROUPS => {
                let whole =
                    simd.multiply_add(sums[1], self.groups[1], simd.multiply(sums[0], self.groups[0]));
                simd.multiply_add(whole, scale, total)
            }
            GROUPS | GROUPS_AFFINE => simd.multiply_add(simd.multiply(sums[0], self.groups[0]), scale, total),
            _ => {
                let total = simd.multiply_add(self.d, simd.multiply(sums[0], scale), total);
                if SCALES == AFFINE {
                    simd.multiply_add(self.shift, simd.splat_float(scaled), total)
                } else {
                    total
                }
            }
        }
    }
}

/// The scales of a panel.
pub(crate) struct Scales<'a, const SCALES: u8>(pub Panel<'a>);

impl<const SCALES: u8> Scales<'_, SCALES> {
    /// Bytes of a row and chunk.
    const BYTES: usize = scale_layout(SCALES).bytes();
    /// Bytes of a row that eight chunks share.
    pub const SHARED_BYTES: usize = scale_layout(SCALES).shared_bytes();

    /// Where those of chunk `chunk` begin.
    #[inline(always)]
    pub fn at<V: SimdInt8>(&self, chunk: usize) -> *const u8 {
        self.0.scales.as_ptr().wrapping_add(chunk * V::ROWS * Self::BYTES)
    }

    /// Prefetches the scales that follow chunk `chunk`.
    #[inline(always)]
    pub fn prefetch<V: SimdInt8>(&self, chunk: usize) {
        prefetch_scales(self.at::<V>(chunk), V::ROWS * Self::BYTES);
    }

    /// Of chunk `chunk`.
    ///
    /// # Safety
    /// There are the panel's bytes of this chunk.
    #[inline(always)]
    pub unsafe fn of<V: SimdInt8>(&self, simd: V, chunk: usize) -> Factors<V> {
        let scales = self.at::<V>(chunk);
        // SAFETY: the caller's promise.
        unsafe {
            let one = simd.splat_float(1.0);
            let d = match SCALES {
                BLOCK | AFFINE => simd.load_f16(scales),
                POWER => simd.load_bf16(scales),
                _ => one,
            };
            let groups = match SCALES {
                GROUPS_AFFINE => [simd.to_floats(simd.load_u8(scales)), one],
                GROUPS => [simd.to_floats(simd.load_i8(scales)), one],
                HALF_GROUPS => [scales, scales.add(V::ROWS)].map(|at| simd.to_floats(simd.load_i8(at))),
                _ => [one; 2],
            };
            let shift = if SCALES == AFFINE { simd.load_f16(scales.add(2 * V::ROWS)) } else { one };
            Factors { d, groups, shift }
        }
    }

    /// Where eight chunks share a scale: adds to rows' totals what those of block `block` have come to, which begins anew.
    /// `scaled` says a chunk's scale times the sum of its codes, of row `t` of activations.
    ///
    /// # Safety
    /// As of all of these chunks.
    #[inline(always)]
    pub unsafe fn close<V: SimdInt8, const T: usize>(
        &self,
        simd: V,
        block: usize,
        sums: &mut [V::Floats; T],
        totals: &mut [V::Floats; T],
        scaled: impl Fn(usize, usize) -> f32,
    ) {
        let each = V::ROWS * Self::SHARED_BYTES;
        // SAFETY: the caller's promise.
        unsafe {
            let shared = self.0.shared.as_ptr().add(block * each);
            prefetch::<true>(shared.wrapping_add(BLOCKS_AHEAD * each));
            let d = simd.load_f16(shared);
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = simd.multiply_add(d, *sum, *total);
                *sum = simd.splat_float(0.0);
            }
            if SCALES == GROUPS_AFFINE {
                let e = simd.negate(simd.load_f16(shared.add(2 * V::ROWS)));
                let mut least = [simd.splat_float(0.0); T];
                for chunk in block * SHARING..(block + 1) * SHARING {
                    let minimum = simd.to_floats(simd.load_u8(self.at::<V>(chunk).add(V::ROWS)));
                    for (t, least) in least.iter_mut().enumerate() {
                        *least = simd.multiply_add(minimum, simd.splat_float(scaled(chunk, t)), *least);
                    }
                }
                for (total, least) in totals.iter_mut().zip(least) {
                    *total = simd.multiply_add(e, least, *total);
                }
            }
        }
    }
}

/// Columns that have one scale.
pub(crate) const fn columns_of_scale(layout: u8) -> usize {
    if layout == HALF_GROUPS { CHUNK / 2 } else { CHUNK }
}

/// The scales that eight chunks share, for every row of a panel: `d` of their scales, and `e` of their minima, negated.
pub(crate) struct SharedScale<V: SimdInt8> {
    d: V::Floats,
    /// Nothing where a scheme has no minima.
    negative_e: V::Floats,
}

impl<V: SimdInt8> Clone for SharedScale<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: SimdInt8> Copy for SharedScale<V> {}

impl<V: SimdInt8> SharedScale<V> {
    #[inline(always)]
    pub fn zero(simd: V) -> Self {
        Self { d: simd.splat_float(0.0), negative_e: simd.splat_float(0.0) }
    }

    /// Nothing where a scheme shares none.
    ///
    /// # Safety
    /// There are the panel's shared scales if the scheme has such.
    #[inline(always)]
    pub unsafe fn of<const SCALES: u8>(simd: V, shared: *const u8) -> Self {
        let mut of = Self::zero(simd);
        // SAFETY: the caller's promise.
        unsafe {
            if const { shares(SCALES) } {
                of.d = simd.load_f16(shared);
            }
            if SCALES == GROUPS_AFFINE {
                of.negative_e = simd.negate(simd.load_f16(shared.add(2 * V::ROWS)));
            }
        }
        of
    }
}

/// A column's scale and minimum, for every row of a panel: weight = scale · level + minimum.
/// Scale and minimum are rounded to `f32` before a level is multiplied.
pub(crate) struct WeightScale<V: SimdInt8> {
    scale: V::Floats,
    /// Nothing where a scheme has none.
    minimum: V::Floats,
}

impl<V: SimdInt8> Clone for WeightScale<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: SimdInt8> Copy for WeightScale<V> {}

impl<V: SimdInt8> WeightScale<V> {
    #[inline(always)]
    pub fn zero(simd: V) -> Self {
        Self { scale: simd.splat_float(0.0), minimum: simd.splat_float(0.0) }
    }

    /// From a column's scales in a panel, and what its eight chunks share.
    ///
    /// # Safety
    /// There are the scales.
    #[inline(always)]
    pub unsafe fn of<const SCALES: u8>(simd: V, scales: *const u8, shared: &SharedScale<V>) -> Self {
        let none = simd.splat_float(0.0);
        // SAFETY: the caller's promise.
        unsafe {
            let (scale, minimum) = match SCALES {
                BLOCK => (simd.load_f16(scales), none),
                POWER => (simd.load_bf16(scales), none),
                AFFINE => (simd.load_f16(scales), simd.load_f16(scales.add(2 * V::ROWS))),
                GROUPS | HALF_GROUPS => (simd.multiply(shared.d, simd.to_floats(simd.load_i8(scales))), none),
                _ => {
                    let scale = simd.multiply(shared.d, simd.to_floats(simd.load_u8(scales)));
                    let minimum = simd.to_floats(simd.load_u8(scales.add(V::ROWS)));
                    (scale, simd.multiply(shared.negative_e, minimum))
                }
            };
            Self { scale, minimum }
        }
    }

    #[inline(always)]
    pub fn weight<const SCALES: u8>(self, simd: V, level: V::Floats) -> V::Floats {
        match SCALES {
            AFFINE | GROUPS_AFFINE => simd.multiply_add(self.scale, level, self.minimum),
            _ => simd.multiply(self.scale, level),
        }
    }
}
