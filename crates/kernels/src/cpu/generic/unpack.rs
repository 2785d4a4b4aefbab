//! Unpacks the codes of a chunk to bytes and the scales of a chunk to floats, before vectors multiply them.
//! `codes/layout.rs` defines panels, chunks, superblocks, quads, and the symbols d, e, m and s of the scales.

use super::simd::SimdInt8;
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::Panel;
use crate::cpu::prefetch::{prefetch, prefetch_scales};

/// Returns the number of bytes of a chunk's codes, in panels with `V::ROWS` rows.
pub(crate) const fn code_bytes<V: SimdInt8, const CODES: u8>() -> usize {
    CHUNK * code_bits(CODES) / 8 * V::ROWS
}

/// Returns the levels of the table of `layout`, plus [`SimdInt8::BIAS`]; zeros if the layout has no table.
#[inline(always)]
pub(crate) fn level_table<V: SimdInt8>(simd: V, layout: CodeLayout) -> V::Ints {
    let levels = match layout {
        CodeLayout::Table(table) => table.map(|level| (i16::from(level) + V::BIAS) as u8),
        _ => [0; 16],
    };
    simd.level_table(&levels)
}

/// Returns the quads `v` and `v + 4` of a chunk, one byte per column. `v` is below 4. A byte is a code; if the layout
/// stores levels or has a table, a byte is a level plus [`SimdInt8::BIAS`]. If `UNSHIFTED` is true, the 4-bit codes of
/// quad `v + 4` stay in the upper nibbles, so they are sixteen times larger.
///
/// # Safety
/// All bytes of the chunk's codes are readable at `codes`.
#[inline(always)]
pub(crate) unsafe fn quads<V: SimdInt8, const CODES: u8, const UNSHIFTED: bool>(
    simd: V,
    codes: *const u8,
    v: usize,
    table: V::Ints,
) -> (V::Ints, V::Ints) {
    // SAFETY: vector `at` is inside the chunk's codes, and the caller guarantees that these bytes are readable.
    let load = |at: usize| unsafe { simd.load(codes.add(at * 4 * V::ROWS)) };
    if CODES == BYTES {
        // The bias is 0 or 128. The XOR with 128 adds 128 to a signed byte, because it only changes the sign bit.
        let bias = simd.splat(i32::from_ne_bytes([V::BIAS as u8; 4]));
        return (simd.xor(load(v), bias), simd.xor(load(v + 4), bias));
    }
    let (nibbles, fifteen) = (load(v), simd.splat(0x0f0f_0f0f));
    const { assert!(!UNSHIFTED || CODES == FOUR) };
    if UNSHIFTED {
        return (simd.and(nibbles, fifteen), simd.and(nibbles, simd.splat(i32::from_ne_bytes([0xf0; 4]))));
    }
    let (low, upper) = (simd.and(nibbles, fifteen), simd.and(simd.shift_right_16::<4>(nibbles), fifteen));
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

/// Distance, in number of superblocks, at which superblock scales are prefetched.
const PREFETCH_SUPERBLOCKS: usize = 8;

/// The factors by which the sums of a chunk are multiplied, one float for each row of a panel.
pub(crate) struct Factors<V: SimdInt8> {
    /// The float scale of the chunk; 1 if the chunk has only integer scales.
    pub d: V::Floats,
    /// The integer scales of the two halves of the chunk. If there is only one integer scale, it is the first element.
    /// The products of integer scales and sums are below 2²⁴, so floats hold them exactly. Float multiplication is
    /// faster than 32-bit integer multiplication.
    integer_scales: [V::Floats; 2],
    /// The minimum m of [`ScaleLayout::Affine`]. It is multiplied by the sum of the activations.
    pub minimum: V::Floats,
}

impl<V: SimdInt8> Factors<V> {
    /// Returns `total` plus the contribution of a chunk, for one row of activations. If the layout has superblock
    /// scales, `total` is the sum of the current superblock. For [`ScaleLayout::HalfGroups`], `sums` are the sums of
    /// the two halves of the chunk. For the other layouts, the first element of `sums` is the sum of the chunk. `scale`
    /// is the scale of the activations; `scaled_sum` is this scale times the sum of the codes of the activations.
    #[inline(always)]
    pub fn add<const SCALES: u8>(
        &self,
        simd: V,
        total: V::Floats,
        sums: [V::Floats; 2],
        [scale, scaled_sum]: [f32; 2],
    ) -> V::Floats {
        let scale = simd.splat_float(scale);
        match SCALES {
            HALF_GROUPS => {
                let chunk_sum = simd.multiply_add(
                    sums[1],
                    self.integer_scales[1],
                    simd.multiply(sums[0], self.integer_scales[0]),
                );
                simd.multiply_add(chunk_sum, scale, total)
            }
            GROUPS | GROUPS_AFFINE => {
                simd.multiply_add(simd.multiply(sums[0], self.integer_scales[0]), scale, total)
            }
            _ => {
                let total = simd.multiply_add(self.d, simd.multiply(sums[0], scale), total);
                if SCALES == AFFINE {
                    simd.multiply_add(self.minimum, simd.splat_float(scaled_sum), total)
                } else {
                    total
                }
            }
        }
    }
}

/// The scales of a panel. `SCALES` is their layout.
pub(crate) struct Scales<'a, const SCALES: u8>(pub Panel<'a>);

impl<const SCALES: u8> Scales<'_, SCALES> {
    /// Number of bytes of scales per row and chunk.
    const BYTES: usize = scale_layout(SCALES).bytes();
    /// Number of bytes of scales per row and superblock.
    pub const SHARED_BYTES: usize = scale_layout(SCALES).shared_bytes();

    /// Returns the address of the scales of chunk `chunk`.
    #[inline(always)]
    pub fn at<V: SimdInt8>(&self, chunk: usize) -> *const u8 {
        self.0.scales.as_ptr().wrapping_add(chunk * V::ROWS * Self::BYTES)
    }

    /// Prefetches scales of later chunks: they begin at a fixed distance after the scales of chunk `chunk`.
    #[inline(always)]
    pub fn prefetch<V: SimdInt8>(&self, chunk: usize) {
        prefetch_scales(self.at::<V>(chunk), V::ROWS * Self::BYTES);
    }

    /// Loads the factors of chunk `chunk`.
    ///
    /// # Safety
    /// The panel has this chunk.
    #[inline(always)]
    pub unsafe fn load<V: SimdInt8>(&self, simd: V, chunk: usize) -> Factors<V> {
        let scales = self.at::<V>(chunk);
        // SAFETY: the caller guarantees that the panel has this chunk, so all loads are inside the panel's scales.
        unsafe {
            let one = simd.splat_float(1.0);
            let d = match SCALES {
                BLOCK | AFFINE => simd.load_f16(scales),
                POWER => simd.load_bf16(scales),
                _ => one,
            };
            let integer_scales = match SCALES {
                GROUPS_AFFINE => [simd.to_floats(simd.load_u8(scales)), one],
                GROUPS => [simd.to_floats(simd.load_i8(scales)), one],
                HALF_GROUPS => {
                    [simd.to_floats(simd.load_i8(scales)), simd.to_floats(simd.load_i8(scales.add(V::ROWS)))]
                }
                _ => [one; 2],
            };
            let minimum = if SCALES == AFFINE { simd.load_f16(scales.add(2 * V::ROWS)) } else { one };
            Factors { d, integer_scales, minimum }
        }
    }

    /// Finishes superblock `block`. Multiplies `sums` by the scales of the superblock, adds the products to `totals`,
    /// and sets `sums` to zero. For [`ScaleLayout::GroupsAffine`], also adds the contribution of the minima. `sums` and
    /// `totals` have one entry per row of activations. `scaled_sum(chunk, t)` returns the scale of a chunk times the
    /// sum of the chunk's codes, for row `t` of the activations.
    ///
    /// # Safety
    /// The panel has all chunks of this superblock.
    #[inline(always)]
    pub unsafe fn finish_superblock<V: SimdInt8, const T: usize>(
        &self,
        simd: V,
        block: usize,
        sums: &mut [V::Floats; T],
        totals: &mut [V::Floats; T],
        scaled_sum: impl Fn(usize, usize) -> f32,
    ) {
        let superblock_bytes = V::ROWS * Self::SHARED_BYTES;
        // SAFETY: the caller guarantees that the panel has all chunks of this superblock. So the panel has the scales
        // of these chunks and of the superblock.
        unsafe {
            let shared = self.0.shared.as_ptr().add(block * superblock_bytes);
            prefetch::<true>(shared.wrapping_add(PREFETCH_SUPERBLOCKS * superblock_bytes));
            let d = simd.load_f16(shared);
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = simd.multiply_add(d, *sum, *total);
                *sum = simd.splat_float(0.0);
            }
            if SCALES == GROUPS_AFFINE {
                let e = simd.negate(simd.load_f16(shared.add(2 * V::ROWS)));
                let mut minima = [simd.splat_float(0.0); T];
                for chunk in block * SUPERBLOCK_CHUNKS..(block + 1) * SUPERBLOCK_CHUNKS {
                    let minimum = simd.to_floats(simd.load_u8(self.at::<V>(chunk).add(V::ROWS)));
                    for (t, minima) in minima.iter_mut().enumerate() {
                        *minima = simd.multiply_add(minimum, simd.splat_float(scaled_sum(chunk, t)), *minima);
                    }
                }
                for (total, minima) in totals.iter_mut().zip(minima) {
                    *total = simd.multiply_add(e, minima, *total);
                }
            }
        }
    }
}

/// Returns the number of columns that share a scale, for a scale layout.
pub(crate) const fn columns_of_scale(layout: u8) -> usize {
    if layout == HALF_GROUPS { CHUNK / 2 } else { CHUNK }
}

/// The scales of a superblock for every row of a panel.
pub(crate) struct SharedScale<V: SimdInt8> {
    /// The scale d, the factor of the integer scales. Zero if the layout has no superblock scales.
    d: V::Floats,
    /// The negated scale e, the factor of the integer minima. Zero if the layout has no minima.
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

    /// Loads the superblock scales. Returns zeros if the layout has no superblock scales.
    ///
    /// # Safety
    /// If the layout has superblock scales, the scales of all rows of the panel are readable at `shared`.
    #[inline(always)]
    pub unsafe fn load<const SCALES: u8>(simd: V, shared: *const u8) -> Self {
        let mut loaded = Self::zero(simd);
        // SAFETY: the caller guarantees that the superblock scales of all rows are readable at `shared`, if the layout
        // has superblock scales. Only in this case the code loads them.
        unsafe {
            if const { has_shared_scale(SCALES) } {
                loaded.d = simd.load_f16(shared);
            }
            if SCALES == GROUPS_AFFINE {
                loaded.negative_e = simd.negate(simd.load_f16(shared.add(2 * V::ROWS)));
            }
        }
        loaded
    }
}

/// The scale and the minimum of a column for every row of a panel: weight = scale · level + minimum. The scale and the
/// minimum are rounded to `f32` before the scale is multiplied by a level.
pub(crate) struct WeightScale<V: SimdInt8> {
    scale: V::Floats,
    /// Zero if the layout has no minima.
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

    /// Loads the scale and the minimum of a column. `scales` is the address of the column's chunk scales, and `shared`
    /// are the scales of its superblock.
    ///
    /// # Safety
    /// The chunk scales of all rows of the panel are readable at `scales`.
    #[inline(always)]
    pub unsafe fn load<const SCALES: u8>(simd: V, scales: *const u8, shared: &SharedScale<V>) -> Self {
        let zero = simd.splat_float(0.0);
        // SAFETY: the caller guarantees that the chunk scales of all rows are readable at `scales`.
        unsafe {
            let (scale, minimum) = match SCALES {
                BLOCK => (simd.load_f16(scales), zero),
                POWER => (simd.load_bf16(scales), zero),
                AFFINE => (simd.load_f16(scales), simd.load_f16(scales.add(2 * V::ROWS))),
                GROUPS | HALF_GROUPS => (simd.multiply(shared.d, simd.to_floats(simd.load_i8(scales))), zero),
                _ => {
                    let scale = simd.multiply(shared.d, simd.to_floats(simd.load_u8(scales)));
                    let minimum = simd.to_floats(simd.load_u8(scales.add(V::ROWS)));
                    (scale, simd.multiply(shared.negative_e, minimum))
                }
            };
            Self { scale, minimum }
        }
    }

    /// Returns the weights of a column. `level` are the levels of the column, or the codes if the layout has minima.
    #[inline(always)]
    pub fn weight<const SCALES: u8>(self, simd: V, level: V::Floats) -> V::Floats {
        match SCALES {
            AFFINE | GROUPS_AFFINE => simd.multiply_add(self.scale, level, self.minimum),
            _ => simd.multiply(self.scale, level),
        }
    }
}
