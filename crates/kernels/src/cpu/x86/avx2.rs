//! The loops over floats for x86-64 with AVX2, FMA and F16C.

use crate::cpu::codes::{activations, outliers};
use crate::cpu::generic::float_tile::{self, BF16, F16, F32, FloatType, ROWS, Tile, column_bytes};
use crate::cpu::generic::lanes::Lanes;
use crate::cpu::generic::recurrent::{TILE, TileToken};
use crate::cpu::generic::{attention_kernel, loops, recurrent};
use crate::cpu::multiversion::multiversion;
use crate::cpu::prefetch::prefetch_codes;
use crate::view::View;
use std::arch::x86_64::*;

multiversion!("avx2,fma,f16c", Vectors);

/// Two vectors of eight floats. A value proves that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
struct Vectors(());

impl Vectors {
    /// Returns a value that proves that the processor has the instruction set.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }
}

impl Lanes for Vectors {
    type Vector = [__m256; 2];
    const FUSED: bool = true;
    const MAX_ROWS: usize = 4;
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn zero(self) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [unsafe { _mm256_setzero_ps() }; 2]
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }

    #[inline(always)]
    fn load_array(self, floats: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { [_mm256_loadu_ps(floats.as_ptr()), _mm256_loadu_ps(floats.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn to_array(self, a: [__m256; 2]) -> [f32; 16] {
        bytemuck::cast(a)
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 64]) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { [_mm256_loadu_ps(bytes.as_ptr().cast()), _mm256_loadu_ps(bytes.as_ptr().add(32).cast())] }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe {
            let halves =
                [_mm_loadu_si128(bytes.as_ptr().cast()), _mm_loadu_si128(bytes.as_ptr().add(16).cast())];
            [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
        }
    }

    #[inline(always)]
    fn load_i8(self, codes: &[u8; 16]) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        to_floats(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) })
    }

    #[inline(always)]
    fn load_i4(self, codes: &[u8; 16], upper: bool) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe {
            let levels = _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            // The shift amount depends on `upper`, so that there is no branch. `upper` may be known only at run time.
            let codes = _mm_srl_epi16(codes, _mm_cvtsi32_si128(if upper { 4 } else { 0 }));
            to_floats(_mm_shuffle_epi8(levels, _mm_and_si128(codes, _mm_set1_epi8(15))))
        }
    }

    #[inline(always)]
    fn multiply(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. If an operand is NaN, the instruction
        // returns its second operand, which is `a` here.
        unsafe { [_mm256_max_ps(b[0], a[0]), _mm256_max_ps(b[1], a[1])] }
    }

    #[inline(always)]
    fn multiply_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
}

/// Converts sixteen signed bytes to floats.
#[inline(always)]
fn to_floats(codes: __m128i) -> [__m256; 2] {
    // SAFETY: only methods of [`Vectors`] call this function. A value of this type proves that the processor has the
    // instruction set.
    unsafe {
        let upper = _mm_unpackhi_epi64(codes, codes);
        [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(upper))]
    }
}

impl Tile for Vectors {
    const MAX_ROWS: usize = 6;

    #[inline(always)]
    fn tile<const T: usize>(self, float_type: FloatType, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
        let columns = float_tile::columns(float_type, panel, x);
        let x = x.map(<[f32]>::as_ptr);
        // SAFETY: `self` proves that the processor has the instruction set. `float_tile::columns` has asserted that the
        // panel has `columns` columns of 32 floats and that each row has `columns` floats.
        unsafe {
            match float_type {
                FloatType::F32 => halves_of_tile::<F32, T>(panel.as_ptr(), columns, x),
                FloatType::F16 => halves_of_tile::<F16, T>(panel.as_ptr(), columns, x),
                FloatType::Bf16 => halves_of_tile::<BF16, T>(panel.as_ptr(), columns, x),
            }
        }
    }
}

/// Multiplies a panel with `T` rows of activations. A panel is 32 rows of a matrix, stored column by column. For one
/// row of activations, the code processes all 32 floats of a column at the same time. For more rows, the registers have
/// room for the sums of only half a column. So the two halves are multiplied one after the other.
///
/// # Safety
/// The panel has `columns` columns, and each row of `x` has `columns` floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn halves_of_tile<const FLOAT_TYPE: u8, const T: usize>(
    panel: *const u8,
    columns: usize,
    x: [*const f32; T],
) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0; ROWS]; T];
    // SAFETY: the caller guarantees that the panel has `columns` columns and that every row has `columns` floats.
    unsafe {
        if T == 1 {
            sums = tile::<FLOAT_TYPE, 4, T>(panel, columns, x).map(bytemuck::cast);
        } else {
            let lower = tile::<FLOAT_TYPE, 2, T>(panel, columns, x);
            let upper = tile::<FLOAT_TYPE, 2, T>(panel.add(column_bytes(FLOAT_TYPE) / 2), columns, x);
            for (sums, halves) in sums.iter_mut().zip(lower.into_iter().zip(upper)) {
                *sums = bytemuck::cast([halves.0, halves.1]);
            }
        }
    }
    sums
}

/// Multiplies the first `VECTORS` vectors of each column with `T` rows of activations. The code needs at most twelve
/// accumulators, two vectors of weights and one activation. These are 15 of the 16 registers.
///
/// # Safety
/// The panel has `columns` columns, and each row of `x` has `columns` floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn tile<const FLOAT_TYPE: u8, const VECTORS: usize, const T: usize>(
    panel: *const u8,
    columns: usize,
    x: [*const f32; T],
) -> [[__m256; VECTORS]; T] {
    let column_bytes = const { column_bytes(FLOAT_TYPE) };
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; T];
    for column in 0..columns {
        // SAFETY: the caller guarantees that the panel has `columns` columns and that every row has `columns` floats. A
        // prefetch may have any address.
        unsafe {
            let at = panel.add(column * column_bytes);
            if T == 1 {
                prefetch_codes(at, column_bytes);
            }
            let weights: [__m256; VECTORS] = std::array::from_fn(|vector| match FLOAT_TYPE {
                F32 => _mm256_loadu_ps(at.add(32 * vector).cast()),
                F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.add(16 * vector).cast())),
                _ => {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(16 * vector).cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                }
            });
            for t in 0..T {
                let x = _mm256_broadcast_ss(&*x[t].add(column));
                for vector in 0..VECTORS {
                    sums[t][vector] = _mm256_fmadd_ps(weights[vector], x, sums[t][vector]);
                }
            }
        }
    }
    sums
}
