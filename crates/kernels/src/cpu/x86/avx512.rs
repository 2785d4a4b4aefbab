//! The loops over floats for x86-64 with AVX-512. Every sum adds the same values in the same order as the AVX2 code.

use crate::cpu::codes::{activations, outliers};
use crate::cpu::generic::float_tile::{self, BF16, F16, F32, FloatType, ROWS, Tile, column_bytes};
use crate::cpu::generic::lanes::Lanes;
use crate::cpu::generic::recurrent::{TILE, TileToken};
use crate::cpu::generic::{attention_kernel, loops, recurrent};
use crate::cpu::multiversion::multiversion;
use crate::cpu::prefetch::prefetch_codes;
use crate::view::View;
use std::arch::x86_64::*;

multiversion!("avx2,fma,f16c,avx512f,avx512bw,avx512vl", Vectors);

/// A vector of sixteen floats. A value proves that the processor has AVX-512 F, BW and VL.
#[derive(Clone, Copy)]
struct Vectors(());

impl Vectors {
    /// Returns a value that proves that the processor has the instruction set.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL.
    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }
}

impl Lanes for Vectors {
    type Vector = __m512;
    const FUSED: bool = true;
    const MAX_ROWS: usize = 8;
    const ACCUMULATORS: usize = 16;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load_array(self, floats: &[f32; 16]) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_loadu_ps(floats.as_ptr()) }
    }

    #[inline(always)]
    fn to_array(self, a: __m512) -> [f32; 16] {
        bytemuck::cast(a)
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 64]) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_i8(self, codes: &[u8; 16]) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_i4(self, codes: &[u8; 16], upper: bool) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. The load reads only bytes of the array.
        // The permutation uses only the lower four bits of each index, so the upper four bits need no mask.
        unsafe {
            let levels = _mm512_setr_ps(
                -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0,
            );
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
            let codes = if upper { _mm512_srli_epi32::<4>(codes) } else { codes };
            _mm512_permutexvar_ps(codes, levels)
        }
    }

    #[inline(always)]
    fn multiply(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. If an operand is NaN, the instruction
        // returns its second operand, which is `a` here.
        unsafe { _mm512_max_ps(b, a) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

impl Tile for Vectors {
    const MAX_ROWS: usize = 12;

    #[inline(always)]
    fn tile<const T: usize>(self, float_type: FloatType, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
        let columns = float_tile::columns(float_type, panel, x);
        let x = x.map(<[f32]>::as_ptr);
        // SAFETY: `self` proves that the processor has the instruction set. `float_tile::columns` has asserted that the
        // panel has `columns` columns of 32 floats and that each row has `columns` floats.
        unsafe {
            match float_type {
                FloatType::F32 => tile::<F32, T>(panel.as_ptr(), columns, x),
                FloatType::F16 => tile::<F16, T>(panel.as_ptr(), columns, x),
                FloatType::Bf16 => tile::<BF16, T>(panel.as_ptr(), columns, x),
            }
        }
    }
}

/// Multiplies a panel with `T` rows of activations. A panel is 32 rows of a matrix, stored column by column. The code
/// needs at most 24 accumulators, two vectors of weights and one activation. These are 27 of the 32 registers.
///
/// # Safety
/// The panel has `columns` columns, and each row of `x` has `columns` floats.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn tile<const FLOAT_TYPE: u8, const T: usize>(
    panel: *const u8,
    columns: usize,
    x: [*const f32; T],
) -> [[f32; ROWS]; T] {
    let column_bytes = const { column_bytes(FLOAT_TYPE) };
    let mut sums = [[_mm512_setzero_ps(); 2]; T];
    for column in 0..columns {
        // SAFETY: the caller guarantees that the panel has `columns` columns and that every row has `columns` floats. A
        // prefetch may have any address.
        unsafe {
            let at = panel.add(column * column_bytes);
            if T == 1 {
                prefetch_codes(at, column_bytes);
            }
            let load = |half: usize| match FLOAT_TYPE {
                F32 => _mm512_loadu_ps(at.add(64 * half).cast()),
                F16 => _mm512_cvtph_ps(_mm256_loadu_si256(at.add(32 * half).cast())),
                _ => {
                    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.add(32 * half).cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                }
            };
            let weights = [load(0), load(1)];
            for t in 0..T {
                let x = _mm512_set1_ps(*x[t].add(column));
                sums[t] =
                    [_mm512_fmadd_ps(weights[0], x, sums[t][0]), _mm512_fmadd_ps(weights[1], x, sums[t][1])];
            }
        }
    }
    sums.map(bytemuck::cast)
}
